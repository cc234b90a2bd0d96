"""Two cures of the alignment's shortcut: another study's image as a negative, and positions left out of what is matched."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_batch

from asapkit import objectives
from asapkit.alignment import OPTIONS
from asapkit.config import Config
from asapkit.masking import visible_of
from asapkit.pairing import alone, report_key
from asapkit.recipes import asap
from asapkit.types import Batch
from asapkit.vit3d import patchify, unpatchify

CONFIG = Config.at("toy")
EXCHANGED = {"align_negatives": "exchanged"}


def make(**options) -> asap.Method:
    torch.manual_seed(0)
    return asap.Method(CONFIG, **{"vocabulary": torch.arange(1996, 2600), "dropout": 0.0} | options)


def ordered(batch: Batch, order: list[int]) -> Batch:
    """The same volumes in another order."""
    index = torch.tensor(order)
    fields = {name: value[index] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, ids=tuple(batch.ids[n] for n in order), **fields)


def studies(batch: Batch, names: list[int]) -> Batch:
    """Volumes of equal names get the report of the first of them."""
    first = [names.index(name) for name in names]
    text = [n for n in vars(batch) if n.startswith(("report_", "findings_", "sentence_"))]
    return replace(batch, **{name: getattr(batch, name)[torch.tensor(first)] for name in text})


def align(batch: Batch, **options) -> float:
    return make(**options)(batch)["align"].item()


# --- another study's image as a negative


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.integers(0, 3), min_size=1, max_size=7))
def test_nobody_is_given_an_image_of_the_own_study(names):
    batch = studies(made_batch(CONFIG, volumes=len(names)), names)
    partner, wrong = exchanging().exchange(batch, gather=alone)
    if len(set(names)) == 1:
        assert not wrong.any()
        return
    assert wrong.all() and all(names[p] != names[n] for n, p in enumerate(partner.tolist()))
    if len(set(names)) == len(names):
        assert sorted(partner.tolist()) == list(range(len(names))), "each image once"


@cache
def exchanging():
    return make(**EXCHANGED).alignment


def by_loop(method: asap.Method, batch: Batch, names: list[int]) -> float:
    """The alignment loss, sentence by sentence. `names`: of the studies."""
    alignment, visible = method.alignment, visible_of(batch, CONFIG)
    stem, states, latent = alignment.read(method.encoder, batch.image, visible)[0]
    (patches, _), *_ = alignment.levels(stem, states, latent, visible=visible)
    sentence = alignment.sentences(method.text, batch)
    k = alignment.selector.budget(alignment.selector(sentence)).round().long()
    keys = {name: n for n, name in enumerate(sorted(set(names), key=lambda name: key_of(batch, names.index(name))))}

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    def taken(b, s, image):
        allowed = [True] * CONFIG.visible
        if alignment.organ_gate:
            gate = alignment.gate(batch, visible)
            allowed = [bool((gate[0][image, v] & gate[1][b, s]).any()) for v in range(CONFIG.visible)]
        free = [v for v in range(CONFIG.visible) if allowed[v]] or list(range(CONFIG.visible))
        best = sorted(free, key=lambda v: -cosine(sentence[b, s], patches[image, v]))[: int(k[b, s])]
        return torch.stack([patches[image, v] for v in best]).mean(0)

    reports = []
    for b in range(len(batch)):
        there, terms = batch.sentence_real[b].nonzero().flatten().tolist(), []
        evidence = {s: taken(b, s, b) for s in there}
        following = {number: name for name, number in keys.items()}[(keys[names[b]] + 1) % len(keys)]
        image = names.index(following)
        for s in there:
            same = {t for t in there if t != s and batch.sentence_meaning[b, t] == batch.sentence_meaning[b, s]}
            row = [math.exp(cosine(sentence[b, s], evidence[t]) / 0.07) for t in there if t not in same]
            column = [math.exp(cosine(sentence[b, t], evidence[s]) / 0.07) for t in there if t not in same]
            stated = {int(m) for m, real in zip(batch.sentence_meaning[image], batch.sentence_real[image], strict=True) if real}
            if following != names[b] and int(batch.sentence_meaning[b, s]) not in stated:
                row.append(math.exp(cosine(sentence[b, s], taken(b, s, image)) / 0.07))
            terms.append(math.log(sum(row)) + math.log(sum(column)) - 2 * cosine(sentence[b, s], evidence[s]) / 0.07)
        reports += [sum(terms) / len(terms)] if terms else []
    return sum(reports) / len(reports)


def key_of(batch: Batch, row: int) -> int:
    return int(report_key(batch.report_tokens, batch.report_real)[row])


@pytest.mark.parametrize("options", [{}, {"organ_gate": True}, {"align_from": "stem", "align_positions": "left_out"}])
@pytest.mark.parametrize("names", [[0, 1, 2], [0, 1, 0, 2], [0, 0]])
def test_the_loss_against_a_loop(options, names):
    batch = studies(made_batch(CONFIG, volumes=len(names)), names)
    batch.sentence_meaning[:, 0] = 7  # stated by every report: another image is no negative of it
    batch.sentence_real[1, 3:] = False
    batch.findings_sentence[1][batch.findings_sentence[1] >= 3] = -1
    method = make(**EXCHANGED, prior=0.0, **options)
    with torch.no_grad():
        assert method(batch)["align"].item() == pytest.approx(by_loop(method, batch, names), rel=1e-4)


def test_the_order_of_the_volumes_does_not_matter():
    batch = made_batch(CONFIG, volumes=4)
    whole = align(batch, **EXCHANGED)
    for order in ([0, 2, 3, 1], [3, 2, 1, 0]):
        assert align(ordered(batch, order), **EXCHANGED) == pytest.approx(whole, rel=1e-5)


def test_volumes_of_one_study_alone_have_the_plain_loss_and_another_study_a_larger_one():
    one = studies(made_batch(CONFIG), [0, 0, 0])
    assert align(one, **EXCHANGED) == pytest.approx(align(one), rel=1e-6)
    two = made_batch(CONFIG)
    assert align(two, **EXCHANGED) > align(two) + 1e-3
    two.sentence_meaning[:] = torch.arange(4)
    assert align(two, **EXCHANGED) == pytest.approx(align(two), rel=1e-6), "the others state the same: their images are right"


def test_the_image_of_the_other_study_gets_a_gradient_and_that_of_the_own_none():
    batch = studies(made_batch(CONFIG), [0, 0, 1])
    batch.sentence_real[1:] = False  # one report is aligned: only as a negative does another image count
    batch.image.requires_grad_()
    method = make(**EXCHANGED, prior=0.0)
    method(batch)["align"].backward()
    reached = batch.image.grad.flatten(1).abs().sum(1) > 0
    assert reached.tolist() == [True, False, True]
    assert method.alignment.image.dense_to_hidden.weight.grad.abs().sum() > 0 and method.alignment.text.dense_to_hidden.weight.grad.abs().sum() > 0


def test_reports_that_point_to_one_place_in_every_patient_are_no_longer_without_loss():
    """The shortcut itself: where every image gives the same features, the paper's form can reach zero, and this one cannot fall below a coin's."""
    sentence = torch.eye(4).expand(3, 4, 4)
    real = torch.ones(3, 4, dtype=torch.bool)
    assert objectives.align_in_report(sentence, sentence, real).item() < 1e-4
    assert objectives.align_in_report(sentence, sentence, real, other=sentence, wrong=real).item() > math.log(2) - 1e-4


# --- positions left out


def shuffled(batch: Batch, order: torch.Tensor) -> Batch:
    """Every volume's patches in another order, with all that is known of them."""
    patches = patchify(batch.image, CONFIG.patch)[:, order]
    moved = {name: getattr(batch, name)[:, order] for name in ("patch_order", "in_body", "organs")}
    return replace(batch, image=unpatchify(patches, CONFIG.grid, CONFIG.patch), **moved)


