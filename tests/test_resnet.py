"""The convolutional encoder keeps the contract of every encoder, and a video network's published weights give here what they give there."""

from dataclasses import replace

import peer_states
import pytest
import torch
from made import made_batch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from asapkit import checkpoint, estimate, features, hub, store, train
from asapkit.config import Config
from asapkit.encoders import image_encoder
from asapkit.peers import reading
from asapkit.types import Refused

pytestmark = pytest.mark.slow  # importing MONAI takes longer than `make check` has for one encoder

TOY = Config.at("toy", encoder="resnet18")
OWN = {"crop": (96, 64, 32), "patch": (16, 16, 8), "width": 32, "heads": 4}  # the grid of the network itself: 6 x 4 x 4


def made(config=TOY):
    torch.manual_seed(0)
    return image_encoder(config)


def published(folder, **changes):
    """A file in torchvision's layout with random numbers, spread as if it had been trained, and its tensors."""
    state = peer_states.r3d_18(peer_states.Maker())
    for name, value in state.items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
    state = {name: value for name, value in (state | changes).items() if value is not None}
    torch.save(state, folder / "r3d_18.pth")
    return folder / "r3d_18.pth", state


def as_torchvision(video, state):
    """Maps of the four stages of r3d_18 on (B, 3, T, H, W), by its equations."""

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x, found = F.relu(norm(F.conv3d(video, state["stem.0.weight"], stride=(1, 2, 2), padding=(1, 3, 3)), "stem.1")), []
    for number in (1, 2, 3, 4):
        for block in (0, 1):
            b, stride = f"layer{number}.{block}", 2 if number > 1 and block == 0 else 1
            y = F.relu(norm(F.conv3d(x, state[f"{b}.conv1.0.weight"], stride=stride, padding=1), f"{b}.conv1.1"))
            y = norm(F.conv3d(y, state[f"{b}.conv2.0.weight"], padding=1), f"{b}.conv2.1")
            if f"{b}.downsample.0.weight" in state:
                x = norm(F.conv3d(x, state[f"{b}.downsample.0.weight"], stride=stride), f"{b}.downsample.1")
            x = F.relu(x + y)
        found.append(x)
    return found


