"""The loop: schedule, shares of ranks and micro-batches, exact resume after a kill, two processes equal to one."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import peer_states
import pytest
import torch
from made import made_batch

from asapkit import checkpoint, distributed, store, train
from asapkit.config import Config
from asapkit.types import FINDINGS, Refused
from asapkit.vit3d import Encoder

TOY = Config.at("toy", steps=6, batch_size=4)


def one_process(options: dict, batch, *, accumulate: int = 1) -> tuple[dict, dict]:
    """Losses and gradients of one step, in `accumulate` micro-batches."""
    method = made_method(options)
    accelerator = distributed.make_accelerator(TOY)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
    size = len(batch) // accumulate
    micro = [batch[n * size : (n + 1) * size] for n in range(accumulate)]
    held = {}
    optimizer.register_step_pre_hook(lambda *_: held.update({n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}))
    config = replace(TOY, clip_grad=0.0)
    weights = train.recipe_module(options.get("recipe", "asap")).WEIGHTS | weights_of(options)
    return train.train_step(method, method, micro, optimizer, accelerator=accelerator, config=config, weights=weights), held


def made_method(options: dict):
    torch.manual_seed(0)
    recipe = options.get("recipe", "asap")
    options = {name: value for name, value in options.items() if name not in ("weights", "recipe")}
    has_words = "vocabulary" in inspect.signature(train.recipe_module(recipe).Method.__init__).parameters
    words = {"vocabulary": torch.arange(1996, 2600)} if has_words else {}
    return checkpoint.make_method(recipe, TOY, ({"dropout": 0.0} if words else {}) | options, **words)


def weights_of(options: dict) -> dict:
    return options.get("weights", {})


def uneven_batch():
    """Four volumes; the second pair has fewer sentences, positive ones, words and organs, so that means of means would be wrong."""
    batch = made_batch(TOY, volumes=4)
    batch.sentence_positive[1, 1:] = False
    batch.sentence_real[2:, 1:] = False
    batch.sentence_meaning[2:, 1:] = -1
    batch.findings_sentence[2:][batch.findings_sentence[2:] > 0] = -1
    batch.report_real[3, 12:] = False
    batch.report_special[3, 12:] = False
    batch.report_order[3, 12:] = 2.0
    batch.has_organs[3] = False
    return batch


def test_accumulated_micro_batches_equal_one_batch():
    batch = uneven_batch()
    whole, parts = one_process({}, batch), one_process({}, batch, accumulate=2)
    for name in ("loss", "reconstruct", "organs", "align", "words", "grad_norm"):
        assert parts[0][name] == pytest.approx(whole[0][name], rel=1e-5), name
    for name, gradient in whole[1].items():
        assert torch.allclose(parts[1][name], gradient, atol=1e-5, rtol=1e-4), name


RANK = """
import atexit, os, sys, json, torch
from pathlib import Path
THREADS = "/proc/self/task/{}/comm"
names = lambda: [Path(THREADS.format(task)).read_text().strip() for task in os.listdir("/proc/self/task")]
atexit.register(lambda: Path(sys.argv[2] + ".threads" + os.environ["RANK"]).write_text(json.dumps(names())))  # the last thing at exit
sys.path.insert(0, sys.argv[1])
import test_train as t
from functools import partial
from asapkit import distributed, train
options = json.loads(sys.argv[3])
accelerator = distributed.make_accelerator(t.TOY)
method = t.made_method(options)
method.gather = partial(distributed.gather, accelerator=accelerator)
weights = train.recipe_module(options.get("recipe", "asap")).WEIGHTS | t.weights_of(options)
model = distributed.over_ranks(method, accelerator, weights)
rank = accelerator.process_index
batch = t.uneven_batch()[2 * rank : 2 * rank + 2]
optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
held = {}
optimizer.register_step_pre_hook(lambda *_: held.update({n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}))
row = train.train_step(model, method, [batch], optimizer, accelerator=accelerator, config=t.replace(t.TOY, clip_grad=0.0), weights=weights)
if rank == 0:
    torch.save({"row": row, "gradients": held}, sys.argv[2])