ORDER = torch.randperm(CONFIG.patches, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("align_from", OPTIONS["align_from"])
def test_without_positions_features_go_where_their_patches_go(align_from):
    batch = made_batch(CONFIG)
    for positions, same in (("left_out", True), ("kept", False)):
        method = make(align_from=align_from, align_positions=positions).eval()
        here, there = method.aligned(batch.image), method.aligned(shuffled(batch, ORDER).image)
        assert torch.allclose(here[:, ORDER], there, atol=1e-4) == same, positions


@pytest.mark.parametrize("options", [{}, {"align_from": "early"}, {"align_from": "stem_and_last", "align_on": "all"}, {"align_over": "batch"}])
@pytest.mark.slow
def test_without_positions_the_loss_does_not_know_where_patches_lie(options):
    batch = made_batch(CONFIG)
    moved = shuffled(batch, ORDER)
    known = abs(align(batch, **options) - align(moved, **options))
    unknown = abs(align(batch, align_positions="left_out", **options) - align(moved, align_positions="left_out", **options))
    assert unknown < 1e-4 < known


def test_without_positions_the_stem_is_aligned_as_it_was_embedded_and_the_rest_keeps_them():
    batch, method = made_batch(CONFIG), make(align_from="stem", align_positions="left_out").eval()
    patches = patchify(batch.image, CONFIG.patch)
    embedded = method.encoder.embed(patches) + (0 if method.encoder.stem is None else method.encoder.stem(patches))
    assert torch.allclose(method.aligned(batch.image), method.alignment.image(embedded), atol=1e-5)
    kept, left_out = (make(align_positions=p)(batch) for p in OPTIONS["align_positions"])
    assert kept["reconstruct"].item() == left_out["reconstruct"].item() and kept["align"].item() != left_out["align"].item()


# --- both


def test_neither_adds_a_key_to_a_checkpoint():
    plain, cured = make(), make(**EXCHANGED, align_positions="left_out")
    assert list(plain.state_dict()) == list(cured.state_dict())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"align_negatives": "all"}, "align_negatives 'all': there are own, exchanged"),
        ({"align_positions": "none"}, "align_positions 'none': there are kept, left_out"),
        ({"align_negatives": "exchanged", "align_over": "batch"}, "'exchanged' needs align_over 'report'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(options, says):
    with pytest.raises(ValueError, match=says) as error:
        make(**options)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="needs positions: position_scale 0"):
        asap.Method(Config.at("toy", position_scale=0.0), align_positions="left_out")
