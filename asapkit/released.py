"""The released ASAP model's parameter names, and where each goes in ours.

Source: the state_dict of github ToniChopp/ASAP (commit 6918832), names and shapes only. Three tensors change their form on the way: the patch
embedding (a convolution there, a linear layer here), the joined query-key-value of the word decoder, and the selector's row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

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
