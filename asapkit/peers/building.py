"""From a source's tensors, under one set of names, to an encoder's settings and weights. Sizes are read from the tensors, never assumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from asapkit import vit3d
from asapkit.config import Config
from asapkit.peers.frame import Geometry, Triple, count
from asapkit.peers.vit import moved_positions, raised_patches, raised_positions
from asapkit.types import Refused

State = dict[str, Tensor]


@dataclass
class Built:
    """`networks.make(kind, settings)` makes the encoder that `state` fills completely; settings are plain, for json."""

    kind: str
    settings: dict
    state: State
    adapted: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def sized(geometry: Geometry, *, crop: Triple | None = None, patch: Triple | None = None) -> Geometry:
    """A geometry with another crop, another patch (both x, y, z), or both."""
    contract = geometry.contract if crop is None else replace(geometry.contract, crop=tuple(crop))
    return replace(geometry, contract=contract, patch=geometry.patch if patch is None else tuple(patch))


def rows(state: State, name: str, width: int) -> Tensor:
    """A table of features as (N, width), whatever axes stand before.  Raises: Refused where its last axis is not the width."""
    table = state[name]
    if table.shape[-1:] != (width,):
        raise Refused(f"{name} of shape {tuple(table.shape)}, where the rest of the file asks for {width} features along the last axis")
    return table.reshape(-1, width)


def depth_of(state: State) -> int:
    """Blocks of a transformer.  Raises: Refused where their numbers have a gap."""
    numbers = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    if numbers != set(range(len(numbers))) or not numbers:
        raise Refused(f"blocks {sorted(numbers)} instead of 0, 1, 2 ...: some of them are missing")
    return len(numbers)


def filled(state: State, width: int, without: tuple[str, ...]) -> dict[str, str]:
    """Puts zeros for the biases that a source is known to do without, where the file has none of them, and says so."""
    said, like = {}, next(iter(state.values()))
    for bias in without:
        names = [bias] if bias.startswith("patch_embed") else [f"blocks.{i}.{bias}" for i in range(depth_of(state))]
        if not any(name in state for name in names):
            state.update({name: torch.zeros(width if name == bias else 3 * width, device=like.device) for name in names})
            said[bias if len(names) == 1 else f"blocks.*.{bias}"] = "zeros, the source has no bias there"
    return said


def vit(
    state: State,
    *,
    geometry: Geometry,
    crop: Triple | None = None,
    kind: str = "vit",
    head_width: int = 64,
    activation: str = "gelu",
    eps: float = 1e-6,
    without: tuple[str, ...] = (),
) -> Built:
    """A transformer in timm's names, its patch embedding (D, 1, u, v, w) and its positions in the network's own order.

    without: biases that the source does not have ("patch_embed.proj.bias", "attn.qkv.bias").
    """
    kernel = state["patch_embed.proj.weight"]
    width, depth = len(kernel), depth_of(state)
    own_patch = tuple(kernel.shape[2:])
    patch = tuple(own_patch[geometry.frame.axes.index(axis)] for axis in "xyz")
    wanted = sized(geometry, crop=crop, patch=patch)
    published = _trained(state["pos_embed"].numel() // width, sized(geometry, patch=patch), wanted)
    adapted = filled(state, width, without)
    adapted |= _place(state, published, wanted, width)
    options = {
        "width": width, "depth": depth, "heads": max(1, width // head_width), "cls": "cls_token" in state, "norm_pre": "norm_pre.weight" in state,
        "activation": activation, "eps": eps,
    }  # fmt: skip
    if options["cls"]:
        state["cls_token"] = rows(state, "cls_token", width)[None]
    return Built(kind, {"geometry": wanted.to_dict()} | options, state, adapted)


def _trained(rows: int, published: Geometry, wanted: Geometry) -> Geometry:
    """The geometry that positions were made for: the published one, or the asked one where only that has as many patches (and a class token)."""
    return wanted if rows - count(published.grid) not in (0, 1) and rows - count(wanted.grid) in (0, 1) else published


def _place(state: State, published: Geometry, wanted: Geometry, width: int) -> dict[str, str]:
    """Turns `pos_embed` into `positions` of the wanted grid; the class token takes its own row."""
    old, new = published.frame.own(published.grid), wanted.frame.own(wanted.grid)
    table = rows(state, "pos_embed", width)
    del state["pos_embed"]
    if len(table) == count(old) + 1:
        state["cls_token"] = rows(state, "cls_token", width)[None] + table[0]
        table = table[1:]
    if len(table) != count(old):
        raise Refused(f"positions of {len(table)} patches, but the published crop {published.contract.crop} has {old[0]} x {old[1]} x {old[2]}")
    moved, how = moved_positions(table, old, new)
    state["positions"] = moved[None].contiguous()
    names = {"kept": "pos_embed as it is", "computed": "the sin-cos code, computed for", "interpolated": "learned positions, interpolated to"}
    grid = "" if how == "kept" else f" {new[0]} x {new[1]} x {new[2]} patches"
    return {"positions": names[how] + grid}


def plane(state: State, *, geometry: Geometry, crop: Triple | None = None, **options) -> Built:
    """A 2-D image transformer made 3-D: colours summed, patches spread over slices, positions raised by a code of the slice."""
    wanted = sized(geometry, crop=crop)
    own_patch, own_grid = geometry.frame.own(geometry.patch), geometry.frame.own(wanted.grid)
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = raised_patches(kernel, own_patch)
    table = rows(state, "pos_embed", len(kernel))
    state["cls_token"] = rows(state, "cls_token", len(kernel))[None] + table[0]
    state["pos_embed"] = raised_positions(table[1:], own_grid)
    built = vit(state, geometry=wanted, **options)
    built.adapted |= {
        "patch_embed.proj.weight": f"2-D {tuple(kernel.shape)} spread over {own_patch[0]} slices, colours summed",
        "positions": f"2-D positions resized to {own_grid[1]} x {own_grid[2]}, plus a sin-cos code of {own_grid[0]} slices",
    }
    built.warnings.append("a 2-D encoder made 3-D: its features are a starting point, no released 3-D model")
    return built


def house(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """ASAP's own encoder, as a run of this house has it; with stored positions where they are not the sin-cos code."""
    kernel = state["patch_embed.proj.weight"]
    width, patch = len(kernel), tuple(kernel.shape[2:])
    wanted = sized(geometry, crop=crop, patch=patch)
    table = rows(state, "pos_embed", width)
    published = _trained(len(table), sized(geometry, patch=patch), wanted)
    if not table.is_meta and not vit3d.is_sincos(table[1:], published.grid):
        built = vit(state, geometry=geometry, crop=crop)
        built.warnings.append("its positions are not the sin-cos code of the released model; they are kept as stored")
        return built
    del state["pos_embed"]
    state["cls_token"] = rows(state, "cls_token", width)[None] + table[0]
    config = Config.at("base", crop=wanted.contract.crop, patch=patch, width=width, depth=depth_of(state), heads=max(1, width // 64))
    ours = {name.replace("patch_embed.proj", "embed"): value for name, value in state.items()}
    ours["embed.weight"] = kernel.flatten(1)
    adapted = {"embed.weight": "the convolution over a patch as a linear layer", "positions": f"computed for {wanted.grid} patches"}
    return Built("house", {"config": asdict(config)}, ours, adapted)


def hlip(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """HLIP's trunk; the positions' own shape (1, slices, rows, columns, D) says the grid they were made for."""
    spatial = state["pos_embed"]
    own_patch = state["patch_embed.proj.weight"].shape[2:]
    made_for = tuple(spatial.shape[1:4])
    axes = geometry.frame.axes
    trained = tuple(made_for[axes.index(a)] * own_patch[axes.index(a)] for a in "xyz")
    adapted = {}
    if (several := state.pop("sequential_posemb", None)) is not None:
        state["pos_embed"] = spatial + rows({"sequential_posemb": several}, "sequential_posemb", spatial.shape[-1])[0]
        adapted["sequential_posemb"] = "its first row, the only scan of a study, added to every position"
    geometry = sized(geometry, crop=trained)
    built = vit(state, geometry=geometry, crop=crop, kind="hlip")
    for name in ("cls", "norm_pre", "activation", "eps"):
        built.settings.pop(name)
    built.adapted |= adapted
    return built


def hi_end(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """Hi-End-MAE: 16 heads of 96 at width 1536, heads of 64 below."""
    return vit(state, geometry=geometry, crop=crop, head_width=96 if len(state["patch_embed.proj.weight"]) >= 1536 else 64)


def m3d(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """M3D-CLIP: its patch embedding is a linear layer over the voxels of a patch in u, v, w order, which is a convolution."""
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].unflatten(1, (1, *geometry.frame.own(geometry.patch)))
    built = vit(state, geometry=geometry, crop=crop, eps=1e-5, without=("attn.qkv.bias",))
    built.adapted["patch_embed.proj.weight"] = "the linear layer over a patch as a convolution"
    return built
