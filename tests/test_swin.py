"""The hierarchical encoder keeps the contract of every encoder, and its stages are MONAI's."""

from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import checkpoint, examples, hub, store, train
from asapkit.config import Config
from asapkit.encoders import image_encoder
from asapkit.peers import reading
from asapkit.swin import Swin
from asapkit.types import Refused

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy", encoder="swin")


def made(config=TOY):
    torch.manual_seed(0)
    return image_encoder(config)


def test_no_window_is_larger_than_its_map():
    assert [stage.window_size for stage in made().stages] == [(7, 7, 7), (5, 4, 4), (3, 2, 2), (2, 1, 1)]


@pytest.mark.parametrize("config", [TOY, Config.at("small", encoder="swin"), Config.at("toy", encoder="swin", crop=(15, 10, 20), patch=(5, 5, 5))])
def test_a_patch_that_changes_changes_its_own_token_most(config):
    encoder, image = made(config), made_batch(config, volumes=1).image
    gx, gy, gz = config.grid
    with torch.no_grad():
        before = encoder.tokens(image)
        for x, y, z in ((0, 0, 0), (gx - 1, 0, 0), (0, gy - 1, 0), (0, 0, gz - 1), (gx // 2, gy // 2, gz // 2)):
            other = image.clone()
            (px, py, pz), at = config.patch, (x * gy + y) * gz + z
            other[..., x * px : (x + 1) * px, y * py : (y + 1) * py, z * pz : (z + 1) * pz] *= -1
            assert (encoder.tokens(other) - before).norm(dim=-1)[0].argmax() == at


def test_stages_are_those_of_monai_where_no_window_is_larger_than_its_map():
    from monai.networks.nets.swin_unetr import SwinTransformer

    config = Config.at("toy", encoder="swin", crop=(56, 28, 28), patch=(2, 2, 2), width=16, heads=8)
    ours = made(config)
    theirs = SwinTransformer(1, 4, (7, 7, 7), (1, 1, 1), (2, 2, 2, 2), (2, 4, 8, 16), downsample="mergingv2")
    wanted = {name: own_name(name, ours.state_dict()) for name in theirs.state_dict() if not name.startswith("layers4") and "index" not in name}
    theirs.load_state_dict(wanted, strict=False)
    image = torch.rand(1, 1, *config.crop) * 2 - 1
    with torch.no_grad():
        for merge, own, other in zip(ours.merges, ours.maps(image), theirs(image, normalize=False)[1:4], strict=False):
            assert torch.allclose(merge(own.movedim(1, -1)).movedim(-1, 1), other, atol=1e-5)


def own_name(theirs, state):
    """Our tensor of one of MONAI's names."""
    number = int(theirs[6]) - 1 if theirs.startswith("layers") else 0
    ours = theirs.replace("patch_embed.", "embed.").replace(f"layers{number + 1}.0.downsample", f"merges.{number}")
    return state[ours.replace(f"layers{number + 1}.0", f"stages.{number}")]


def test_a_run_of_it_comes_back_and_is_exported(toy_store, tmp_path):
    train.pretrain(store.open(toy_store), tmp_path / "run", recipe="supervised", config=replace(TOY, steps=2), progress=False)
    encoder, image = checkpoint.load_encoder(tmp_path / "run"), made_batch(TOY).image
    assert isinstance(encoder, Swin)
    folder = hub.export(reading.load(tmp_path / "run" / "weights.safetensors"), tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(hub.load(folder)(image), encoder.tokens(image))
    assert "whole" in checkpoint.start_from(made(), tmp_path / "run")
    with pytest.raises(Refused, match="do not fit this encoder"):
        checkpoint.start_from(image_encoder(Config.at("toy")), tmp_path / "run")
    train.pretrain(store.open(toy_store), tmp_path / "vit", recipe="mae", config=Config.at("toy", steps=1), progress=False)
    with pytest.raises(Refused, match="not of the kind that this recipe trains"):
        checkpoint.start_from(made(), tmp_path / "vit")


def test_what_has_no_attention_to_show_is_named(toy_store):
    held = store.open(toy_store)
    with pytest.raises(Refused, match="Swin shows no attention"):
        examples.attention_outputs(image_encoder(TOY), held, held.ids[:1])
