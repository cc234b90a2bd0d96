"""Zero-shot scores: against a loop over statements, blind to labels, and finding what a method sees."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from made import made_batch
from memory import CONFIG, Bright, MemoryStore

from asapkit import checkpoint, metrics, prompts, scores, store
from asapkit.__main__ import main
from asapkit.batch import pad, tokenised
from asapkit.features import batches, training_rows
from asapkit.language import tokenizer
from asapkit.tasks import zeroshot
from asapkit.train import recipe_module, recipes
from asapkit.types import FINDINGS, Refused

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

ABLE = [name for name in recipes() if hasattr(recipe_module(name).Method, "feature")]


def made(recipe: str = "ct_clip"):
    torch.manual_seed(0)
    return checkpoint.make_method(recipe, CONFIG, {}).eval()


class Words(torch.nn.Module):
    """In the place of `Pair`: [how much for, how much against] of a text that denies or does not; a volume is what it is."""

    def __init__(self, sign: int):
        super().__init__()
        self.sign = sign

    def embed_text(self, tokens, real):
        said = [tokenizer("minilm").decode(row[keep]) for row, keep in zip(tokens, real, strict=True)]
        return torch.tensor([[float("not" in s or " no " in s), float("not" not in s and " no " not in s)] for s in said])

    def embed_volume(self, feature):
        return torch.stack([-self.sign * feature, self.sign * feature], dim=1)


class Seer(torch.nn.Module):
    """Sees how bright the brightest patch is."""

    def __init__(self, sign: int = 1):
        super().__init__()
        self.encoder, self.pair, self.config = Bright(), Words(sign), CONFIG

    def feature(self, image):
        return self.encoder.tokens(image)[..., 0].amax(1)


@pytest.fixture(scope="module")
def held() -> MemoryStore:
    return MemoryStore(patients=24)


@pytest.mark.parametrize("name", ["ct-clip-v1", "there-is-v1", "asap-v1", "fvlm-v1", "hlip-v1", "compatible-v1", "ensemble-v1"])
def test_a_method_that_sees_the_lesion_finds_it_with_any_wording(held, name):
    seer = Seer()
    table = zeroshot.score(seer, zeroshot.fit(seer, held, prompts=name), held, progress=False).set_index("finding")
    assert table.loc["Lung nodule", "auroc"] == 1 and table.loc["Lung nodule", "positives"] == 4
    assert table.loc["Lung nodule", "studies"] == (~training_rows(held.table)).sum() / 2
    left = [f for f in FINDINGS if np.isnan(table.loc[f, "auroc"])]
    assert set(left) == {"Hiatal hernia", *prompts.statements(name).without}
    assert table.loc["Hiatal hernia", "note"] == "no positive among the scored" and (table["prompts"] == name).all()
    assert all(f"not in {name}" == table.loc[f, "note"] for f in prompts.statements(name).without)
    assert table.loc["macro", "auroc"] == 1


def test_exchanged_statements_are_pointed_at(held):
    seer = Seer(sign=-1)
    table = zeroshot.score(seer, zeroshot.fit(seer, held), held, progress=False).set_index("finding")
    assert table.loc["Lung nodule", "auroc"] == 0 and "exchanged" in table.loc["Lung nodule", "note"]


@pytest.mark.parametrize("recipe", ABLE)
def test_scores_are_those_of_a_loop_over_statements(held, recipe):
    method, name = made(recipe), "ensemble-v1"
    head, here = zeroshot.head(method, name), zeroshot.embed(method, held, progress=False)
    ids = here.ids[:3]
    images = torch.cat([image for image, _ in batches(held, ids, patch=CONFIG.patch)])
    said, kind = prompts.statements(name), getattr(method, "reads", "report")

    def product(text: str) -> torch.Tensor:
        tokens = tokenised(text, "", CONFIG.text_encoder, CONFIG.max_tokens)[f"{kind}_tokens"]
        rows = torch.from_numpy(tokens)[None].expand(3, -1)
        volume, report = method.pair(method.feature(images), rows, torch.ones_like(rows, dtype=torch.bool))
        return (volume * report).sum(1)

    with torch.inference_mode():
        for f in (0, 9):
            yes, no = said.of(FINDINGS[f])
            wanted = sum(product(t) for t in yes) / len(yes) - sum(product(t) for t in no) / len(no)
            np.testing.assert_allclose(head(here.volumes[:3])[:, f], wanted, atol=1e-5)


@pytest.mark.parametrize("recipe", ABLE)
def test_volume_and_text_apart_are_what_embed_gives_together(recipe):
    method, batch = made(recipe), made_batch(CONFIG)
    kind = getattr(method, "reads", "report")
    with torch.inference_mode():
        volume, report = method.embed(batch)
        assert torch.allclose(method.pair.embed_volume(method.feature(batch.image)), volume, atol=1e-6)
        apart = method.pair.embed_text(getattr(batch, f"{kind}_tokens"), getattr(batch, f"{kind}_real"))
        assert torch.allclose(apart, report, atol=1e-6)


def test_the_recipes_that_contrast_are_able():
    """Whatever embeds volumes beside reports does so apart, too; but for those that part both by organ."""
    by_organ = {"fvlm", "visd_boost"}
    assert set(ABLE) == {name for name in recipes() if hasattr(recipe_module(name).Method, "embed")} - by_organ
    assert set(ABLE) >= {"ct_clip", "hlip", "scale_vlp", "sup_clip"}


def test_a_statement_does_not_depend_on_its_neighbours():
    method = made()
    alone = [tokenised(t, "", CONFIG.text_encoder, CONFIG.max_tokens)["findings_tokens"] for t in ("Emphysema.", "")]
    both = pad(alone)
    real = pad([np.ones(len(row), bool) for row in alone])
    with torch.inference_mode():
        together = method.pair.embed_text(both, real)
        for row, tokens in enumerate(alone):
            one = torch.from_numpy(tokens)[None]
            assert torch.allclose(method.pair.embed_text(one, torch.ones_like(one, dtype=torch.bool))[0], together[row], atol=1e-5)


def test_labels_are_used_to_score_only_and_studies_average_their_volumes(held):
    seer = Seer()
    head, here = zeroshot.fit(seer, held), zeroshot.embed(seer, held, progress=False)
    rows = held.table.loc[list(here.ids)]
    assert (rows["split"] == "valid").all()
    by_volume = head(here.volumes)[:, 9]
    study = {s: by_volume[(rows["study"] == s).to_numpy()].mean() for s in rows["study"].unique()}
    labels = np.array([rows.loc[rows["study"] == s, "Lung nodule"].iloc[0] for s in study])
    table = zeroshot.score(here, head, held, draws=20).set_index("finding")
    assert table.loc["Lung nodule", "auroc"] == metrics.auroc(np.array(list(study.values())), labels)
    bare = MemoryStore(patients=24)
    bare.table = bare.table.drop(columns=["Emphysema"])
    assert np.allclose(zeroshot.fit(seer, bare).directions, head.directions)
    with pytest.raises(Refused, match="Emphysema"):
        zeroshot.embed(seer, bare, progress=False)


def test_wordings_are_compared_on_volumes_embedded_once(held):
    seer, once = Seer(), Seer()
    zeroshot.embed(once, held, progress=False)
    table = zeroshot.compare(seer, held, draws=20, progress=False)
    assert set(table["prompts"]) == set(prompts.known()) and (table["finding"] == "macro").sum() == len(prompts.known())
    assert seer.encoder.calls == once.encoder.calls


def test_what_embeds_no_text_is_refused(held):
    with pytest.raises(Refused, match="volumes and texts in one space"):
        zeroshot.fit(checkpoint.make_method("mae", CONFIG, {}), held)
    with pytest.raises(Refused, match="volumes and texts in one space"):
        zeroshot.fit(checkpoint.make_method("fvlm", CONFIG, {}), held)
    with pytest.raises(ValueError, match="unknown prompt set 'x'; there are asap-v1"):
        zeroshot.fit(Seer(), held, prompts="x")


def test_a_run_is_scored_by_the_command_with_a_set_of_ones_own(toy_store, tmp_path, capsys):
    from asapkit import train
    from asapkit.config import Config

    run = tmp_path / "run"
    train.pretrain(store.open(toy_store), run, recipe="sup_clip", config=Config.at("toy", steps=1, batch_size=2), progress=False)
    (tmp_path / "mine-v1.json").write_text(json.dumps({"source": "mine", "positive": ["{} seen."], "negative": [""]}))
    asked = ["evaluate", str(run), str(toy_store), "--tasks", "zeroshot", "--out", str(tmp_path / "out")]
    assert main([*asked, "--prompts", str(tmp_path / "mine-v1.json")]) == 0
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(table["task"]) == {"zeroshot"} and set(table["prompts"]) == {"mine-v1"} and set(table["finding"]) == {"macro", *FINDINGS}
    capsys.readouterr()
    assert main([*asked, "--prompts", "magic"]) == 1
    assert "unknown prompt set 'magic'; there are asap-v1, compatible-v1, ct-clip-v1" in capsys.readouterr().err
    assert "zeroshot" in scores.known_tasks()
