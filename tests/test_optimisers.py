"""Every trained parameter is stepped by exactly one optimiser; two that step as one keep their states, and a resume knows no difference."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from made import made_batch

from asapkit import checkpoint, store, train
from asapkit.config import Config
from asapkit.optimisers import Together, make_optimizer

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy", steps=4, batch_size=4)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("recipe", train.recipes())
def test_every_trained_parameter_is_in_exactly_one_group(recipe, kind):
    method = checkpoint.make_method(recipe, TOY, {}, **({"vocabulary": torch.arange(1996, 2600)} if recipe == "asap" else {}))
    optimizer = make_optimizer(method, replace(TOY, optimiser=kind))
    stepped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_muon_steps_the_matrices_of_the_tower_and_adamw_the_rest():
    method = checkpoint.make_method("sigvlp", TOY, {})
    optimizer = make_optimizer(method, TOY)
    assert set(optimizer.parts) == {"muon", "adamw"}
    names = {id(p): name for name, p in method.named_parameters()}
    by_muon = {names[id(p)] for group in optimizer.parts["muon"].param_groups for p in group["params"]}
    matrices = {name for name, p in method.named_parameters() if p.requires_grad and p.ndim == 2}
    assert by_muon == matrices - {"pair.volume.weight", "pair.report.weight"} and len(by_muon) == 1 + 4 * TOY.depth + 5
    plain = make_optimizer(checkpoint.make_method("sigvlp", TOY, {}), replace(TOY, optimiser="adamw"))
    assert isinstance(plain, torch.optim.AdamW)
    with pytest.raises(ValueError, match="unknown optimiser 'sgd'; there are recipe, adamw, muon"):
        Config.at("toy", optimiser="sgd")


def test_a_step_of_muon_is_an_orthogonal_one_and_the_rest_is_adamw_s():
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 8)
    layer.optimiser = "muon"
    config = replace(TOY, lr=0.1, weight_decay=0.0)
    optimizer, before = make_optimizer(layer, config), [p.detach().clone() for p in layer.parameters()]
    layer(torch.randn(16, 12)).square().sum().backward()
    optimizer.step()
    step = before[0] - layer.weight.detach()
    sizes = torch.linalg.svdvals(step) / (0.1 * 0.2 * 12**0.5)  # brought to AdamW's root-mean-square: 0.2 sqrt(larger side)
    assert ((sizes > 0.5) & (sizes < 1.5)).all()
    assert torch.allclose((before[1] - layer.bias).abs(), torch.full((8,), 0.1), rtol=1e-3)  # the first step of Adam is the rate


def test_a_rate_holds_for_both_also_after_loading():
    method, config = torch.nn.Linear(4, 3), replace(TOY, optimiser="muon", steps=10)
    first, second = make_optimizer(method, config), make_optimizer(method, config)
    for _ in range(2):
        method(torch.randn(5, 4)).sum().backward()
        first.step()
        first.zero_grad()
    assert all(p.grad is None for p in method.parameters())
    second.load_state_dict(first.state_dict())
    train.set_rate(second, config, 7)
    rates = {group["lr"] for part in second.parts.values() for group in part.param_groups}
    assert rates == {second.param_groups[0]["lr"]} and rates != {config.lr}
    with pytest.raises(ValueError, match="the state is of state, param_groups"):
        second.load_state_dict(make_optimizer(method, TOY).state_dict())


def test_a_parameter_in_two_groups_is_refused():
    layer = torch.nn.Linear(2, 2, bias=False)
    with pytest.raises(ValueError, match="more than one parameter group"):
        Together(muon=torch.optim.Muon(layer.parameters()), adamw=torch.optim.AdamW(layer.parameters()))


def test_both_states_are_in_the_checkpoint_and_a_resumed_run_has_the_same_losses_bit_for_bit(toy_store, tmp_path, monkeypatch):
    held = store.open(toy_store)
    train.pretrain(held, tmp_path / "whole", recipe="sigvlp", config=TOY, save_every=2, progress=False)
    real, steps = train.train_step, []

    def dies_at_the_fourth(*args, **how):
        steps.append(None)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*args, **how)

    monkeypatch.setattr(train, "train_step", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        train.pretrain(held, tmp_path / "cut", recipe="sigvlp", config=TOY, save_every=2, progress=False)
    state = checkpoint.load_state(tmp_path / "cut")
    assert len(state["history"]) == 2 and set(state["optimizer"]) == {"muon", "adamw"}
    assert all("momentum_buffer" in one for one in state["optimizer"]["muon"]["state"].values()) and state["optimizer"]["adamw"]["state"]
    monkeypatch.setattr(train, "train_step", real)
    train.pretrain(held, tmp_path / "cut", recipe="sigvlp", config=TOY, save_every=2, progress=False, resume=True)
    a, b = (pd.read_csv(tmp_path / name / "history.csv", float_precision="round_trip") for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert (tmp_path / "whole" / "weights.safetensors").read_bytes() == (tmp_path / "cut" / "weights.safetensors").read_bytes()


def test_weights_without_gradient_stay_where_they_are():
    method = checkpoint.make_method("sigvlp", TOY, {})
    unused = torch.nn.Linear(5, 5)
    method.unused = unused
    before = unused.weight.detach().clone()
    optimizer = make_optimizer(method, TOY)
    sum(method(made_batch(TOY)).values()).backward()
    optimizer.step()
    assert torch.equal(unused.weight, before)
