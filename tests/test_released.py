"""The released model's names: each has a place or a reason, and the whole model equals its stored outputs where those are at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from asapkit import parity, released
from asapkit.types import Refused


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("blocks.3.attn.qkv.weight", ("encoder.blocks.3.attn.qkv.weight", None)),
        ("patch_embed.proj.weight", ("encoder.embed.weight", None)),
        ("decoder_blocks.1.mlp.fc2.bias", ("decoder.blocks.1.mlp.fc2.bias", None)),
        ("bert_decoder.bert.encoder.layer.2.attention.self.key.bias", ("report.words.layers.layers.2.self_attn.in_proj_bias", "key")),
        ("pos_embed", None),
        ("bert_topk_mlp.weight", None),
    ],
)
def test_names_have_a_place_or_a_reason(name, place):
    assert released.place(name) == place
    assert bool(released.why_dropped(name)) == (place is None)


def test_a_foreign_name_is_refused():
    with pytest.raises(ValueError, match="backbone.conv1.weight is no parameter"):
        released.place("backbone.conv1.weight")


def test_shapes_change_as_the_modules_do():
    layer = "bert_decoder.bert.encoder.layer.0.attention.self."
    thirds = {f"{layer}{third}.weight": torch.full((4, 4), float(n)) for n, third in enumerate(released.THIRDS)}
    convolution = torch.arange(2 * 1 * 2 * 3 * 4.0).view(2, 1, 2, 3, 4)
    ours = released.translate(
        thirds | {"patch_embed.proj.weight": convolution, "regression_head.weight": torch.ones(1, 4), "pos_embed": torch.ones(1)}
    )
    joined = ours["report.words.layers.layers.0.self_attn.in_proj_weight"]
    assert joined.shape == (12, 4) and [float(part.mean()) for part in joined.chunk(3)] == [0, 1, 2]
    voxels = torch.rand(1, 1, 2, 3, 4)
    assert torch.allclose(torch.nn.functional.conv3d(voxels, convolution).flatten(), ours["encoder.embed.weight"] @ voxels.flatten())
    assert ours["alignment.selector.projection"].shape == (4,) and set(ours) == {
        "report.words.layers.layers.0.self_attn.in_proj_weight",
        "encoder.embed.weight",
        "alignment.selector.projection",
    }
    with pytest.raises(ValueError, match="lack its query and value"):
        released.translate({f"{layer}key.weight": torch.ones(4, 4)})


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden"
    if not (folder / "manifest.json").exists():
        pytest.skip(f"no reference outputs in {folder}")
    return folder


def test_every_released_tensor_is_placed_once(golden):
    names = [t["name"] for t in json.loads((golden / "manifest.json").read_text())["tensors"]]
    places = [place for name in names if (place := released.place(name)) is not None]
    assert len(set(places)) == len(places) > 350


def test_damaged_reference_outputs_are_refused_by_file_and_name(tmp_path):
    np.savez(tmp_path / "inputs.npz", image=np.zeros(3))
    with pytest.raises(Refused, match=r"inputs.npz: lacks ids"):
        parity.read(tmp_path / "inputs.npz")["ids"]
    (tmp_path / "outputs.npz").write_bytes((tmp_path / "inputs.npz").read_bytes()[:40])
    with pytest.raises(Refused, match=r"outputs.npz: cannot be read"):
        parity.read(tmp_path / "outputs.npz")
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(Refused, match=r"manifest.json: cannot be read"):
        parity.read(tmp_path / "manifest.json")


@pytest.mark.slow
def test_official_mode_equals_the_released_model(golden):
    rows = parity.compare(golden)
    assert len(rows) > 400
    assert [r for r in rows if not r.good] == []
    assert "all equal" in parity.report(rows)


@pytest.mark.slow
def test_the_order_of_the_reports_makes_no_difference(golden, tmp_path):
    for file in golden.iterdir():
        if file.suffix != ".npz":
            (tmp_path / file.name).write_bytes(file.read_bytes())
            continue
        stored = dict(np.load(file))
        whole = ("pos_embed", "seg_pos_embed", "losses", "lowtie_losses", "mlm_vocab_columns")
        np.savez(tmp_path / file.name, **{k: v[::-1] if v.ndim and len(v) == 2 and k not in whole else v for k, v in stored.items()})
    assert [r for r in parity.compare(tmp_path) if not r.good] == []


@pytest.mark.slow
def test_a_model_of_another_form_is_refused_by_name(golden, monkeypatch):
    inputs, outputs = (parity.read(golden / f"{name}.npz") for name in ("inputs", "outputs"))
    monkeypatch.setattr(parity, "generated", lambda entry, seed: np.zeros(entry["shape"], np.float32))
    for name, shape, says in (
        ("bert_mlp.weight", [760, 768], "word_width 760 is not a multiple of word_heads 6"),
        ("norm.weight", [700], r"norm.weight \(700,\) beside \(768,\)"),
        ("patch_embed.proj.weight", None, "lacks patch_embed.proj.weight"),
    ):
        manifest = parity.read(golden / "manifest.json")
        changed = [t | {"shape": shape} if t["name"] == name else t for t in manifest["tensors"]]
        manifest["tensors"] = [t for t in changed if t["shape"] is not None]
        with pytest.raises(Refused, match=says):
            parity.build(manifest, inputs, outputs)


@pytest.mark.slow
def test_a_wrong_detail_is_noticed(golden, monkeypatch):
    """Without the 0.2 of f_sim, the comparison must fail."""
    from asapkit.recipes import asap

    monkeypatch.setattr(asap.Method, "similarity_token", lambda self, batch, keys, patches, *, weights: (weights @ patches).mean(1, keepdim=True))
    bad = {r.name for r in parity.compare(golden) if not r.good}
    assert {"f_sim", "lowtie_f_sim", "fused_text_features", "mlm_logits_slice", "losses/words"} <= bad
    assert "latent" not in bad and "losses/align" not in bad


@pytest.mark.slow
def test_damaged_or_missing_arrays_are_noticed(golden, tmp_path):
    """A slice of a block left out, a wrong gap, norms that are not those of grads.json, and an image of another size: none passes."""
    for file in golden.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole, outputs, inputs = (dict(np.load(golden / f"{name}.npz")) for name in ("encoder_only", "outputs", "inputs"))
    np.savez(tmp_path / "outputs.npz", **outputs | {"selection_gap": outputs["selection_gap"] * 1.003, "grad_norms": outputs["grad_norms"] * 2})
    bad = [r.name for r in parity.compare(tmp_path) if not r.good]
    assert len(bad) == 2 and bad[0] == "selection_gap" and bad[1].startswith("grad_norms beside grads.json: patch_embed.proj.weight")
    np.savez(tmp_path / "encoder_only.npz", **{name: value for name, value in whole.items() if name != "seg_block07_slice"})
    with pytest.raises(Refused, match=r"encoder_only.npz: lacks seg_block07_slice"):
        parity.compare(tmp_path)
    np.savez(tmp_path / "inputs.npz", **inputs | {"image": inputs["image"][..., :48]})
    with pytest.raises(Refused, match="its arrays do not fit one another"):
        parity.compare(tmp_path)


def test_whole_numbers_stored_as_others_must_be_equal():
    assert not parity.row("k", np.array([16, 32]), np.array([16.0, 32.0001])).good
    assert parity.row("k", np.array([16, 32]), np.array([16.0, 32.0])).good


def test_a_gradient_norm_that_is_missing_is_named(golden, tmp_path):
    for file in golden.iterdir():
        (tmp_path / file.name).symlink_to(file)
    norms = json.loads((golden / "grads.json").read_text())
    norms.pop("norm.weight")
    (tmp_path / "grads.json").unlink()
    (tmp_path / "grads.json").write_text(json.dumps(norms))
    with pytest.raises(Refused, match=r"grads.json: lacks the gradient norm of norm.weight"):
        parity.compare(tmp_path)