def test_published_weights_give_what_their_equations_give(tmp_path):
    file, state = published(tmp_path)
    encoder = made(Config.at("toy", encoder="resnet18", **OWN)).eval()
    checkpoint.start_from(encoder, file)
    image = torch.rand(2, 1, *OWN["crop"], generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        video = image.permute(0, 1, 4, 3, 2).expand(-1, 3, -1, -1, -1)  # slices are time, y are rows, x are columns; three equal colours
        theirs, ours = as_torchvision(video, state), encoder.maps(image)
        for one, other in zip(ours, theirs, strict=True):
            scale = float(other.abs().max())
            assert scale > 1e-3
            torch.testing.assert_close(one / scale, other.permute(0, 1, 4, 3, 2) / scale, atol=1e-5, rtol=0)
        assert [m.shape[2:] for m in ours] == [(48, 32, 32), (24, 16, 16), (12, 8, 8), (6, 4, 4)]
        tokens = encoder.tokens(image)
    assert torch.equal(tokens, ours[-1].flatten(2).transpose(1, 2)), "at its own patch the grid is the last map"
    assert torch.equal(encoder.hidden(image, (-1,))[0], tokens)
    torch.testing.assert_close(tokens.mean(1), theirs[-1].mean((2, 3, 4)), atol=1e-5 * scale, rtol=0)


def test_what_becomes_of_every_published_name_is_said(tmp_path):
    file, state = published(tmp_path)
    encoder = made(Config.at("toy", encoder="resnet18", **OWN))
    begun = checkpoint.start_from(encoder, file)
    for said in ("whole (R3D-18: 6 names matched, 114 renamed, 2 dropped (the classifier of Kinetics' actions)", "its 3 colours summed to one",
                 "every kernel: turned from time, rows, columns to x, y, z"):  # fmt: skip
        assert said in begun
    assert "\n" not in begun
    assert torch.equal(encoder.stem[0].weight[0, 0], state["stem.0.weight"][0].sum(0).permute(2, 1, 0))
    assert torch.equal(encoder.stages[1][0].downsample[1].running_mean, state["layer2.0.downsample.1.running_mean"])
    report = reading.load(file).report
    assert set(report.dropped) == {"fc.weight", "fc.bias"} and report.renamed["layer3.1.conv2.1.bias"] == "stages.2.1.bn2.bias"
    assert sorted([*report.matched, *report.renamed, *report.dropped]) == sorted(state)


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    encoder = made(Config.at("toy", encoder="resnet18", **OWN))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for changes, says in (
        ({"layer2.1.conv2.0.weight": None}, "R3D-18 without stages.1.1.conv2.weight; the file is incomplete"),
        ({"layer2.2.conv1.0.weight": torch.ones(8, 8, 3, 3, 3)}, "2, 3, 2, 2 blocks in its stages, where a ResNet-18 has 2, 2, 2, 2"),
        ({"layer3.0.conv1.0.weight": torch.ones(16, 8, 1, 3, 3)}, r"R3D-18 with layer3.0.conv1.0.weight of shape"),
        ({"stem.3.weight": torch.ones(2)}, "looks like R3D-18, but that has no stem.3.weight"),
        ({"stem.1.bias": torch.full((4,), float("nan"))}, "stem.1.bias holds NaN"),
    ):
        with pytest.raises(Refused, match=says):
            checkpoint.start_from(encoder, published(tmp_path, **changes)[0])
    with pytest.raises(Refused, match="its encoder has 32 features, this one 48; set width=32"):
        checkpoint.start_from(made(), published(tmp_path)[0])
    with pytest.raises(Refused, match="its blocks do not fit this encoder"):
        checkpoint.start_from(image_encoder(Config.at("toy")), tmp_path / "r3d_18.pth")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_file_without_counters_of_batches_is_read_and_it_is_said(tmp_path):
    whole, _ = published(tmp_path)
    _, state = published(tmp_path)
    found = reading.load(published(tmp_path, **{name: None for name in state if name.endswith("tracked")})[0])
    assert found.report.adapted["num_batches_tracked"].startswith("zeros") and whole.exists()
    some = {name: None for name in state if name.startswith("layer4.1") and name.endswith("tracked")}
    with pytest.raises(Refused, match="the file is incomplete"):
        reading.load(published(tmp_path, **some)[0])


def test_at_base_it_has_the_published_sizes_and_others_where_they_are_given():
    config = Config.at("base", encoder="resnet18")
    assert (config.width, config.heads, config.grid) == (512, 8, (14, 14, 14)) and Config.at("base").width == 768
    assert Config.at("base", encoder="resnet18", width=64).width == 64
    with torch.device("meta"):
        assert sum(p.numel() for p in image_encoder(config).parameters()) == 33_371_472 - 400 * 513 - 2 * 64 * 3 * 49


@pytest.mark.parametrize("config", [Config.at("toy", encoder="resnet18", **OWN), TOY, Config.at("small", encoder="resnet18")])
def test_a_patch_that_changes_changes_the_tokens_around_it_most(config):
    """A place of the last map is centred on the first voxel of its patch: a change may show most in a neighbour, never further away."""
    encoder, image = made(config).eval(), made_batch(config, volumes=1).image
    gx, gy, gz = config.grid
    with torch.no_grad():
        before = encoder.tokens(image)
        for x, y, z in ((0, 0, 0), (gx - 1, 0, 0), (0, gy - 1, 0), (0, 0, gz - 1), (gx // 2, gy // 2, gz // 2)):
            other = image.clone()
            (px, py, pz) = config.patch
            other[..., x * px : (x + 1) * px, y * py : (y + 1) * py, z * pz : (z + 1) * pz] *= -1
            at = int((encoder.tokens(other) - before).norm(dim=-1)[0].argmax())
            found = (at // (gy * gz), at // gz % gy, at % gz)
            away = [abs(a - b) * p for a, b, p in zip(found, (x, y, z), config.patch, strict=True)]
            assert all(a <= max(p, n) for a, p, n in zip(away, config.patch, (16, 16, 8), strict=True)), ((x, y, z), found)


def test_two_stages_are_trained_one_after_the_other_and_the_run_is_exported(toy_store, tmp_path):
    """Twenty steps on labels, then reports from there; features and an exported folder give the run's own tokens."""
    held, image = store.open(toy_store), made_batch(TOY).image
    history = train.pretrain(held, tmp_path / "labels", recipe="supervised", config=replace(TOY, steps=20), progress=False)
    assert history["loss"].tail(5).mean() < history["loss"].head(5).mean()
    first = checkpoint.load_encoder(tmp_path / "labels")
    assert not first.training and int(first.stem[1].num_batches_tracked) == 20
    train.pretrain(held, tmp_path / "clip", recipe="sup_clip", config=replace(TOY, steps=1, lr=1e-30), init=tmp_path / "labels", progress=False)
    second = checkpoint.load_encoder(tmp_path / "clip")
    assert all(torch.allclose(p, second.get_parameter(n), rtol=0, atol=1e-20) for n, p in first.named_parameters())
    found = features.extract(first, held, ids=held.ids[:2], tokens=True, progress=False)
    assert found.pooled.shape == (2, 2 * TOY.width) and found.tokens.shape == (2, TOY.patches, TOY.width)
    folder = hub.export(reading.load(tmp_path / "labels" / "weights.safetensors"), tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(hub.load(folder)(image), first.tokens(image))


def test_a_run_goes_on_where_it_stopped_statistics_of_its_norms_included(toy_store, tmp_path, monkeypatch):
    held, how = store.open(toy_store), {"recipe": "supervised", "config": replace(TOY, steps=4), "progress": False}
    whole = train.pretrain(held, tmp_path / "whole", **how)
    save = checkpoint.save

    def stop(*args, **options):
        save(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train.pretrain(held, tmp_path / "cut", save_every=2, **how)
    monkeypatch.undo()
    again = train.pretrain(held, tmp_path / "cut", resume=True, **how)
    assert again["loss"].tolist() == whole["loss"].tolist()
    one, other = (checkpoint.load_encoder(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_is_counted_of_it_is_what_a_step_computes():
    method, batch = estimate.counted_method("supervised", TOY, {}), estimate.example(TOY, volumes=2)
    counted = estimate.count(method, batch)
    with FlopCounterMode(display=False) as real:
        method(batch)["labels"].backward()
    assert counted.flops == real.get_total_flops() > 0
    found = estimate.training("supervised", TOY, volumes=8, epochs=1, tflops=1.0)
    assert found.tflop > 0 and found.memory_gib > 0
