"""Released weights of other methods: every family by its published names and ranks, its network beside another implementation or a loop, and
files that must not be read."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import re
import warnings
import zipfile
from math import prod
from pathlib import Path

import peer_states as states
import pytest
import torch
from torch.nn import functional as F

from asapkit.config import Contract
from asapkit.peers import building, families, reading, vit
from asapkit.peers.frame import Frame, Geometry
from asapkit.types import Refused
from asapkit.vit3d import Encoder, sincos_positions

pytestmark = pytest.mark.slow  # networks of published sizes: a minute that `make check` has not

# A crop of another, anisotropic grid for every family, so that a swapped axis has another shape.
CROPS = {
    "ASAP": (48, 32, 32), "SimCroP": (48, 32, 32), "MAE": (48, 32, 32), "MRM": (48, 32, 32), "M3AE": (48, 32, 32), "Hi-End-MAE": (48, 36, 24),
    "M3D-CLIP": (48, 32, 16), "fVLM": (96, 64, 64), "HLIP": (72, 48, 32), "CT-CLIP": (16, 12, 10), "Merlin": (96, 64, 64), "ViSD-Boost": (96, 64, 64),
    "R3D-18": (96, 64, 32), "PCRLv2": (24, 16, 32), "SigVLP": (48, 32, 64),
}  # fmt: skip
MAKERS = {
    "ASAP": states.asap, "SimCroP": states.simcrop, "MAE": states.mae, "MRM": states.mrm, "M3AE": states.m3ae, "Hi-End-MAE": states.hi_end_mae,
    "M3D-CLIP": states.m3d_clip, "fVLM": states.fvlm, "HLIP": states.hlip, "CT-CLIP": states.ct_clip, "Merlin": states.merlin,
    "ViSD-Boost": states.visd_boost, "R3D-18": states.r3d_18, "PCRLv2": states.pcrlv2, "SigVLP": states.sigvlp, "CXR-BERT": states.cxr_bert,
}  # fmt: skip


def written(folder: Path, name: str, **sizes) -> Path:
    """A file with the published layout of a family."""
    file = folder / f"{name}.pt"
    torch.save(MAKERS[name](states.Maker(), **sizes), file)
    return file


def told(report) -> list[str]:
    return [*report.matched, *report.renamed, *report.dropped]


# ---------------------------------------------------------------------------------------------------------------- every family


def test_every_family_of_the_table_is_tried_here():
    assert {f.name for f in families.FAMILIES} == set(MAKERS)


@pytest.mark.parametrize("name", CROPS)
def test_a_family_is_recognised_loaded_whole_and_run_in_this_houses_order(name, tmp_path):
    file, crop = written(tmp_path, name), CROPS[name]
    found = reading.load(file, crop=crop)
    assert found.report.family == name
    state, left = reading.opened(file)
    assert sorted(told(found.report)) == sorted([*state, *left]), "every tensor is used or listed as dropped, once"
    assert all(found.report.dropped.values()), "nothing is dropped without a reason"
    encoder = found.encoder
    assert encoder.contract.crop == crop and encoder.grid == tuple(c // p for c, p in zip(crop, encoder.patch))
    with torch.inference_mode():
        image = torch.rand(2, 1, *crop) * 2 - 1
        tokens, hidden = encoder.tokens(image), encoder.hidden(image, (0, -1))
    assert tokens.shape == (2, prod(encoder.grid), encoder.width)
    assert torch.isfinite(tokens).all() and tokens.std() > 0
    assert [h.shape[:2] for h in hidden] == [tokens.shape[:2]] * 2
    for said in (name, "licence", "matched", "renamed", "dropped", " mm"):
        assert said in str(found.report)


@pytest.mark.parametrize("name", CROPS)
def test_the_weights_of_an_encoder_are_all_of_them_from_the_file(name, tmp_path):
    """Two files of different numbers give encoders that share no floating-point tensor but zeros put for absent biases."""
    crop = CROPS[name]
    one = reading.load(written(tmp_path, name), crop=crop)
    torch.save(MAKERS[name](states.Maker(seed=1)), tmp_path / "other.pt")
    other = reading.load(tmp_path / "other.pt", crop=crop).encoder.state_dict()
    same = [k for k, v in one.encoder.state_dict().items() if v.is_floating_point() and torch.equal(v, other[k]) and v.any()]
    assert [k for k in same if not k.endswith(("positions", "running_var"))] == []


SIZES = {
    **{n: {"width": 768, "depth": 12} for n in ("ASAP", "SimCroP", "MAE", "MRM", "M3D-CLIP", "fVLM", "HLIP", "CXR-BERT")},
    "M3AE": {"width": 768, "depth": 11}, "Hi-End-MAE": {"width": 1536, "depth": 12}, "SigVLP": {"width": 1024, "depth": 24},
    "CT-CLIP": {"width": 512, "depth": 4, "heads": 8, "head_width": 32, "patch": 10, "codes": 8192},
    "Merlin": {"stem": 64, "blocks": (3, 8, 36, 3)}, "ViSD-Boost": {"stem": 64, "width": 256}, "R3D-18": {"stem": 64},
    "PCRLv2": {"stem": 32},
}  # fmt: skip
MILLIONS = {"MAE": 87, "Merlin": 117, "Hi-End-MAE": 342, "SigVLP": 306, "HLIP": 89, "ViSD-Boost": 33, "R3D-18": 33, "CXR-BERT": 85}


@pytest.mark.parametrize("name", MAKERS)
def test_published_sizes_fit(name, monkeypatch):
    """Names, ranks and sizes as published, without numbers: the encoder takes them all, at the published crop."""
    m = states.Maker("meta")
    MAKERS[name](m, **SIZES[name])
    monkeypatch.setattr(reading, "opened", lambda file: (dict(m.made), {}))
    found = reading.load(Path("published.pt"))
    assert found.report.family == name
    widths = {"Merlin": 2048, "CT-CLIP": 512, "PCRLv2": 512, "ViSD-Boost": 256, "R3D-18": 512}
    assert found.encoder.width == widths.get(name, SIZES[name].get("width"))
    if name in MILLIONS:
        assert round(sum(p.numel() for p in found.encoder.parameters()) / 1e6) == pytest.approx(MILLIONS[name], abs=1)
    assert not [w for w in found.report.warnings if "where the published model has" in w]
    heads = {"Hi-End-MAE": 16, "SigVLP": 16, "MAE": 12, "HLIP": 12}
    if name in heads:
        assert found.encoder.blocks[0].attn.heads == heads[name]


@pytest.mark.parametrize("name", [n for n in CROPS if n not in ("ASAP", "SimCroP", "Merlin", "ViSD-Boost", "R3D-18", "PCRLv2")])
def test_a_voxel_reaches_the_token_of_its_own_patch(name, tmp_path):
    """Before any attention, a change inside one patch moves that patch's token alone, in row-major x, y, z: axis order and direction are right."""
    encoder = reading.load(written(tmp_path, name), crop=CROPS[name]).encoder
    place, (px, py, pz) = (2, 0, 1), encoder.patch
    image = torch.zeros(1, 1, *CROPS[name])
    changed = image.clone()
    changed[0, 0, place[0] * px + 1, place[1] * py + 1, place[2] * pz + 1] = 1.0
    with torch.inference_mode():
        one, other = (encoder.geometry.frame.leave(encoder.embed(encoder.enter(x)), encoder.own_grid) for x in (image, changed))
    moved = (one != other).any(-1)[0].nonzero().flatten().tolist()
    _, gy, gz = encoder.grid
    assert moved == [(place[0] * gy + place[1]) * gz + place[2]]


