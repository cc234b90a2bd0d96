"""Features of a store: the pooling, the cache and what it depends on, the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from memory import CONFIG, Bright, MemoryStore

from asapkit.batch import AIR, patch_means, scale_hu
from asapkit.config import Config
from asapkit.features import extract, fingerprint, training_rows, weights_hash
from asapkit.types import Refused


@pytest.fixture(scope="module")
def store():
    return MemoryStore()


def test_pooling_is_mean_and_maximum_over_body_patches_counted_by_hand(store):
    found = extract(Bright(), store, tokens=True, batch_size=5, progress=False)
    assert found.ids == tuple(store.ids)
    for n, id in enumerate(found.ids[:4]):
        image = scale_hu(store.cropped(id)[0], CONFIG.window_hu)
        kept = [i for i, mean in enumerate(patch_means(image, CONFIG.patch)) if mean > AIR]
        assert 0 < len(kept) < CONFIG.patches
        tokens = Bright().tokens(torch.from_numpy(image)[None, None])[0].detach().numpy()
        np.testing.assert_allclose(found.pooled[n], np.r_[tokens[kept].mean(0), tokens[kept].max(0)], rtol=1e-5)
        np.testing.assert_allclose(found.tokens[n], tokens, atol=2e-3)
        assert found.in_body[n].sum() == len(kept)


def test_the_batch_size_changes_nothing(store):
    one, many = (extract(Bright(), store, batch_size=b, progress=False).pooled for b in (1, 7))
    np.testing.assert_allclose(one, many, rtol=1e-6)


def test_a_second_call_reads_the_file(store, tmp_path):
    encoder = Bright()
    first = extract(encoder, store, out=tmp_path, progress=False)
    calls = encoder.calls
    again = extract(encoder, store, out=tmp_path, progress=False)
    assert encoder.calls == calls
    assert again.ids == first.ids
    np.testing.assert_array_equal(again.pooled, first.pooled)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_depends_on_weights_layer_volumes_and_their_content(store):
    ids, encoder = store.ids, Bright()
    keys = {
        fingerprint(encoder, store, ids, "last"),
        fingerprint(Bright(weight=1.0001), store, ids, "last"),
        fingerprint(encoder, store, ids, 1),
        fingerprint(encoder, store, ids[:-1], "last"),
        fingerprint(encoder, MemoryStore(seed=1), ids, "last"),
    }
    assert len(keys) == 5
    assert weights_hash(Bright()) == weights_hash(Bright())


def test_a_layer_can_be_chosen(store):
    last = extract(Bright(), store, progress=False).pooled
    np.testing.assert_allclose(extract(Bright(), store, layer=1, progress=False).pooled, 3 * last, rtol=1e-6)


def test_another_contract_is_refused_and_named(store):
    with pytest.raises(Refused, match="window_hu"):
        extract(Bright(Config.at("toy", window_hu=(-1000.0, 400.0))), store, progress=False)


def test_an_encoder_of_text_is_refused(store):
    encoder = Bright()
    encoder.contract = None
    with pytest.raises(Refused, match="encodes text, not volumes"):
        extract(encoder, store, progress=False)


def test_no_volume_is_refused(store):
    with pytest.raises(Refused, match="no volume"):
        extract(Bright(), store, ids=[], progress=False)


def test_training_is_put_back_as_it_was(store):
    encoder = Bright().train()
    extract(encoder, store, ids=store.ids[:1], progress=False)
    assert encoder.training


def test_patients_of_both_splits_are_refused(store):
    rows = store.table.copy()
    assert training_rows(rows).sum() == (rows["split"] == "train").sum()
    rows.loc[rows["patient"] == "p0", "split"] = ["train", "valid"]
    with pytest.raises(Refused, match="p0"):
        training_rows(rows)


def test_one_split_is_parted_by_patients(store):
    rows = store.table.assign(split="train")
    train = training_rows(rows)
    assert 0 < train.sum() < len(rows)
    assert not set(rows["patient"][train]) & set(rows["patient"][~train])


class Spoilt(Bright):
    """Gives NaN for the volume it sees as number `bad`."""

    def __init__(self, bad: int):
        super().__init__()
        self.bad, self.seen = bad, 0

    def tokens(self, image):
        tokens = super().tokens(image)
        place = torch.arange(self.seen, self.seen + len(image))
        self.seen += len(image)
        return torch.where((place == self.bad)[:, None, None], torch.nan, tokens)


@pytest.mark.parametrize("bad", [0, 8])
def test_features_that_are_no_numbers_are_refused_and_the_volume_is_named(store, tmp_path, bad):
    with pytest.raises(Refused, match=f"^{store.ids[bad]}: .*not finite"):
        extract(Spoilt(bad), store, batch_size=3, out=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