assert "pt_gloo_runloop" in names()
distributed.finish(accelerator)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {}, {"align_over": "batch", "align_from": "stem_and_last", "align_on": "all", "organ_gate": True}, {"ssa": False}, {"weights": {"organs": 0.0}},
    {"align_negatives": "exchanged", "align_positions": "left_out", "organ_gate": True},
    {"recipe": "ct_clip"}, {"recipe": "sigvlp", "chunks": 2}, {"recipe": "pcrlv2"},
    {"recipe": "simcrop", "align_over": "batch", "positive_weight": 3.0}, {"recipe": "m3ae"}, {"recipe": "mrm"},
    {"recipe": "fvlm", "dropout": 0.0}, {"recipe": "visd_boost", "dropout": 0.0}, {"recipe": "hlip", "see": 0.5},
    {"recipe": "scale_vlp", "knowledge": "ontology"},
], ids=[
    "report", "batch", "no alignment", "no organ loss", "exchanged", "contrast", "chunks", "two views", "simcrop", "m3ae", "mrm", "organs",
    "organs and codes", "slices", "knowledge",
])  # fmt: skip
def test_two_processes_equal_one_with_the_joined_batch(tmp_path, options):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    said = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path / "out.pt"), json.dumps(options)], capture_output=True, text=True, timeout=300,
        env=clean_environment(),
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-3000:]
    for rank in (0, 1):
        assert not [name for name in json.loads((tmp_path / f"out.pt.threads{rank}").read_text()) if "gloo" in name], "ends before its threads"
    two = torch.load(tmp_path / "out.pt", weights_only=True)
    row, gradients = one_process(options, uneven_batch())
    for name in row:
        assert two["row"][name] == pytest.approx(row[name], rel=1e-5), name
    for name, gradient in gradients.items():
        assert torch.allclose(two["gradients"][name], gradient, atol=2e-5, rtol=1e-3), name


LATE = """
import atexit, sys, time, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
import test_train as t
from asapkit import distributed
def hold_the_interpreter(until=2.0):
    sys.setswitchinterval(1000)
    end = time.monotonic() + until
    while time.monotonic() < end:
        pass
atexit.register(hold_the_interpreter)  # runs after the group is left: a thread that wants the interpreter has it only when Python ends
accelerator = distributed.make_accelerator(t.TOY)
model = distributed.over_ranks(torch.nn.Linear(4, 4), accelerator, {"loss": 1.0})
model(torch.randn(2, 4)).sum().backward()
distributed.finish(accelerator)
time.sleep(accelerator.process_index)
last = torch.ones(3)
last.said = "of Python"
dist.all_reduce(last, async_op=True)
del last
"""


@pytest.mark.slow
def test_a_process_ends_after_the_threads_of_its_group(tmp_path):
    """Rank 0 is done a second before rank 1, and its thread lets go of a tensor of Python's while Python ends: that aborts a process."""
    (tmp_path / "late.py").write_text(LATE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "late.py")]
    said = subprocess.run([*command, str(Path(__file__).parent)], capture_output=True, text=True, timeout=300, env=clean_environment())
    assert said.returncode == 0, said.stderr[-3000:]