def test_features_of_a_peer_are_extracted_as_of_any_encoder(toy_store):
    from asapkit import features, store

    opened = store.open(toy_store)
    peer = vit.ViT(Geometry(opened.contract, (12, 12, 6), Frame("zyx", "yx"), (0.0, 1.0)), width=12, depth=1, heads=1)
    found = features.extract(peer, opened, ids=opened.ids[:2], tokens=True, progress=False)
    assert found.pooled.shape == (2, 24) and found.tokens.shape == (2, 5 * 4 * 4, 12)
    other = vit.ViT(Geometry(Contract((1.0, 1.0, 1.0), (60, 48, 24)), (12, 12, 6)), width=12, depth=1, heads=1)
    with pytest.raises(Refused, match="spacing_mm"):
        features.extract(other, opened, progress=False)


def test_a_frame_gives_back_what_it_took():
    frame = Frame("zxy", "xz")
    image = torch.rand(2, 1, 4, 3, 2)
    own = frame.enter(image)
    assert own.shape == (2, 1, 2, 4, 3)
    assert own[0, 0, 0, 0, 1] == image[0, 0, 3, 1, 1], "z and x run backwards, y does not"
    assert torch.equal(frame.leave(own.flatten(1).unsqueeze(-1), (2, 4, 3)).flatten(), image.flatten())


# ---------------------------------------------------------------------------------------------------------------- oracles


