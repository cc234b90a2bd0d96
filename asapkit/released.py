"""The released ASAP model: its parameter names, where each goes in ours, and the whole method from its file.

Source: the state_dict of github ToniChopp/ASAP (commit 6918832), names and shapes only. Three tensors change their form on the way: the patch
embedding (a convolution there, a linear layer here), the joined query-key-value of the word decoder, and the selector's row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.language import CXR_BERT
from asapkit.types import Refused
from asapkit.vit3d import is_sincos

RULES: tuple[tuple[str, str], ...] = (
    (r"(cls_token|blocks\..+|norm\.\w+)", r"encoder.\1"),
    (r"patch_embed\.proj\.(\w+)", r"encoder.embed.\1"),
    (r"mask_token", r"decoder.mask_token"),
    (r"decoder_(embed|blocks|norm)\.(.+)", r"decoder.\1.\2"),
    (r"decoder_pred_layer\.(\w+)", r"decoder.pred.\1"),
    (r"decoder_injection_pred_layer_0\.(\w+)", r"organ_head.0.\1"),
    (r"decoder_injection_pred_norm\.(\w+)", r"organ_head.1.\1"),
    (r"decoder_injection_pred_layer_1\.(\w+)", r"organ_head.3.\1"),
    (r"bert_encoder\.bert\.(.+)", r"text.bert.\1"),
    (r"bert_feature_proj\.LayerNorm\.(\w+)", r"report.text.norm.\1"),
    (r"bert_feature_proj\.(.+)", r"report.text.\1"),
    (r"finding_align_img_mlp\.LayerNorm\.(\w+)", r"alignment.image.norm.\1"),
    (r"finding_align_img_mlp\.(.+)", r"alignment.image.\1"),
    (r"align_text_mlp\.LayerNorm\.(\w+)", r"alignment.text.norm.\1"),
    (r"align_text_mlp\.(.+)", r"alignment.text.\1"),
    (r"bert_mlp\.(\w+)", r"report.image.\1"),
    (r"regression_head\.weight", r"alignment.selector.projection"),
    (r"regression_head\.bias", r"alignment.selector.bias"),
    (r"bert_decoder\.bert\.fusion_layer\.attention\.self\.(\w+)\.(\w+)", r"report.fusion.self_attention.\1.\2"),
    (r"bert_decoder\.bert\.fusion_layer\.attention\.output\.dense\.(\w+)", r"report.fusion.self_dense.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.attention\.output\.LayerNorm\.(\w+)", r"report.fusion.self_norm.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.cross_self_attention\.(.+)", r"report.fusion.cross.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.gap_mlp\.(\w+)", r"report.fusion.global_feature.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.out_layer\.dense\.(\w+)", r"report.fusion.dense.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.out_layer\.LayerNorm\.(\w+)", r"report.fusion.norm.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.intermediate\.dense\.(\w+)", r"report.fusion.up.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.output\.dense\.(\w+)", r"report.fusion.down.\1"),
    (r"bert_decoder\.bert\.fusion_layer\.output\.LayerNorm\.(\w+)", r"report.fusion.out_norm.\1"),
    (
        r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(\w+)",
        r"report.words.layers.layers.\1.self_attn.in_proj_\3:\2",
    ),
    (r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"report.words.layers.layers.\1.self_attn.out_proj.\2"),
    (r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.(\w+)", r"report.words.layers.layers.\1.norm1.\2"),
    (r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"report.words.layers.layers.\1.linear1.\2"),
    (r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"report.words.layers.layers.\1.linear2.\2"),
    (r"bert_decoder\.bert\.encoder\.layer\.(\d+)\.output\.LayerNorm\.(\w+)", r"report.words.layers.layers.\1.norm2.\2"),
    (r"bert_decoder\.cls\.predictions\.transform\.dense\.(\w+)", r"report.words.dense.\1"),
    (r"bert_decoder\.cls\.predictions\.transform\.LayerNorm\.(\w+)", r"report.words.norm.\1"),
    (r"bert_decoder\.cls\.predictions\.decoder\.weight", r"report.words.decoder.weight"),
    (r"bert_decoder\.cls\.predictions\.bias", r"report.words.decoder.bias"),
)  # fmt: skip

DROPPED: tuple[tuple[str, str], ...] = (
    (r"(decoder_)?pos_embed", "computed here for any grid"),
    (r"bert_encoder\.(cls|cls_projection_head)\..+", "heads of the text encoder that ASAP does not read"),
    (r"bert_decoder\.bert\.(embeddings|pooler)\..+", "never used by the released forward"),
    (r"bert_decoder\.cls\.predictions\.decoder\.bias", "tied to cls.predictions.bias"),
    (r"bert_topk_mlp\..+", "its use is commented out in the released forward"),
)
"""What has no place here, and why."""

THIRDS = ("query", "key", "value")


def place(name: str) -> tuple[str, str | None] | None:
    """Our name of a released tensor, and which third of a joined tensor it is (query | key | value, or None); None for what is dropped.

    Raises: ValueError for a name that is no released one.
    """
    if why_dropped(name):
        return None
    for pattern, ours in RULES:
        if re.fullmatch(pattern, name):
            found, _, third = re.sub(pattern, ours, name).partition(":")
            return found, third or None
    raise ValueError(f"{name} is no parameter of the released ASAP model")


def why_dropped(name: str) -> str:
    """Why a released tensor has no place here; empty where it has one."""
    return next((why for pattern, why in DROPPED if re.fullmatch(pattern, name)), "")


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state_dict under our names and in our shapes. Raises: ValueError for unknown names, or a query without its key and value."""
    ours: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if (where := place(name)) is None:
            continue
        target, third = where
        if third:
            thirds.setdefault(target, {})[third] = value
        elif target in ("encoder.embed.weight", "alignment.selector.projection"):
            ours[target] = value.flatten(1) if value.ndim > 2 else value.flatten()
        else:
            ours[target] = value.reshape(()) if target == "alignment.selector.bias" else value
    for target, parts in thirds.items():
        if missing := [third for third in THIRDS if third not in parts]:
            raise ValueError(f"{target}: the released weights lack its {' and '.join(missing)}")
        ours[target] = torch.cat([parts[third] for third in THIRDS])
    return ours