def clean_environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_warm_up_then_cosine():
    method = torch.nn.Linear(2, 2)
    optimizer, config = train.make_optimizer(method, TOY), replace(TOY, steps=100, warmup=0.1, lr=1.0)
    rates = []
    for step in range(100):
        train.set_rate(optimizer, config, step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == pytest.approx(1.0) and np.all(np.diff(rates[10:]) < 0) and rates[-1] < 1e-3


def test_the_order_of_volumes_is_a_function_of_the_step(toy_store):
    held = store.open(toy_store)
    config = replace(TOY, accumulate=2)
    ids = train.training_ids(held)

    def stream(**where):
        return iter(train.KeyList(held, ids, config, **where))

    full, later = stream(start=0), stream(start=3)
    for _ in range(6):
        next(full)
    for _ in range(6):
        assert next(full) == next(later)
    whole, first, second = stream(start=0), stream(start=0, rank=0, world=2), stream(start=0, rank=1, world=2)
    for _ in range(6):
        assert next(whole) == next(first) + next(second)
    study = held.table["study"]
    epochs = {}
    for _ in range(12):
        for id, epoch in next(whole):
            epochs.setdefault(epoch, []).append(study[id])
    assert all(len(seen) == len(set(seen)) for seen in epochs.values())


TRAIN = """
import sys
from pathlib import Path
import torch.distributed as dist
from asapkit import store, train
from asapkit.config import Config
config = Config.at("toy", steps=int(sys.argv[3]), batch_size=4)
train.pretrain(store.open(sys.argv[1]), Path(sys.argv[2]), recipe="asap", config=config, resume=True, save_every=2, progress=False)
assert (dist.get_world_size() if dist.is_initialized() else 1) == int(sys.argv[4])
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_and_resumed_has_the_same_losses_bit_for_bit(toy_store, tmp_path, processes):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []

    def start(run):
        command = [sys.executable, *launcher, str(script), str(toy_store), str(run), "12", str(processes)]
        return subprocess.Popen(command, env=clean_environment())

    assert start(tmp_path / "whole").wait(timeout=240) == 0
    victim = start(tmp_path / "killed")
    state = tmp_path / "killed" / "history.csv"
    for _ in range(1200):
        if state.exists() and len(state.read_text().splitlines()) >= 5:
            break
        time.sleep(0.05)
    for pid in family(victim.pid):
        os.kill(pid, signal.SIGKILL)
    victim.wait()
    done = len(pd.read_csv(state))
    assert 0 < done < 12, "killed too late to test anything"
    assert start(tmp_path / "killed").wait(timeout=240) == 0
    a, b = (pd.read_csv(tmp_path / name / "history.csv", float_precision="round_trip") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    assert (tmp_path / "whole" / "weights.safetensors").read_bytes() == (tmp_path / "killed" / "weights.safetensors").read_bytes()


def family(pid: int) -> list[int]:
    """A process and all that it started: the ranks of a launcher are in sessions of their own."""
    children = [int(child) for listed in Path(f"/proc/{pid}/task").glob("*/children") for child in listed.read_text().split()]
    return [pid, *(member for child in children for member in family(child))]


def test_a_run_killed_between_the_files_of_its_last_checkpoint_is_completed(toy_store, tmp_path):
    held, config = store.open(toy_store), replace(TOY, steps=2)
    first = train.pretrain(held, tmp_path, recipe="mae", config=config, progress=False)
    weights = (tmp_path / "weights.safetensors").read_bytes()
    for name in ("weights.safetensors", "history.csv"):
        (tmp_path / name).unlink()
    (tmp_path / "status.json").write_text((tmp_path / "status.json").read_text().replace("finished", "running"))
    pd.testing.assert_frame_equal(train.pretrain(held, tmp_path, recipe="mae", config=config, resume=True, progress=False), first)
    assert (tmp_path / "weights.safetensors").read_bytes() == weights and checkpoint.steps_done(tmp_path) == 2
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"


def test_a_loss_that_is_not_finite_names_the_volumes():
    batch = made_batch(TOY)
    batch.image[1, 0, 0, 0, 0] = float("nan")
    with pytest.raises(Refused, match="not finite; volumes of this step: made_0_0, made_0_1, made_0_2"):
        one_process({}, batch)


def test_a_run_round_trips_and_refuses_other_settings(toy_store, tmp_path):
    held = store.open(toy_store)
    run = tmp_path / "run"
    history = train.pretrain(held, run, recipe="mae", config=replace(TOY, steps=2), progress=False)
    assert len(history) == 2 and (run / "tensorboard").is_dir()
    encoder, method = checkpoint.load_encoder(run), checkpoint.load_method(run)
    image = made_batch(TOY).image
    assert torch.equal(encoder.tokens(image), method.encoder.tokens(image))
    for load in (checkpoint.load_encoder, checkpoint.load_method):
        with pytest.raises(Refused, match="holds 1 run, run; give one of them"):
            load(tmp_path)
    with pytest.raises(Refused, match="holds a run already"):
        train.pretrain(held, run, recipe="mae", config=replace(TOY, steps=2), progress=False)
    with pytest.raises(Refused, match="other settings"):
        train.pretrain(held, run, recipe="mae", config=replace(TOY, steps=3), resume=True, progress=False)
    with pytest.raises(Refused, match="made under another contract: spacing_mm"):
        train.pretrain(held, tmp_path / "other", recipe="mae", config=Config.at("toy", spacing_mm=(5.0, 6.0, 12.0)), progress=False)


def test_weights_with_missing_keys_are_refused_by_name(toy_store, tmp_path):
    from safetensors.torch import load_file, save_file

    run = tmp_path / "run"
    train.pretrain(store.open(toy_store), run, recipe="mae", config=replace(TOY, steps=1), progress=False)
    state = load_file(run / "weights.safetensors")
    del state["encoder.norm.weight"]
    save_file(state, run / "weights.safetensors")
    with pytest.raises(Refused, match="lacks norm.weight"):
        checkpoint.load_encoder(run)
    with pytest.raises(Refused, match="lacks encoder.norm.weight"):
        checkpoint.load_method(run)


def test_a_full_disk_is_one_line_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    method, optimizer = torch.nn.Linear(2, 2), None
    optimizer = torch.optim.AdamW(method.parameters())
    checkpoint.save(method, tmp_path, optimizer=optimizer, history=[{"step": 0}], rng=torch.get_rng_state())
    before = (tmp_path / "state.pt").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Refused, match="free some disk space"):
        checkpoint.save(method, tmp_path, optimizer=optimizer, history=[{"step": 0}, {"step": 1}], rng=torch.get_rng_state())
    assert (tmp_path / "state.pt").read_bytes() == before and not list(tmp_path.glob("*.part"))


def test_unknown_recipe_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown recipe 'asop'; there are asap"):
        train.recipe_module("asop")
    with pytest.raises(ValueError, match="unknown option selecter"):
        checkpoint.make_method("asap", TOY, {"selecter": "fixed"}, vocabulary=torch.arange(10))


def test_patients_that_scores_hold_out_are_never_trained_on(toy_store):
    from asapkit import features

    held = store.open(toy_store)
    held.table["split"] = "train"  # a csv without that column
    out = held.table.index[~features.training_rows(held.table)]
    assert len(out) and not set(out) & set(train.training_ids(held))
    held.table["split"] = "valid"
    assert train.training_ids(held) == []


def test_official_words_are_the_whole_vocabulary_and_add_up(toy_store):
    held = store.open(toy_store)
    assert len(checkpoint.make_method("asap", TOY, {"fidelity": "official"}, store=held).report.words.vocabulary) > 30_000
    assert len(checkpoint.make_method("asap", TOY, {}, store=held).report.words.vocabulary) < 3_000
    method, batch = made_method({"words_on": "all"}), uneven_batch()
    known = method.report.words.lookup[batch.report_tokens] >= 0
    assert int(method.counts(batch)["words"]) == int(known.sum()) < known.numel()


def test_settings_that_failed_before_the_first_checkpoint_do_not_hold_the_folder(toy_store, tmp_path):
    held = store.open(toy_store)
    with pytest.raises(Refused, match="not finite"):
        train.pretrain(held, tmp_path / "run", recipe="mae", config=replace(TOY, steps=2, lr=float("inf")), progress=False)
    assert len(train.pretrain(held, tmp_path / "run", recipe="mae", config=replace(TOY, steps=1), progress=False)) == 1
    with pytest.raises(Refused, match="holds a run with other settings"):
        train.pretrain(held, tmp_path / "run", recipe="mae", config=replace(TOY, steps=2), progress=False)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"steps": 0}, "steps 0: give a number of at least 1"), ({"accumulate": 0}, "accumulate 0"), ({"top_k": [0]}, "top_k"),
        ({"hide": 1.0}, "hide 1.0: give a number above 0 and below 1"), ({"heads": 7}, "width 48 is not a multiple of heads 7"),
        ({"patch": [0, 1, 1]}, "patch"), ({"max_sentences": 0}, "max_sentences 0"), ({"lr": -1.0}, "lr -1.0: give a number above 0"),
        ({"seed": -1}, r"seed -1: give a whole number of at least 0 and below 2\^63"), ({"seed": 10**20}, "seed 1"),
        ({"clip_grad": 0.0}, "clip_grad 0.0"), ({"warmup": 5.0}, "warmup 5.0: give a number of at least 0 and below 1"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"), ({"betas": [0.9, 1.5]}, "betas .*two numbers of at least 0 and below 1"),
        ({"pool": 0}, "pool 0: give a number of at least 1"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_training_is_named(setting, says):
    with pytest.raises(ValueError, match=says):
        TOY.at("toy", **setting)


def test_a_training_starts_from_the_encoder_of_a_run(toy_store, tmp_path):
    held = store.open(toy_store)
    train.pretrain(held, tmp_path / "first", recipe="supervised", config=replace(TOY, steps=1), progress=False)
    train.pretrain(held, tmp_path / "second", recipe="sup_clip", config=replace(TOY, steps=1, lr=1e-30), init=tmp_path / "first", progress=False)
    first, second = (checkpoint.load_encoder(tmp_path / name).state_dict() for name in ("first", "second"))
    assert all(torch.allclose(first[name], second[name], rtol=0, atol=1e-20) for name in first)
    with pytest.raises(Refused, match=r"other settings \(lr, seed\); give these as they were"):
        train.pretrain(held, tmp_path / "second", recipe="sup_clip", config=replace(TOY, steps=1, lr=1e-3, seed=5), resume=True, progress=False)
    (tmp_path / "first").rename(tmp_path / "elsewhere")  # what a training started from may be gone when it goes on
    for init in (None, tmp_path / "first"):
        again = train.pretrain(
            held, tmp_path / "second", recipe="sup_clip", config=replace(TOY, steps=1, lr=1e-30), resume=True, init=init, progress=False
        )
        assert len(again) == 1


def test_the_blocks_of_another_methods_weights_start_a_training_or_are_refused(tmp_path):

    state = peer_states.mae(peer_states.Maker(), width=TOY.width, depth=TOY.depth)
    torch.save(state, tmp_path / "mae.pth")
    encoder = Encoder(TOY)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert "2 blocks and last norm; patch embedding" in checkpoint.start_from(encoder, tmp_path / "mae.pth")
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(("blocks.", "norm."))}
    wanted = state["model"]["blocks.1.mlp.fc2.weight"]
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, wanted)
    torch.save(peer_states.mae(peer_states.Maker(), width=TOY.width, depth=TOY.depth - 1), tmp_path / "shallow.pth")
    with pytest.raises(Refused, match="do not fit this encoder"):
        checkpoint.start_from(Encoder(TOY), tmp_path / "shallow.pth")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", train.recipes())
def test_every_recipe_trains_on_a_store_and_its_encoder_comes_back(recipe, toy_store, tmp_path):
    history = train.pretrain(store.open(toy_store), tmp_path / "run", recipe=recipe, config=replace(TOY, steps=2), progress=False)
    assert len(history) == 2 and np.isfinite(history["loss"]).all()
    encoder, method, image = checkpoint.load_encoder(tmp_path / "run"), checkpoint.load_method(tmp_path / "run"), made_batch(TOY, volumes=1).image
    assert encoder.tokens(image).shape == (1, TOY.patches, TOY.width) and torch.equal(encoder.tokens(image), method.encoder.tokens(image))
    assert type(method).__module__ == f"asapkit.recipes.{recipe}"


@pytest.mark.parametrize(
    ("recipe", "options", "lacks", "says"),
    [
        ("fvlm", {}, ["has_organs"], "recipe fvlm needs organ masks; .* has none for any training volume: give organs to preprocess"),
        ("visd_boost", {}, ["has_organs"], "recipe visd_boost needs organ masks"),
        ("asap", {}, ["has_organs"], "recipe asap needs organ masks.*or train without: aki=false"),
        ("asap", {"organ_classes": "heart,lesion"}, [], "recipe asap needs lesion masks.*: give lesions to preprocess"),
        ("asap", {"aki": False}, ["has_organs"], ""), ("ct_clip", {}, ["has_organs", *FINDINGS], ""),
        ("merlin", {}, list(FINDINGS), "recipe merlin needs labels of findings; .*: give the labels to preprocess"),
        ("supervised", {}, list(FINDINGS), "recipe supervised needs labels"), ("supervised", {}, list(FINDINGS[1:]), ""),
        ("scale_vlp", {"knowledge": "ontology"}, list(FINDINGS), "recipe scale_vlp needs labels of findings; .*: give the labels to preprocess"),
        ("scale_vlp", {}, list(FINDINGS), ""),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_supervision_that_a_store_lacks_is_named_before_the_first_step(recipe, options, lacks, says, toy_store, tmp_path):
    held = store.open(toy_store)
    for name in lacks:
        held.table[name] = False if name == "has_organs" else -1
    how = {"recipe": recipe, "options": options, "config": replace(TOY, steps=1), "progress": False}
    if not says:
        assert len(train.pretrain(held, tmp_path / "run", **how)) == 1
        return
    with pytest.raises(Refused, match=says):
        train.pretrain(held, tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", train.recipes())
def test_what_a_recipe_needs_has_a_name(recipe):
    assert set(getattr(made_method({"recipe": recipe}), "needs", ())) <= set(train.SUPERVISION)


def test_one_training_at_a_time_writes_a_run_folder(toy_store, tmp_path):
    """A second one is refused before it touches what the first declared; a refused or killed one leaves no lock behind."""
    from asapkit.writing import one_writer

    held, run = store.open(toy_store), tmp_path / "run"
    with one_writer(run), pytest.raises(Refused, match="another process is writing"):
        train.pretrain(held, run, recipe="mae", config=replace(TOY, steps=1), progress=False)
    assert not any(run.iterdir())
    assert len(train.pretrain(held, run, recipe="mae", config=replace(TOY, steps=1), progress=False)) == 1
    assert not (run / ".lock").exists()


def test_a_full_disk_is_said_with_the_folder(toy_store, tmp_path, monkeypatch):
    from errno import ENOSPC

    def full(*_):
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(Config, "save", full)
    with pytest.raises(Refused, match=r"cannot write .*run: No space left on device; make room"):
        train.pretrain(store.open(toy_store), tmp_path / "run", recipe="mae", config=replace(TOY, steps=1), progress=False)


def test_a_batch_that_processes_cannot_share_evenly_is_named_with_one_that_they_can():
    assert Config.at("base").volumes_on_each(2) == 7
    with pytest.raises(ValueError, match="batch_size 14 is not a multiple of 4 processes; set batch_size=16"):
        Config.at("base").volumes_on_each(4)


def test_checkpoints_come_as_often_as_asked(toy_store, tmp_path):
    held, seen = store.open(toy_store), []
    with pytest.raises(ValueError, match="save_every 0: give a number of at least 1"):
        train.pretrain(held, tmp_path / "run", config=TOY, save_every=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda method, run, **more: seen.append(len(more["history"])))
        train.pretrain(held, tmp_path / "run", recipe="mae", config=replace(TOY, steps=5), save_every=2, progress=False)
    assert seen == [2, 4, 5]
