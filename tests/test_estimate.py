"""Counted operations are those of the real step; an estimate scales as it must."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from asapkit import estimate
from asapkit.config import Config
from asapkit.train import recipes

CONFIG = Config.at("toy")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, options", [(r, {}) for r in recipes()] + [("asap", {"fidelity": "official"}), ("asap", {"align_over": "batch", "align_from": "stem"})]
)
def test_what_is_counted_is_what_a_step_computes(recipe, options):
    torch.manual_seed(0)
    method, batch = estimate.counted_method(recipe, CONFIG, options), estimate.example(CONFIG, volumes=2, words=90, findings=70, sentences=5)
    counted = estimate.count(method, batch)
    with FlopCounterMode(display=False) as real, sdpa_kernel(SDPBackend.MATH):
        sum(method(batch).values()).backward()
    assert counted.flops == real.get_total_flops()
    assert counted.kept > batch.image.nbytes


def test_counting_leaves_weights_and_gradients_alone():
    method = estimate.counted_method("mae", CONFIG, {})
    before = {name: value.clone() for name, value in method.state_dict().items()}
    estimate.count(method, estimate.example(CONFIG))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(p.grad is None for p in method.parameters())


def test_half_precision_keeps_less():
    method = estimate.counted_method("mae", CONFIG, {})
    whole, half = (estimate.count(method, estimate.example(CONFIG, volumes=8), precision=p) for p in ("fp32", "bf16"))
    assert half.flops == whole.flops
    assert half.kept < whole.kept


def test_a_training_takes_operations_over_rate():
    one = estimate.training("mae", CONFIG, volumes=1000, epochs=10, tflops=2.0)
    assert one.hours == pytest.approx(1000 * 10 * one.tflop / 2.0 / 3600)
    assert one.volumes_per_second == pytest.approx(2.0 / one.tflop)
    four = estimate.training("mae", CONFIG, volumes=1000, epochs=10, tflops=2.0, gpus=4)
    assert four.hours == pytest.approx(one.hours / 4)
    assert four.batch == 1
    assert four.memory_gib < one.memory_gib
    assert four.store_gib == one.store_gib > 0


def test_without_a_rate_this_machine_is_measured(monkeypatch):
    monkeypatch.setattr(estimate, "matmul_rate", lambda **_: 4e12)
    found = estimate.training("mae", CONFIG, volumes=1, epochs=1)
    assert found.rate == 4e12 * estimate.REACHED
    assert "of what this machine's matrix products reach" in str(found)


def test_a_rate_is_measured():
    assert 1e8 < estimate.matmul_rate(seconds=0.05) < 1e15


@pytest.mark.parametrize("wrong", [{"volumes": 0}, {"epochs": -1}, {"gpus": 0}, {"tflops": 0.0}])
def test_numbers_must_be_positive(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*above 0"):
        estimate.training("mae", CONFIG, **({"volumes": 1, "epochs": 1} | wrong))


@pytest.mark.slow
def test_a_step_of_the_paper_s_size_stays_within_what_was_promised():
    """A report of 310 tokens, a text encoder of the paper's size: 1,380 GFLOP, and 1,330 where the findings are remembered."""
    method = estimate.counted_method("asap", Config.at("base", text_encoder="cxr-bert"), {"text_memory": True})
    batch = estimate.example(method.config)
    assert estimate.count(method, batch).flops <= 1380e9
    assert estimate.count(method, batch).flops <= 1330e9


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ct_clip", "fvlm", "m3ae"])
def test_a_text_encoder_of_the_paper_s_size_is_counted_in_every_recipe(recipe):
    small = estimate.counted_method(recipe, Config.at("toy"), {})
    large = estimate.counted_method(recipe, Config.at("toy", text_encoder="cxr-bert"), {})
    batch = estimate.example(small.config, words=60, findings=50, sentences=5)
    flops = [estimate.count(method, batch).flops for method in (small, large)]
    assert flops[1] > 4 * flops[0]


def test_devices_that_cannot_share_a_batch_evenly_are_told_one_that_they_can():
    found = estimate.training("mae", CONFIG, volumes=10, epochs=1, tflops=1.0, gpus=3)
    assert found.batch == 2 and "for 3 devices: --set batch_size=6 (it is 4)" in str(found)
    assert "note" not in str(estimate.training("mae", CONFIG, volumes=10, epochs=1, tflops=1.0, gpus=2))
    with pytest.raises(ValueError, match="tflops inf"):
        estimate.training("mae", CONFIG, volumes=10, epochs=1, tflops=float("inf"))


def test_the_text_encoder_that_was_counted_is_named_where_one_is_read():
    said = [str(estimate.training(recipe, CONFIG, volumes=10, epochs=1, tflops=1.0)) for recipe in ("asap", "mae")]
    assert "text encoder minilm" in said[0] and "text encoder" not in said[1]