def test_asap_is_an_encoder_of_this_house_and_the_same_network_as_a_plain_one(tmp_path):
    encoder = reading.load(written(tmp_path, "ASAP"), crop=(48, 32, 32)).encoder
    assert isinstance(encoder, Encoder)
    state, _ = reading.opened(tmp_path / "ASAP.pt")
    plain = {k: v for k, v in state.items() if not k.startswith(("decoder", "bert", "mask", "finding", "align", "regression"))}
    built = building.vit(plain, geometry=families.ASAP_GEOMETRY, crop=(48, 32, 32))
    other = vit.ViT(Geometry.from_dict(built.settings.pop("geometry")), **built.settings)
    other.load_state_dict(built.state)
    image = torch.rand(1, 1, 48, 32, 32) * 2 - 1
    torch.testing.assert_close(encoder.tokens(image), other.tokens(image), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_released_asap_gives_its_stored_features(shared, tmp_path):
    """Every name of the released state_dict has its place or reason, and the encoder gives what the released code gave."""
    from asapkit import parity

    folder = shared / "golden"
    if not (folder / "encoder_only.npz").exists():
        pytest.skip(f"no reference outputs in {folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    family = next(f for f in families.FAMILIES if f.name == "ASAP")
    state = {}
    for entry in manifest["tensors"]:
        used = bool(family.place(entry["name"])[0]) and entry["kind"] == "generated"
        state[entry["name"]] = torch.from_numpy(parity.generated(entry, manifest["seed"])) if used else torch.zeros(1)
    state["pos_embed"] = F.pad(sincos_positions((7, 7, 7), 768), (0, 0, 1, 0))[None]
    torch.save({"model": state}, tmp_path / "asap.pt")
    encoder = reading.load(tmp_path / "asap.pt", crop=(112, 112, 56)).encoder
    image = torch.from_numpy(parity.read(folder / "inputs.npz")["image"]).float()
    stored = torch.from_numpy(parity.read(folder / "encoder_only.npz")["final_norm"])
    with torch.inference_mode():
        torch.testing.assert_close(encoder(image), stored, atol=1e-5 * float(stored.abs().max()), rtol=0)


@pytest.mark.parametrize("name", ["M3D-CLIP", "fVLM"])
def test_transformers_in_monais_names_equal_monais(name, tmp_path):
    from monai.networks.nets import ViT

    encoder = reading.load(written(tmp_path, name), crop=CROPS[name]).encoder
    state, _ = reading.opened(tmp_path / f"{name}.pt")
    frame = encoder.geometry.frame
    linear = name == "M3D-CLIP"
    theirs = ViT(
        1, frame.own(CROPS[name]), frame.own(encoder.patch), hidden_size=24, mlp_dim=96, num_layers=3, num_heads=1, qkv_bias=not linear,
        proj_type="perceptron" if linear else "conv",
    ).eval()  # fmt: skip
    own = {k.partition(".")[2]: v for k, v in state.items() if k.startswith(("vision_encoder.", "visual_encoder."))}
    own["patch_embedding.position_embeddings"] = encoder.positions
    unused = theirs.load_state_dict(own, strict=False)
    assert all("cross" in k for k in unused.missing_keys) and unused.unexpected_keys in ([], ["cls_token"])
    image = torch.rand(1, 1, *CROPS[name])
    with torch.inference_mode():
        x = theirs.patch_embedding(encoder.enter(image))
        x = torch.cat([own["cls_token"], x], 1) if linear else x
        for block in theirs.blocks:
            x = block(x)
        x = theirs.norm(x)[:, int(linear) :]
        torch.testing.assert_close(encoder.tokens(image), frame.leave(x, encoder.own_grid), atol=1e-5, rtol=1e-5)


def test_m3ae_equals_clips_vision_tower_on_a_slice(tmp_path):
    """Blocks, norms and class token beside transformers' CLIP, on tokens that both are given."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    encoder = reading.load(written(tmp_path, "M3AE", width=64, depth=2), crop=(48, 32, 8)).encoder
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, image_size=32, patch_size=16, layer_norm_eps=1e-5
    )
    clip = CLIPVisionModel(config).eval()
    clip = getattr(clip, "vision_model", clip)
    state = {}
    for key, value in encoder.state_dict().items():
        name = key.replace("blocks.", "encoder.layers.").replace("norm_pre", "pre_layrnorm").replace("attn.proj", "self_attn.out_proj")
        name = name.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
        if "attn.qkv" in name:
            state |= {name.replace("attn.qkv", f"self_attn.{part}_proj"): third for part, third in zip("qkv", value.chunk(3))}
        elif name.startswith(("encoder.", "pre_")):
            state[name] = value
    missing = clip.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    image = torch.rand(1, 1, 48, 32, 8)
    with torch.inference_mode():
        x = torch.cat([encoder.cls_token, encoder.embed(encoder.enter(image))], 1)
        theirs = clip.encoder(inputs_embeds=clip.pre_layrnorm(x)).last_hidden_state[:, 1:]
        ours = encoder.states(encoder.enter(image))[-1]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_hlip_attends_within_slices_and_every_third_block_over_the_scan(tmp_path):
    """Beside a loop over slices that keeps a class token for each."""
    encoder = reading.load(written(tmp_path, "HLIP"), crop=(72, 48, 32)).encoder
    slices, per_slice = 4, 6
    with torch.inference_mode():
        own = encoder.enter(torch.rand(1, 1, 72, 48, 32))
        tokens = encoder.embed(own)[0]
        cls = [encoder.cls_token[0, 0]] * slices
        for number, block in enumerate(encoder.blocks):
            if number in (2, 5):
                out = block(torch.cat([torch.stack(cls).mean(0)[None], tokens])[None])[0]
                cls, tokens = [out[0]] * slices, out[1:]
                continue
            rows = [block(torch.cat([cls[s][None], tokens[s * per_slice : (s + 1) * per_slice]])[None])[0] for s in range(slices)]
            cls, tokens = [row[0] for row in rows], torch.cat([row[1:] for row in rows])
        torch.testing.assert_close(encoder.states(own)[-1][0], tokens, atol=1e-5, rtol=1e-5)


def test_a_row_for_several_scans_is_added_to_hlips_positions(tmp_path):
    m = states.Maker()
    whole = states.hlip(m)
    torch.save(whole, tmp_path / "one.pt")
    whole["state_dict"]["module.visual.trunk.sequential_posemb"] = torch.full((1, 40, 24), 0.5)
    torch.save(whole, tmp_path / "several.pt")
    one, several = (reading.load(tmp_path / f"{n}.pt") for n in ("one", "several"))
    torch.testing.assert_close(several.encoder.positions, one.encoder.positions + 0.5)
    assert "sequential_posemb" in several.report.adapted


def test_a_patch_that_is_the_same_in_every_slice_gives_what_the_plane_gave():
    kernel, image = torch.randn(5, 3, 16, 16), torch.rand(1, 1, 16, 16)
    flat = torch.nn.functional.conv2d(image.expand(1, 3, 16, 16), kernel).flatten()
    deep = torch.nn.functional.conv3d(image[:, :, None].expand(1, 1, 8, 16, 16), vit.raised_patches(kernel, (8, 16, 16))).flatten()
    torch.testing.assert_close(flat, deep, atol=1e-4, rtol=1e-4)


def test_merlin_on_a_volume_alike_in_every_slice_equals_a_2d_resnet(tmp_path):
    """With kernels that are zero but in their middle slice, an inflated network is the plane one: transformers' ResNet."""
    from transformers import ResNetConfig, ResNetModel

    m = states.Maker()
    state = states.merlin(m)
    for value in state.values():
        if value.ndim == 5 and value.shape[2] == 3:
            value[:, :, [0, 2]] = 0
    torch.save(state, tmp_path / "merlin.pt")
    encoder = reading.load(tmp_path / "merlin.pt", crop=(64, 96, 16)).encoder
    config = ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 1, 1], layer_type="bottleneck")
    flat = ResNetModel(config).eval()
    parts = {"convolution": "conv", "normalization": "bn"}
    theirs = {}
    for key in flat.state_dict():
        name = key.replace("embedder.embedder.convolution", "conv1").replace("embedder.embedder.normalization", "bn1")
        if key.startswith("encoder"):
            _, _, stage, _, block, *rest = key.split(".")
            middle = f"{parts[rest[2]]}{int(rest[1]) + 1}" if rest[0] == "layer" else f"downsample.{int(rest[1] == 'normalization')}"
            name = f"layer{int(stage) + 1}.{block}.{middle}.{rest[-1]}"
        value = encoder.state_dict()[name]
        theirs[key] = value[:, :, value.shape[2] // 2] if value.ndim == 5 else value
    flat.load_state_dict(theirs)
    plane = torch.rand(1, 1, 64, 96) * 2 - 1
    with torch.inference_mode():
        ours = encoder.tokens(plane[..., None].expand(-1, -1, -1, -1, 16)).reshape(2, 3, 128)
        other = flat(((plane + 1) / 2).expand(-1, 3, -1, -1)).last_hidden_state[0].permute(1, 2, 0)
    torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


def test_visd_boost_equals_monais_resnet_where_dilation_says_nothing(tmp_path):
    """With kernels that are zero but in their middle, the two dilated stages are plain ones."""
    from monai.networks.nets import resnet

    m = states.Maker()
    state = states.visd_boost(m)["model"]
    for key, value in state.items():
        if re.search(r"layer[34].*conv", key):
            middle = value[:, :, 1, 1, 1].clone()
            value.zero_()[:, :, 1, 1, 1] = middle
    torch.save({"model": state}, tmp_path / "visd.pt")
    encoder = reading.load(tmp_path / "visd.pt", crop=(96, 64, 32)).encoder
    assert [encoder.get_submodule(f"layer{n}.1.conv2").dilation[0] for n in (1, 2, 3, 4)] == [1, 1, 2, 4]
    theirs = resnet.ResNet(
        "basic", [2, 2, 2, 2], [4, 8, 16, 32], n_input_channels=1, conv1_t_size=7, conv1_t_stride=(1, 2, 2), shortcut_type="A", feed_forward=False
    ).eval()
    own = {k.removeprefix("visual_encoder.res_model."): v for k, v in state.items() if "res_model" in k}
    theirs.load_state_dict(own)
    image = torch.rand(1, 1, 96, 64, 32)
    with torch.inference_mode():
        x = theirs.maxpool(theirs.act(theirs.bn1(theirs.conv1(encoder.enter(image)))))
        x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        x = encoder.proj4(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.tokens(image), encoder.geometry.frame.leave(x, encoder.own_grid), atol=1e-5, rtol=1e-4)


def test_pcrlv2_is_two_convolutions_a_level(tmp_path):
    encoder = reading.load(written(tmp_path, "PCRLv2"), crop=(24, 16, 32)).encoder
    state = states.pcrlv2(states.Maker())["state_dict"]
    image = torch.rand(1, 1, 24, 16, 32)
    x = (image.flip((2, 3)) + 1) / 2
    for level in (64, 128, 256, 512):
        x = x if level == 64 else F.max_pool3d(x, 2)
        for k in (0, 1):
            b = f"down_tr{level}.ops.{k}."
            x = F.conv3d(x, state[f"{b}conv1.weight"], state[f"{b}conv1.bias"], padding=1)
            norm = [state[f"{b}bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
            x = F.relu(F.batch_norm(x, *norm))
    torch.testing.assert_close(encoder.tokens(image), x.flip((2, 3)).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_ct_clip_beside_a_loop(tmp_path):
    """One patch, one head, one pair at a time, with the source's own tensors; places along z read as the source reads them."""
    encoder = reading.load(written(tmp_path, "CT-CLIP"), crop=(12, 8, 6)).encoder
    s = {k.removeprefix("visual_transformer."): v for k, v in states.ct_clip(states.Maker()).items()}
    image = torch.rand(1, 1, 12, 8, 6) * 2 - 1
    own = image[0, 0].flip((0, 1)).permute(2, 0, 1)  # z, x, y, the last two from the other end
    t, h, w = 3, 3, 2
    cut = torch.stack([own[2 * i : 2 * i + 2, 4 * j : 4 * j + 4, 4 * k : 4 * k + 4].flatten() for i in range(t) for j in range(h) for k in range(w)])
    x = F.layer_norm(cut, (32,), s["to_patch_emb.1.weight"], s["to_patch_emb.1.bias"])
    x = F.linear(x, s["to_patch_emb.2.weight"], s["to_patch_emb.2.bias"])
    x = F.layer_norm(x, (16,), s["to_patch_emb.3.weight"], s["to_patch_emb.3.bias"]).reshape(t, h * w, 16)
    x = looped_stage(x, s, "enc_spatial_transformer.", (t, h, w), looped_bias(s, h, w))
    x = looped_stage(x.transpose(0, 1), s, "enc_temporal_transformer.", (t, h, w), None).transpose(0, 1).reshape(-1, 16)
    book = s["vq._codebook.embed"][0]
    codes = torch.stack([book[max(range(12), key=lambda c: float(F.cosine_similarity(token, book[c], dim=0)))] for token in x])
    torch.testing.assert_close(encoder.tokens(image), encoder.geometry.frame.leave(codes[None], (t, h, w)), atol=1e-5, rtol=1e-5)
    before = encoder.geometry.frame.leave(x[None], (t, h, w))
    torch.testing.assert_close(encoder.temporal_norm(encoder.hidden(image, (-1,))[0]), before, atol=1e-4, rtol=1e-4)


def looped_bias(s: dict, h: int, w: int) -> torch.Tensor:
    bias = torch.zeros(2, h * w, h * w)
    for i in range(h * w):
        for j in range(h * w):
            apart = torch.tensor([float(i // w - j // w), float(i % w - j % w)])
            y = torch.sign(apart) * torch.log(apart.abs() + 1)
            for k in ("0.0", "1.0"):
                y = F.leaky_relu(F.linear(y, s[f"spatial_rel_pos_bias.net.{k}.weight"], s[f"spatial_rel_pos_bias.net.{k}.bias"]), 0.1)
            bias[:, i, j] = F.linear(y, s["spatial_rel_pos_bias.net.2.weight"], s["spatial_rel_pos_bias.net.2.bias"])
    return bias


def looped_stage(x: torch.Tensor, s: dict, stage: str, shape: tuple, bias: torch.Tensor | None) -> torch.Tensor:
    for layer in range(2):
        b = f"{stage}layers.{layer}."
        volume = F.pad(x.reshape(1, *shape, 16).permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 2, 0))
        convolved = F.conv3d(volume, s[f"{b}0.dsconv.weight"], s[f"{b}0.dsconv.bias"], groups=16)
        x = x + convolved.permute(0, 2, 3, 4, 1).reshape(x.shape)
        x = x + torch.stack([looped_attention(row, s, f"{b}1.", bias) for row in x])
        up = F.linear(F.layer_norm(x, (16,), s[f"{b}3.0.weight"], s[f"{b}3.0.bias"]), s[f"{b}3.1.weight"])
        half = up.shape[-1] // 2
        x = x + F.linear(up[..., :half] * F.gelu(up[..., half:]), s[f"{b}3.4.weight"])
    return F.layer_norm(x, (16,), s[f"{stage}norm_out.gamma"], s[f"{stage}norm_out.beta"])


def looped_attention(x: torch.Tensor, s: dict, b: str, bias: torch.Tensor | None) -> torch.Tensor:
    q = F.linear(F.layer_norm(x, (16,), s[f"{b}norm.gamma"], s[f"{b}norm.beta"]), s[f"{b}to_q.weight"])
    k, v = F.linear(x, s[f"{b}to_kv.weight"]).chunk(2, -1)
    mixed = torch.zeros(len(x), 16)
    for head in range(2):
        of = slice(8 * head, 8 * head + 8)
        for i in range(len(x)):
            scores = torch.stack([8 * (F.normalize(q[i, of], dim=0) * s[f"{b}q_scale"]) @ (F.normalize(k[j, of], dim=0) * s[f"{b}k_scale"])
                                  for j in range(len(x))])  # fmt: skip
            mixed[i, of] = (scores if bias is None else scores + bias[head, i]).softmax(0) @ v[:, of]
    return F.linear(mixed, s[f"{b}to_out.weight"])


def test_sigvlps_blocks_are_siglips_and_its_rotation_is_the_released_one(tmp_path):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    encoder = reading.load(written(tmp_path, "SigVLP", width=64), crop=(48, 32, 64)).encoder
    config = SiglipVisionConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256, image_size=32, patch_size=16)
    theirs = SiglipVisionModel(config).eval()
    theirs = getattr(theirs, "vision_model", theirs)
    state = {k.removeprefix("base_model.vision_model."): v for k, v in reading.opened(tmp_path / "SigVLP.pt")[0].items()}
    wrong = theirs.load_state_dict({k: v for k, v in state.items() if k.startswith(("encoder", "post"))}, strict=False)
    assert not wrong.unexpected_keys
    own = encoder.enter(torch.rand(1, 1, 48, 32, 64))
    attention = encoder.blocks[0].attn
    with torch.inference_mode():
        q = torch.rand(1, 1, 24, 64)
        turned = attention.turned(q)
        for n in range(24):
            for d in range(64):
                angle = n * 1000.0 ** (-2 * (d // 2) / 64)
                partner = -q[0, 0, n, d + 32] if d < 32 else q[0, 0, n, d - 32]
                assert turned[0, 0, n, d] == pytest.approx(float(q[0, 0, n, d] * math.cos(angle) + partner * math.sin(angle)), abs=1e-4)
        for block in encoder.blocks:
            block.attn.cos.fill_(1.0), block.attn.sin.fill_(0.0)
        expected = theirs.post_layernorm(theirs.encoder(inputs_embeds=encoder.embed(own)).last_hidden_state)
        torch.testing.assert_close(encoder.finish(encoder.states(own)[-1]), expected, atol=1e-5, rtol=1e-5)


def test_sigvlps_position_code_is_a_channels_last_code_on_a_map_with_channels_first():
    """What `PositionalEncoding3D` adds to (channels, slices, rows, columns) when it takes columns for features: a loop over its definition."""
    from asapkit.peers.siglip import column_code

    width, (d, h, w) = 20, (2, 3, 4)
    n = 2 * math.ceil(width / 6)
    code = column_code((d, h, w), width).reshape(d, h, w, width)
    for c, z, y, x in itertools.product(range(width), range(d), range(h), range(w)):
        angle = c / 10000 ** (2 * (x // 2) / n)
        assert float(code[z, y, x, c]) == pytest.approx(math.sin(angle) if x % 2 == 0 else math.cos(angle), abs=1e-5)


def test_cxr_bert_is_a_bert_of_transformers(tmp_path):
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    theirs = BertModel(
        BertConfig(vocab_size=30, hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256, max_position_embeddings=40)
    ).eval()
    state = {f"bert.{k}": v for k, v in theirs.state_dict().items()} | {"cls_projection_head.dense_to_hidden.weight": torch.ones(8, 64)}
    torch.save(state, tmp_path / "bert.bin")
    found = reading.load(tmp_path / "bert.bin")
    tokens, real = torch.tensor([[1, 5, 9, 0]]), torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(found.encoder(tokens, real)[:, :3], theirs(tokens[:, :3]).last_hidden_state, atol=1e-5, rtol=1e-5)
    assert found.report.dropped["bert.pooler.dense.weight"]


# ---------------------------------------------------------------------------------------------------------------- positions


def test_sincos_positions_are_computed_for_another_grid_and_learned_ones_follow_their_axis():
    old, new = (5, 4, 3), (7, 2, 6)
    moved, how = vit.moved_positions(sincos_positions(old, 24), old, new)
    assert how == "computed" and torch.equal(moved, sincos_positions(new, 24))
    for axis in range(3):  # a table that is linear in one index stays linear in it, and flat along the others
        ramp = torch.stack(torch.meshgrid(*(torch.arange(g, dtype=torch.float) for g in old), indexing="ij"))[axis].reshape(-1, 1)
        moved, how = vit.moved_positions(ramp, old, new)
        assert how == "interpolated"
        centres = ((torch.arange(new[axis]) + 0.5) * old[axis] / new[axis] - 0.5).clamp(0, old[axis] - 1)
        there = torch.stack(torch.meshgrid(*(torch.arange(g) for g in new), indexing="ij"))[axis]
        torch.testing.assert_close(moved.reshape(new), centres[there])


def test_raised_positions_hold_the_plane_in_every_slice():
    table = torch.randn(9, 12)
    raised = vit.raised_positions(table, (4, 3, 3)).reshape(4, 9, 12)
    code = raised[:, 0] - table[0]
    torch.testing.assert_close(raised, table[None] + code[:, None])
    torch.testing.assert_close(code[0], torch.tensor([0.0] * 6 + [1.0] * 6))


def test_a_checkpoint_keeps_the_published_grid_when_no_crop_is_asked_for(tmp_path):
    encoder = reading.load(written(tmp_path, "fVLM", width=12, depth=1)).encoder
    assert encoder.grid == (11, 16, 7) and encoder.contract == Contract((1.0, 1.0, 3.0), (352, 256, 112), (-1150.0, 350.0))
    with pytest.raises(Refused, match="not a multiple of this encoder's patch"):
        reading.load(tmp_path / "fVLM.pt", crop=(100, 64, 64))
    with pytest.raises(Refused, match=r"loaded for \(352, 256, 112\)"):
        encoder.tokens(torch.zeros(1, 1, 96, 64, 64))


def test_positions_of_the_asked_grid_are_taken_as_that_grids(tmp_path):
    """An encoder trained on another crop than the published one."""
    state = {k: v for k, v in states.simcrop(states.Maker())["model"].items() if k != "pos_embed"}
    state["pos_embed"] = F.pad(sincos_positions((3, 2, 4), 24), (0, 0, 1, 0))[None]
    torch.save({"model": state}, tmp_path / "small.pt")
    encoder = reading.load(tmp_path / "small.pt", crop=(48, 32, 32)).encoder
    assert isinstance(encoder, Encoder) and torch.equal(encoder.positions, sincos_positions((3, 2, 4), 24))
    with pytest.raises(Refused, match="positions of 25 patches, but the published crop"):
        reading.load(tmp_path / "small.pt", crop=(48, 48, 32))


@pytest.mark.parametrize(("axis", "own"), [("x", 2), ("y", 1), ("z", 0)])
def test_learned_positions_go_to_another_grid_along_their_own_axis_and_direction(axis, own, tmp_path):
    """fVLM's rows and columns run to the back and to the left: an index along them grows against y and x."""
    whole = states.fvlm(states.Maker())
    grid = (7, 16, 11)
    ramp = torch.stack(torch.meshgrid(*(torch.arange(g, dtype=torch.float) for g in grid), indexing="ij"))[own].reshape(1, -1, 1)
    whole["model"]["visual_encoder.patch_embedding.position_embeddings"] = ramp.expand(-1, -1, 24)
    torch.save(whole, tmp_path / "ramp.pt")
    encoder = reading.load(tmp_path / "ramp.pt", crop=(96, 64, 64)).encoder  # 3 x 4 x 4 tokens
    there = encoder.geometry.frame.leave(encoder.positions, encoder.own_grid)[0, :, 0].reshape(3, 4, 4)
    steps = {a: there.diff(dim=n) for n, a in enumerate("xyz")}
    assert all((steps[a] == 0).all() for a in "xyz" if a != axis)
    assert (steps[axis] < 0).all() if axis in "xy" else (steps[axis] > 0).all()


# ---------------------------------------------------------------------------------------------------------------- bad files


class Hostile:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def refused(file: Path) -> str:
    with pytest.raises(Refused) as said:
        reading.load(file)
    assert "\n" not in str(said.value) and file.name in str(said.value)
    return str(said.value)


@pytest.mark.parametrize("old", [True, False], ids=["legacy", "zip"])
def test_a_hostile_pickle_is_refused_and_not_run(old, tmp_path):
    mark = tmp_path / "mark"
    torch.save({"model": {"weight": torch.ones(1)}, "extra": Hostile(mark)}, tmp_path / "bad.pt", _use_new_zipfile_serialization=not old)
    assert "not opened, it holds posix.system, which could run code" in refused(tmp_path / "bad.pt")
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_bare_pickle_is_no_file_of_weights_and_nothing_else_is_said(protocol, tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"model": Hostile(mark)}, protocol=protocol))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = refused(tmp_path / "bare.pt")
    assert ("not a file of weights, or damaged; fetch it again" in said) or "holds posix.system" in said
    assert not mark.exists()


def test_a_damaged_pickle_is_told_from_code(tmp_path):
    import random

    file, chance = tmp_path / "flipped.pt", random.Random(0)
    for old in (True, False):
        torch.save(states.mae(states.Maker(), width=6, depth=1), tmp_path / "whole.pt", _use_new_zipfile_serialization=not old)
        whole = (tmp_path / "whole.pt").read_bytes()
        for _ in range(20):
            damaged, start = bytearray(whole), chance.randrange(100, 1500)
            damaged[start : start + 60] = bytes(byte ^ 0xFF for byte in damaged[start : start + 60])
            file.write_bytes(damaged)
            assert not re.search(r"it holds \d", refused(file))
    with zipfile.ZipFile(file, "w") as empty:
        empty.writestr("a", "b")
    content = bytearray(file.read_bytes())
    content[-22 - 46 : -22] = bytes(46)
    file.write_bytes(content)
    assert "damaged" in refused(file)


def test_whole_modules_and_programs_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "holds torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pt")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as program:
        program.writestr("program/constants.pkl", b"")
    assert "it is a program (TorchScript)" in refused(tmp_path / "program.pt")


def test_settings_of_a_source_in_a_namespace_are_no_danger(tmp_path):
    from argparse import Namespace

    whole = states.mae(states.Maker())
    torch.save(whole | {"args": Namespace(lr=1e-4)}, tmp_path / "mae.pth")
    assert reading.load(tmp_path / "mae.pth", crop=(48, 32, 32)).report.dropped["args"] == "beside the weights: not read"


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(share, suffix, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / f"cut{suffix}"
    whole = states.mae(states.Maker(), width=6, depth=1)["model"]
    torch.save(whole, file) if suffix == ".pt" else save_file(whole, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "truncated or damaged" in refused(file)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02."])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "other.bin").write_bytes(content)
    refused(tmp_path / "other.bin")


def changed(folder: Path, name: str, **tensors) -> Path:
    state = dict(MAKERS[name](states.Maker())["model"])
    for key, value in tensors.items():
        key = key.replace("__", ".")
        state.pop(key) if value is None else state.__setitem__(key, value)
    torch.save({"model": state}, folder / "changed.pt")
    return folder / "changed.pt"


def test_nan_and_infinity_are_refused_by_name(tmp_path):
    file = changed(tmp_path, "MAE", blocks__1__norm1__bias=torch.full((24,), float("nan")))
    assert "blocks.1.norm1.bias holds NaN or infinity" in refused(file)
    file = changed(tmp_path, "MAE", mask_token=torch.full((1, 1, 24), float("inf")))
    assert reading.load(file, crop=(48, 32, 32)), "a dropped tensor may hold what it likes"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("blocks__1__attn__qkv__weight", torch.ones(72, 24).to(torch.float8_e4m3fn), "holds float8_e4m3fn; weights are read as dense float32"),
        ("blocks__1__attn__qkv__weight", torch.ones(72, 24).to_sparse(), "is not stored densely"),
        ("blocks__1__attn__qkv__weight", torch.ones(72, 24, dtype=torch.int8), "holds int8; weights"),
        ("blocks__1__attn__qkv__weight", torch.ones(72, 24, dtype=torch.complex64), "holds complex64; weights"),
        ("blocks__1__attn__qkv__weight", torch.ones(72, 24, device="meta"), "has a shape but no numbers (a meta tensor)"),
        ("patch_embed__proj__weight", torch.ones(24, 1, 0, 16, 8), "of shape (24, 1, 0, 16, 8) holds no numbers"),
        ("norm__bias", torch.full((24,), 1e300, dtype=torch.float64), "holds NaN or infinity"),
    ],
    ids=["fp8", "sparse", "int8", "complex", "meta", "zero-sized", "too-large"],
)  # fmt: skip
def test_a_tensor_that_is_no_plain_table_of_numbers_is_refused_by_name(key, value, says, tmp_path):
    said = refused(changed(tmp_path, "SimCroP", **{key: value}))
    assert f"{key.replace('__', '.')} {says}" in said


def test_a_count_may_be_whole_and_a_dropped_tensor_of_any_kind(tmp_path):
    assert reading.load(written(tmp_path, "Merlin"), crop=CROPS["Merlin"])
    file = changed(tmp_path, "MAE", mask_token=torch.ones(1, 1, 24, dtype=torch.int8))
    assert "mask_token" in reading.load(file, crop=CROPS["MAE"]).report.dropped


def test_a_patch_without_voxels_is_no_geometry():
    with pytest.raises(Refused, match="not a multiple"):
        Geometry(Contract((1.0, 1.0, 1.0), (8, 8, 8)), (8, 0, 8))


def test_wrong_shapes_and_missing_tensors_are_refused_by_name(tmp_path):
    said = refused(changed(tmp_path, "MAE", blocks__1__mlp__fc1__weight=torch.ones(95, 24)))
    assert "blocks.1.mlp.fc1.weight of shape (95, 24), where the rest of the file asks for (96, 24)" in said
    assert "MAE without blocks.1.norm2.bias; the file is incomplete" in refused(changed(tmp_path, "MAE", blocks__1__norm2__bias=None))
    assert "other shapes" in refused(changed(tmp_path, "MAE", pos_embed=torch.ones(1, 190, 24)))
    assert "positions of 2000 patches" in refused(changed(tmp_path, "SimCroP", pos_embed=torch.ones(1, 2000, 24)))
    middle = [n.replace(".", "__") for n in MAKERS["MAE"](states.Maker())["model"] if n.startswith("blocks.1.")]
    assert "some of them are missing" in refused(changed(tmp_path, "MAE", **dict.fromkeys(middle)))


def test_a_bias_is_made_of_zeros_only_where_the_source_has_none(tmp_path):
    assert "MAE without blocks.2.attn.qkv.bias" in refused(changed(tmp_path, "MAE", blocks__2__attn__qkv__bias=None))
    none = {f"blocks__{n}__attn__qkv__bias": None for n in range(3)}
    assert "MAE without blocks.0.attn.qkv.bias" in refused(changed(tmp_path, "MAE", **none))
    assert "MAE without cls_token" in refused(changed(tmp_path, "MAE", cls_token=None))
    adapted = reading.load(written(tmp_path, "M3D-CLIP"), crop=CROPS["M3D-CLIP"]).report.adapted
    assert adapted["blocks.*.attn.qkv.bias"] == "zeros, the source has no bias there"


def test_an_encoder_of_other_sizes_than_the_published_one_is_loaded_and_said(tmp_path):
    """Whole blocks may be gone from a file without a gap in their numbers."""
    warnings = reading.load(written(tmp_path, "SimCroP", depth=2), crop=CROPS["SimCroP"]).report.warnings
    assert "depth 2, where the published model has 12" in warnings


def test_a_name_that_the_family_does_not_have_is_no_partial_load(tmp_path):
    assert "looks like MAE, but that has no surprise" in refused(changed(tmp_path, "MAE", surprise=torch.ones(2)))


def test_an_unknown_family_is_told_the_nearest_and_ten_names(tmp_path):
    state = {f"backbone.stage{n}.weight": torch.ones(1) for n in range(14)} | {"patch_embed.proj.bias": torch.ones(3)}
    torch.save(state, tmp_path / "who.pt")
    said = refused(tmp_path / "who.pt")
    assert "no known family; nearest is ASAP, which has patch_embed.proj.weight of 5 axes" in said
    assert all(f"stage{n}." in said for n in range(10)) and "stage10" not in said and "and 4 more" in said


def test_a_tensor_under_two_names_is_taken_once_and_two_tensors_for_one_place_are_refused(tmp_path):
    whole = states.sigvlp(states.Maker())
    one = "module._orig_mod.base_model.vision_model.post_layernorm.weight"
    whole["model"]["vision_model.post_layernorm.weight"] = whole["model"][one]
    torch.save(whole, tmp_path / "twice.pt")
    dropped = reading.load(tmp_path / "twice.pt", crop=CROPS["SigVLP"]).report.dropped
    assert dropped["vision_model.post_layernorm.weight"] == "the same as base_model.vision_model.post_layernorm.weight"
    whole["model"]["vision_model.post_layernorm.weight"] = whole["model"][one] + 1
    torch.save(whole, tmp_path / "twice.pt")
    assert "differ, and both are norm.weight" in refused(tmp_path / "twice.pt")


def test_a_query_without_its_key_is_refused(tmp_path):
    whole = states.sigvlp(states.Maker())
    del whole["model"]["module._orig_mod.base_model.vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    torch.save(whole, tmp_path / "cut.pt")
    assert "blocks.1.attn.qkv.bias lacks its query, key or value" in refused(tmp_path / "cut.pt")


def test_ct_lipro_is_ct_clip_with_a_classifier(tmp_path):
    state = {f"trained_model.{k}": v for k, v in states.ct_clip(states.Maker()).items()} | {"classifier.weight": torch.ones(18, 16)}
    torch.save(state, tmp_path / "lipro.pt")
    report = reading.load(tmp_path / "lipro.pt", crop=CROPS["CT-CLIP"]).report
    assert report.family == "CT-CLIP" and report.dropped["classifier.weight"] == "CT-LiPro's classifier"


def test_a_file_like_nothing_known_is_told_all_families(tmp_path):
    torch.save({"backbone.weight": torch.ones(1)}, tmp_path / "who.pt")
    said = refused(tmp_path / "who.pt")
    assert all(f.name in said for f in families.FAMILIES) and "backbone.weight" in said


def test_a_wrong_shape_is_told_in_the_files_own_name(tmp_path):
    state = states.merlin(states.Maker())
    state["encode_image.i3_resnet.layer1.0.conv2.weight"] = torch.ones(4, 3, 3, 3, 3)
    torch.save(state, tmp_path / "merlin.pt")
    assert "encode_image.i3_resnet.layer1.0.conv2.weight of shape (4, 3, 3, 3, 3)" in refused(tmp_path / "merlin.pt")


def test_halves_are_widened_and_it_is_said(tmp_path):
    state = {k: v.bfloat16() for k, v in states.mae(states.Maker())["model"].items()}
    torch.save({"model": state}, tmp_path / "half.pt")
    found = reading.load(tmp_path / "half.pt", crop=(48, 32, 32))
    assert found.encoder.norm.weight.dtype == torch.float32
    assert "stored as bfloat16, computed in float32" in found.report.warnings


# ------------------------------------------------------------------------------------------- what must not pass without a word


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("crop", [(48, 32, 32), (64, 48, 24)])
def test_the_code_of_positions_is_known_in_half_precision_too(kind, crop, tmp_path):
    """Rounded to a narrow type it is still the code, and computed anew: exact on any grid."""
    state = {k: v for k, v in states.simcrop(states.Maker())["model"].items() if k != "pos_embed"}
    state["pos_embed"] = F.pad(sincos_positions((3, 2, 4), 24), (0, 0, 1, 0))[None]
    torch.save({"model": {name: value.to(kind) for name, value in state.items()}}, tmp_path / "half.pt")
    if crop == (48, 32, 32):
        encoder = reading.load(tmp_path / "half.pt", crop=crop).encoder
        assert isinstance(encoder, Encoder) and torch.equal(encoder.positions, sincos_positions((3, 2, 4), 24))
    table = sincos_positions((3, 2, 4), 24).to(kind).float()
    moved, how = vit.moved_positions(table, (3, 2, 4), tuple(c // p for c, p in zip(crop, (16, 16, 8), strict=True)))
    assert how == ("kept" if crop == (48, 32, 32) else "computed")
    if how == "computed":
        assert torch.equal(moved, sincos_positions((4, 3, 3), 24))
    learned = (sincos_positions((3, 2, 4), 24) + 0.02).to(kind).float()
    assert vit.moved_positions(learned, (3, 2, 4), (4, 3, 3))[1] == "interpolated"


@pytest.mark.parametrize("name", ["MAE", "MRM", "M3AE", "Hi-End-MAE", "M3D-CLIP", "fVLM", "SimCroP"])
def test_a_turned_table_of_positions_is_refused(name, tmp_path):
    whole = MAKERS[name](states.Maker())
    state = whole.get("model", whole.get("state_dict", whole))
    key = next(k for k in state if re.search("pos_emb|position_emb|positional_emb", k) and "decoder" not in k and "bert" not in k)
    state[key] = state[key].transpose(-1, -2).contiguous()
    torch.save(whole, tmp_path / "turned.pt")
    with pytest.raises(Refused, match="features along the last axis|of other shapes|fingerprint|nearest"):
        reading.load(tmp_path / "turned.pt", crop=CROPS[name])


def test_a_class_token_of_one_number_and_a_turned_codebook_are_refused(tmp_path):
    assert "cls_token of shape (1, 1, 1), where the rest of the file asks for 24 features" in refused(
        changed(tmp_path, "MAE", cls_token=torch.ones(1, 1, 1))
    )
    whole = states.ct_clip(states.Maker())
    state = whole.get("model", whole)
    key = next(k for k in state if k.endswith("_codebook.embed"))
    state[key] = state[key].transpose(-1, -2).contiguous()
    torch.save(whole, tmp_path / "turned.pt")
    assert "codebook of shape" in refused(tmp_path / "turned.pt")


def test_a_file_without_its_last_block_is_no_smaller_model():
    from asapkit.peers.family import shallower

    sizes = {"width": 768, "depth": 12}
    with pytest.raises(Refused, match="x.pt: ASAP with 11 of its 12 blocks; the file is incomplete"):
        shallower({"config": {"width": 768, "depth": 11}}, sizes, name="x.pt: ASAP")
    shallower({"width": 384, "depth": 6}, sizes, name="another size of the family")
    shallower({"width": 768, "depth": 12}, sizes, name="whole")
    shallower({"depth": 6}, {"depth": 12}, name="a family of several widths")
    with pytest.raises(Refused, match="blocks; the file is incomplete"):
        shallower({"stem": 64, "blocks": [3, 8, 35, 3]}, {"stem": 64, "blocks": [3, 8, 36, 3]}, name="Merlin")


def test_two_sets_of_weights_in_one_file_are_refused_and_equal_ones_are_not(tmp_path):
    state = states.simcrop(states.Maker())["model"]
    twice = state | {f"module.{name}": value.clone() for name, value in state.items()}
    torch.save({"model": twice}, tmp_path / "twice.pt")
    assert reading.load(tmp_path / "twice.pt", crop=(48, 32, 32))
    twice["module.norm.bias"] = state["norm.bias"] + 1
    torch.save({"model": twice}, tmp_path / "twice.pt")
    assert "module.norm.bias and another tensor called norm.bias differ" in refused(tmp_path / "twice.pt")
    torch.save({"model": state | {"model.norm.bias": state["norm.bias"] + 1}}, tmp_path / "twice.pt")
    assert "model.norm.bias and another tensor called norm.bias differ" in refused(tmp_path / "twice.pt")


@pytest.mark.parametrize("kind", ["float8", "sparse", "meta first"])
def test_a_second_tensor_of_a_kind_that_cannot_be_compared_is_refused_in_one_line(tmp_path, kind):
    state = states.simcrop(states.Maker())["model"]
    plain = state["norm.bias"]
    odd = {"float8": lambda: plain.to(torch.float8_e4m3fn), "sparse": plain.to_sparse, "meta first": lambda: plain}[kind]()
    if kind == "meta first":
        state["norm.bias"] = plain.to("meta")
        torch.save({"model": state | {"model.norm.bias": odd}}, tmp_path / "twice.pt")
        assert reading.load(tmp_path / "twice.pt", crop=(48, 32, 32))  # the numbers that are there
        return
    torch.save({"model": state | {"model.norm.bias": odd}}, tmp_path / "twice.pt")
    assert "model.norm.bias and another tensor called norm.bias differ" in refused(tmp_path / "twice.pt")


def test_lightnings_names_other_suffixes_and_averages_are_understood(tmp_path):
    from safetensors.torch import save_file

    state = states.simcrop(states.Maker())["model"]
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, tmp_path / "lightning.ckpt")
    torch.save({"state_dict": {f"module.model.{name}": value for name, value in state.items()}}, tmp_path / "ranks.ckpt")
    save_file(state, tmp_path / "safe.pt")
    save_file(state, tmp_path / "safe.SAFETENSORS")
    beside = {f"model.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(3)}
    torch.save({"state_dict": beside}, tmp_path / "beside.ckpt")
    assert "looks like SimCroP, but that has no loss.weight; nothing is loaded in part" in refused(tmp_path / "beside.ckpt")
    for name in ("lightning.ckpt", "ranks.ckpt", "safe.pt", "safe.SAFETENSORS"):
        assert reading.load(tmp_path / name, crop=(48, 32, 32)).report.family == "SimCroP"
    torch.save({"model_ema": state, "epoch": 3}, tmp_path / "ema.pt")
    assert "holds no weights under state_dict, model_state_dict, model; save model_ema alone" in refused(tmp_path / "ema.pt")


def test_thirds_of_unlike_shapes_are_refused_by_name():
    with pytest.raises(Refused, match=r"x.pt: query, key and value of blocks.0.qkv have the shapes \(4, 4\), \(16,\), \(4, 4\)"):
        reading._joined({f"blocks.0.qkv:{n}": torch.ones(s) for n, s in (("q", (4, 4)), ("k", 16), ("v", (4, 4)))}, name="x.pt")


def test_the_line_of_a_training_says_what_the_report_warns_of(tmp_path):
    torch.save({k: v.half() for k, v in states.mae(states.Maker())["model"].items()}, tmp_path / "half.pt")
    brief = reading.load(tmp_path / "half.pt", crop=(48, 32, 32)).report.brief()
    assert "stored as float16, computed in float32" in brief and "\n" not in brief
