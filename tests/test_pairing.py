"""Volumes and reports in one space: what counts as one report, and what the contrast of a batch is."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_batch

from asapkit import checkpoint
from asapkit.config import Config
from asapkit.pairing import Pair, moment_kernel, moments, report_key, same_report, shown_reports

TOY = Config.at("toy")


def test_a_report_has_one_key_whatever_its_padding_and_another_has_another():
    tokens = torch.randint(1000, 30000, (400, 40), generator=torch.Generator().manual_seed(0))
    real = torch.arange(40) < torch.randint(3, 41, (400, 1), generator=torch.Generator().manual_seed(1))
    keys = report_key(tokens, real)
    assert len(set(keys.tolist())) == 400
    longer = torch.nn.functional.pad(tokens.masked_fill(~real, 7), (0, 5), value=9)
    assert torch.equal(report_key(longer, torch.nn.functional.pad(real, (0, 5))), keys)
    swapped = tokens.clone()
    swapped[:, [0, 1]] = tokens[:, [1, 0]]
    assert (report_key(swapped, real)[tokens[:, 0] != tokens[:, 1]] != keys[tokens[:, 0] != tokens[:, 1]]).all()


def test_same_report_is_by_text():
    batch = made_batch(TOY, volumes=3)
    batch.report_tokens[2] = batch.report_tokens[0]
    assert same_report(batch.report_tokens, batch.report_real).int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(st.integers(-4, 4), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_an_exchanged_volume_gets_the_next_other_report_and_never_its_own_text_as_a_mismatch(keys, seed):
    joined = torch.tensor(keys)
    exchanged = torch.rand(len(keys), generator=torch.Generator().manual_seed(seed)) < 0.5
    which, own = shown_reports(joined, joined, exchanged)
    for n, key in enumerate(keys):
        others = sorted({k for k in keys if k != key}, key=lambda k: (k < key, k))
        wanted = others[0] if exchanged[n] and others else key
        assert keys[which[n]] == wanted and bool(own[n]) == (wanted == key)
    half = len(keys) // 2  # a rank that holds some of the volumes, with the ranks joined in another order
    there, whose = shown_reports(joined[half:], joined.roll(1), exchanged[half:])
    assert torch.equal(joined.roll(1)[there], joined[which][half:]) and torch.equal(whose, own[half:])


def test_products_are_cosines_times_the_scale_plus_the_bias():
    torch.manual_seed(0)
    batch, v = made_batch(TOY, volumes=3), torch.randn(3, TOY.width)
    text = batch.report_tokens, batch.report_real
    pair = Pair(TOY, scale=10.0, bias=-10.0)
    logits, t = pair.logits(*pair(v, *text)), pair.text(*text)[:, 0]
    for i in range(3):
        for j in range(3):
            a, b = pair.volume(v[i]), pair.report(t[j])
            assert logits[i, j].item() == pytest.approx((10 * a @ b / (a.norm() * b.norm()) - 10).item(), rel=1e-4)
    raw = Pair(TOY, scale=None, normalise=False)
    assert torch.allclose(raw.logits(*raw(v, *text)), raw.volume(v) @ raw.report(t).T, atol=1e-4)
    with pytest.raises(ValueError, match="above 0"):
        Pair(TOY, scale=0)


@pytest.mark.parametrize("recipe", ["ct_clip", "m3d_clip", "merlin", "sup_clip"])
def test_exchanging_images_changes_the_contrast_and_one_report_is_no_negative_of_itself(recipe):
    torch.manual_seed(0)
    method, batch = checkpoint.make_method(recipe, TOY, {}), made_batch(TOY, volumes=3)
    exchanged = replace(batch, image=batch.image.roll(1, 0))
    assert abs(method(batch)["contrast"].item() - method(exchanged)["contrast"].item()) > 1e-4
    volume, report = method.embed(batch)
    assert volume.shape == report.shape == (3, TOY.align_width)
    twins = batch[:1]
    twins = replace(twins, **{name: torch.cat([getattr(twins, name)] * 2) for name in vars(twins) if torch.is_tensor(getattr(twins, name))})
    assert method(replace(twins, ids=("a", "b")))["contrast"].item() == pytest.approx(0, abs=1e-6)


def test_moments_against_a_loop_and_their_kernel_knows_no_unit():
    share = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share, centres = share / share.sum(1, keepdim=True), torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean, covariance = moments(share, centres)
    for b in range(4):
        at = sum(share[b, n] * centres[n] for n in range(6))
        spread = sum(share[b, n] * torch.outer(centres[n] - at, centres[n] - at) for n in range(6))
        assert torch.allclose(mean[b], at) and torch.allclose(covariance[b], spread)
    kernel = moment_kernel(mean, covariance)
    assert torch.allclose(kernel.diagonal(), torch.ones(4, dtype=torch.float64)) and torch.allclose(kernel, kernel.T) and kernel.min() > 0
    assert torch.allclose(moment_kernel(*moments(share, 28 * centres + 100)), kernel)
    assert moment_kernel(mean[:1], covariance[:1]).item() == 1
    closer = moment_kernel(torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]), torch.zeros(3, 3, 3))
    assert closer[0, 1] > closer[1, 2] > closer[0, 2]


def test_alike_studies_are_pushed_apart_less_by_soft_targets_and_more_as_negatives():
    torch.manual_seed(0)
    batch = made_batch(TOY, volumes=3)
    losses = {}
    for mode in ("soft_target", "official"):
        method = checkpoint.make_method("scale_vlp", TOY, {"mode": mode})
        seen = {}
        method.pair.logits = lambda v, t, seen=seen: seen.setdefault("logits", torch.zeros(3, 3, requires_grad=True))
        method.likeness = lambda *_: torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.5], [0.9, 0.5, 1.0]])
        losses[mode] = method(batch)["contrast"]
        losses[mode].backward()
        push = seen["logits"].grad
        assert (push[0, 2] > push[0, 1]) == (mode == "official") and push[0, 0] < 0
    assert losses["soft_target"].item() == pytest.approx(3 * math.log(2))


def test_raw_dot_products_are_the_plain_cross_entropy_of_both_directions():
    torch.manual_seed(0)
    method, batch = checkpoint.make_method("sup_clip", TOY, {}), made_batch(TOY, volumes=3)
    v = method.pair.volume(method.encoder.tokens(batch.image).mean(1))
    t = method.pair.report(method.pair.text(batch.report_tokens, batch.report_real)[:, 0])
    right = torch.arange(3)
    expected = (torch.nn.functional.cross_entropy(v @ t.T, right) + torch.nn.functional.cross_entropy(t @ v.T, right)) / 2
    assert method(batch)["contrast"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert method.pair.scale is None and checkpoint.make_method("sup_clip", TOY, {"normalise": True}).pair.scale is not None