def load(file: Path | str, *, text_encoder: str = CXR_BERT, **settings) -> nn.Module:
    """The whole released method, alignment head included, from its file of weights: recipe asap in `official` mode, in eval mode on the CPU.

    text_encoder: where the tokenizer and the form of the text encoder come from; its weights are the file's. settings: what no tensor
    tells and is not as published: crop, spacing_mm, heads.
    Raises: Refused, in one line, for a file that cannot be read, holds no alignment head, or does not fill the whole method.
    """
    from asapkit.checkpoint import make_method
    from asapkit.peers.reading import admit, opened

    file = Path(file)
    state, _ = opened(file)
    if missing := [name for name in ("finding_align_img_mlp.dense_to_output.weight", "patch_embed.proj.weight") if name not in state]:
        raise Refused(f"{file.name}: no released ASAP with its alignment head (no {missing[0]}); `asapkit doctor` says whose weights these are")
    try:
        for name, value in state.items():
            if not why_dropped(name) or "pos_embed" in name:
                admit(name, value, file=file.name)
        config = sizes(state, text_encoder=text_encoder, **settings)
        require_all_blocks(config, settings)
        ours = translate({name: value.float() for name, value in state.items() if value.is_floating_point()})
    except (ValueError, KeyError) as error:
        raise Refused(f"{file.name}: not of the released model's form ({error})") from error
    if "pos_embed" in state:
        ours["encoder.cls_token"] = ours["encoder.cls_token"].reshape(1, 1, -1) + state["pos_embed"].reshape(-1, config.width)[0].float()
    method = make_method("asap", config, {"fidelity": "official"})
    own = method.state_dict()
    odd = [f"{name} {tuple(ours[name].shape)} for {tuple(own[name].shape)}" for name in own if name in ours and ours[name].shape != own[name].shape]
    absent = sorted(set(own) - set(ours) - {"report.words.vocabulary"}) + sorted(set(ours) - set(own))
    if odd or absent:
        why = f"other shapes: {', '.join(odd[:3])}" if odd else f"not in both: {', '.join(absent[:3])}"
        raise Refused(f"{file.name}: does not fill the method ({why}); is text_encoder {text_encoder!r} the one that it was trained with?")
    method.load_state_dict(ours, strict=False)
    return method.eval()


WIDTHS = {
    "width": "patch_embed.proj.weight", "decoder_width": "decoder_embed.weight", "align_width": "finding_align_img_mlp.dense_to_output.weight",
    "word_width": "bert_mlp.weight",
}  # fmt: skip
"""Which tensor's first axis gives a width of the configuration."""


def sizes(state: Mapping[str, Tensor], *, text_encoder: str, **settings) -> Config:
    """The configuration that released tensors have the shapes of. Raises: ValueError for one that no model can have."""
    widths = {name: len(state[tensor]) for name, tensor in WIDTHS.items()}
    known = widths | {
        "patch": tuple(state["patch_embed.proj.weight"].shape[2:]), "depth": blocks(state, "blocks"),
        "decoder_depth": blocks(state, "decoder_blocks"), "word_depth": blocks(state, "bert_decoder.bert.encoder.layer"),
        "text_encoder": text_encoder, "heads": max(1, widths["width"] // 64),
    }  # fmt: skip
    config = Config.at("base", **(known | settings))
    if "pos_embed" in state:
        stored = state["pos_embed"].reshape(-1, config.width)[1:].float()
        if len(stored) == config.patches and not is_sincos(stored, config.grid):
            raise ValueError("its positions are not the released sin-cos code")
        if len(stored) != config.patches and "crop" not in settings:
            raise ValueError(f"positions of {len(stored)} patches, a crop of {config.crop} has {config.patches}; give the crop of its training")
    return config


def require_all_blocks(config: Config, given: Mapping) -> None:
    """Raises: ValueError for fewer blocks than published at the published widths, unless that depth is `given`: a file may have lost its end."""
    published = Config.at("base")
    if all(getattr(config, name) == getattr(published, name) for name in WIDTHS):
        for name in ("depth", "decoder_depth", "word_depth"):
            found, wanted = getattr(config, name), getattr(published, name)
            if found < wanted and name not in given:
                raise ValueError(f"{found} of {wanted} blocks, {name}: the file is incomplete, or give {name}={found}")


def blocks(state: Mapping, prefix: str) -> int:
    """How many numbered modules there are under a prefix. Raises: ValueError where there is none."""
    numbers = [int(name[len(prefix) + 1 :].split(".")[0]) for name in state if name.startswith(prefix + ".")]
    if not numbers:
        raise ValueError(f"no {prefix}.0")
    return 1 + max(numbers)
