"""Store -> Batch: nothing of the truth, every draw from the volume's own stream, the same crop for image and organs, texts padded."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from made import made_batch

from asapkit import batch, reports, store
from asapkit.config import Config
from asapkit.language import token_ids, tokenizer
from asapkit.types import ORGANS, Batch, Refused

TOY = Config.at("toy")


@pytest.fixture(scope="module")
def held(toy_store):
    return store.open(toy_store)


def test_truth_never_enters_a_batch(held, monkeypatch):
    """Reading any truth while a batch is made is an error, and no field is named after it."""
    read = store.Store.layer

    def guarded(self, id, name):
        assert name != "truth", "a batch asked for the truth"
        return read(self, id, name)

    monkeypatch.setattr(store.Store, "layer", guarded)
    for forbidden in ("truth", "instances", "sentences", "truth_share", "cropped"):
        monkeypatch.setattr(store.Store, forbidden, property(lambda self: pytest.fail("a batch asked for the truth")), raising=False)
    batch.Items(held, TOY).batch(held.ids[:4])
    assert not [f.name for f in fields(Batch) if "truth" in f.name or "instance" in f.name]


def test_every_draw_comes_from_the_volume_and_the_epoch(held):
    items = batch.Items(held, TOY)
    alone, others = items.batch([held.ids[3]], epoch=2), items.batch([held.ids[0], held.ids[3]], epoch=2)
    assert torch.equal(alone.image[0], others.image[1]) and torch.equal(alone.patch_order[0], others.patch_order[1])
    words = int(alone.report_real[0].sum())
    assert torch.equal(alone.report_order[0, :words], others.report_order[1, :words])
    later, other_seed = items.batch([held.ids[3]], epoch=3), batch.Items(held, replace(TOY, seed=1)).batch([held.ids[3]], epoch=2)
    assert not torch.equal(alone.patch_order, later.patch_order) and not torch.equal(alone.patch_order, other_seed.patch_order)


def test_image_and_organs_get_the_same_crop(held, monkeypatch):
    """With the organ labels put in the place of the CT, the share of each patch seen in the image is the share in `organs`."""
    read = store.Store.layer

    def labels_as_ct(self, id, name):
        array = read(self, id, "organs")[:]
        return array if name == "organs" else np.where(array == 6, 1000, -1000).astype(np.int16)

    monkeypatch.setattr(store.Store, "layer", labels_as_ct)
    items = batch.Items(held, TOY, augment=True)
    items.config = replace(TOY, seed=5)
    one = items.batch(held.ids[:3], epoch=1)
    from asapkit.vit3d import patchify

    seen = (patchify(one.image, TOY.patch) > 0).float().mean(-1)
    assert torch.allclose(seen, one.organs[..., ORGANS.index("heart")], atol=1e-6)


def test_values_are_scaled_and_patches_of_air_are_told_from_the_body(held):
    one = batch.Items(held, TOY, augment=False).batch(held.ids[:2])
    crop, _ = held.cropped(held.ids[0])
    assert np.allclose(one.image[0, 0].numpy(), crop / 1000, atol=1e-6)
    assert one.image.abs().max() <= 1 and 0.3 < one.in_body.float().mean() <= 1
    assert batch.scale_hu(np.array([-2000, -1000, 0, 1000, 3000]), (-1000, 1000)).tolist() == [-1, -1, 0, 1, 1]


def test_tokens_sentences_and_meanings(held):
    ids = held.ids[:3]
    one = batch.Items(held, TOY).batch(ids)
    for b, id in enumerate(ids):
        said = reports.split(held.table.at[id, "findings"])
        kept = int(one.sentence_real[b].sum())
        assert 0 < kept <= len(said)
        for s in range(kept):
            tokens = one.findings_tokens[b][one.findings_sentence[b] == s].tolist()
            assert tokens == token_ids([said[s]], TOY.text_encoder)[0]
            assert bool(one.sentence_positive[b, s]) == (reports.polarity(said[s]) == "positive")
            named = reports.organs_named(said[s])
            assert one.sentence_organs[b, s].tolist() == [not named or organ in named for organ in ORGANS]
        assert (one.findings_sentence[b][~one.findings_real[b]] == -1).all()
    meaning = {}
    for b, id in enumerate(ids):
        for s, text in enumerate(reports.split(held.table.at[id, "findings"])[: int(one.sentence_real[b].sum())]):
            meaning.setdefault(reports.meaning(text), set()).add(int(one.sentence_meaning[b, s]))
    assert all(len(numbers) == 1 for numbers in meaning.values())
    assert len(set.union(*meaning.values())) == len(meaning)
    for b, id in enumerate(ids):  # another rank's batch, with other sentences beside them, gives the same numbers
        own = batch.Items(held, TOY).batch([id]).sentence_meaning[0]
        assert torch.equal(own, one.sentence_meaning[b, : len(own)]) and (own >= 0).all()


def test_sentences_beyond_the_limit_are_left_out(held):
    config = replace(TOY, max_sentences=2)
    one = batch.Items(held, config).batch(held.ids[:3])
    assert one.sentence_real.shape[1] == 2 and one.findings_sentence.max() <= 1


def test_a_store_of_another_contract_is_refused_naming_the_field(held):
    with pytest.raises(Refused, match=r"made under another contract: spacing_mm \(6.0, 6.0, 12.0\) instead of \(5.0, 6.0, 12.0\)"):
        batch.Items(held, Config.at("toy", spacing_mm=(5.0, 6.0, 12.0)))


def test_a_random_box_keeps_its_share_and_stays_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        for part, n, c in zip(batch.random_box((70, 30, 26), (60, 48, 24), rng), (70, 30, 26), (60, 48, 24), strict=True):
            assert 0 <= part.start < part.stop <= n
            assert round(0.9 * min(n, c)) - 1 <= part.stop - part.start <= c


def test_a_slice_of_a_batch_is_a_batch(held):
    whole = batch.Items(held, TOY).batch(held.ids[:3])
    part = whole[1:2]
    assert part.ids == (held.ids[1],) and torch.equal(part.image[0], whole.image[1]) and len(part) == 1


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    """Page-locked memory needs a card: what is asked of every tensor is what counts here."""
    batch, pinned = made_batch(Config.at("toy")), []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    again = batch.pin_memory()
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(pinned) == len(tensors) > 10 and again.ids == batch.ids


@pytest.mark.parametrize("limit", [512, 12])
@pytest.mark.parametrize(
    "findings", ["", "Heart size is normal. Nodule of 5.5 mm; café, 左肺 [MASK] [SEP] and a verylongunbrokenword.", "Trachea is open. " * 90]
)
def test_tokens_of_a_report_are_those_of_the_library_called_as_a_whole(findings, limit):
    found = batch.tokenised(findings, "Nodule.", "minilm", limit)
    words = tokenizer("minilm")
    whole = words(reports.join(findings, "Nodule."), truncation=True, max_length=limit)["input_ids"]
    assert found["report_tokens"].tolist() == whole and len(whole) <= limit
    assert found["report_special"].tolist() == [i in (words.cls_token_id, words.sep_token_id) for i in whole]
    words(["a call with a limit"], truncation=True, max_length=3)  # leaves the tokenizer limited
    assert len(token_ids(["heart " * 20], "minilm")[0]) == 20
