"""The released ASAP's file, made on the spot: a method of recipe asap under the published names, and a small text encoder for it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from asapkit.config import Config
from asapkit.language import tokenizer
from asapkit.recipes import asap
from asapkit.vit3d import sincos_positions

LAYER = r"bert_decoder.bert.encoder.layer.\1"
FUSION = "bert_decoder.bert.fusion_layer"
NAMES = (
    (r"encoder\.embed\.(\w+)", r"patch_embed.proj.\1"),
    (r"encoder\.(.+)", r"\1"),
    (r"decoder\.mask_token", "mask_token"),
    (r"decoder\.pred\.(\w+)", r"decoder_pred_layer.\1"),
    (r"decoder\.(.+)", r"decoder_\1"),
    (r"organ_head\.0\.(\w+)", r"decoder_injection_pred_layer_0.\1"),
    (r"organ_head\.1\.(\w+)", r"decoder_injection_pred_norm.\1"),
    (r"organ_head\.3\.(\w+)", r"decoder_injection_pred_layer_1.\1"),
    (r"text\.bert\.(.+)", r"bert_encoder.bert.\1"),
    (r"report\.text\.norm\.(\w+)", r"bert_feature_proj.LayerNorm.\1"),
    (r"report\.text\.(.+)", r"bert_feature_proj.\1"),
    (r"alignment\.image\.norm\.(\w+)", r"finding_align_img_mlp.LayerNorm.\1"),
    (r"alignment\.image\.(.+)", r"finding_align_img_mlp.\1"),
    (r"alignment\.text\.norm\.(\w+)", r"align_text_mlp.LayerNorm.\1"),
    (r"alignment\.text\.(.+)", r"align_text_mlp.\1"),
    (r"report\.image\.(\w+)", r"bert_mlp.\1"),
    (r"alignment\.selector\.projection", "regression_head.weight"),
    (r"alignment\.selector\.bias", "regression_head.bias"),
    (r"report\.fusion\.self_attention\.(.+)", rf"{FUSION}.attention.self.\1"),
    (r"report\.fusion\.self_dense\.(\w+)", rf"{FUSION}.attention.output.dense.\1"),
    (r"report\.fusion\.self_norm\.(\w+)", rf"{FUSION}.attention.output.LayerNorm.\1"),
    (r"report\.fusion\.cross\.(.+)", rf"{FUSION}.cross_self_attention.\1"),
    (r"report\.fusion\.global_feature\.(\w+)", rf"{FUSION}.gap_mlp.\1"),
    (r"report\.fusion\.dense\.(\w+)", rf"{FUSION}.out_layer.dense.\1"),
    (r"report\.fusion\.norm\.(\w+)", rf"{FUSION}.out_layer.LayerNorm.\1"),
    (r"report\.fusion\.up\.(\w+)", rf"{FUSION}.intermediate.dense.\1"),
    (r"report\.fusion\.down\.(\w+)", rf"{FUSION}.output.dense.\1"),
    (r"report\.fusion\.out_norm\.(\w+)", rf"{FUSION}.output.LayerNorm.\1"),
    (r"report\.words\.layers\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", rf"{LAYER}.attention.output.dense.\2"),
    (r"report\.words\.layers\.layers\.(\d+)\.norm1\.(\w+)", rf"{LAYER}.attention.output.LayerNorm.\2"),
    (r"report\.words\.layers\.layers\.(\d+)\.linear1\.(\w+)", rf"{LAYER}.intermediate.dense.\2"),
    (r"report\.words\.layers\.layers\.(\d+)\.linear2\.(\w+)", rf"{LAYER}.output.dense.\2"),
    (r"report\.words\.layers\.layers\.(\d+)\.norm2\.(\w+)", rf"{LAYER}.output.LayerNorm.\2"),
    (r"report\.words\.dense\.(\w+)", r"bert_decoder.cls.predictions.transform.dense.\1"),
    (r"report\.words\.norm\.(\w+)", r"bert_decoder.cls.predictions.transform.LayerNorm.\1"),
    (r"report\.words\.decoder\.weight", "bert_decoder.cls.predictions.decoder.weight"),
    (r"report\.words\.decoder\.bias", "bert_decoder.cls.predictions.bias"),
)


def text_folder(folder: Path, *, width: int = 48) -> Path:
    """A BERT of one layer with the packaged vocabulary."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    words = tokenizer("minilm")
    small = BertConfig(vocab_size=len(words), hidden_size=width, num_hidden_layers=1, num_attention_heads=4, intermediate_size=2 * width)
    BertModel(small, add_pooling_layer=False).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def method(text: Path, **changes) -> asap.Method:
    """A method in official mode at the toy contract, everything else as a released file would have it."""
    toy = Config.at("toy")
    config = Config.at(
        "base", crop=toy.crop, patch=toy.patch, spacing_mm=toy.spacing_mm, width=64, heads=1, depth=2, decoder_width=64, decoder_depth=2,
        align_width=48, word_width=48, word_depth=1, text_encoder=str(text), **changes,
    )  # fmt: skip
    torch.manual_seed(4)
    return asap.Method(config, fidelity="official").eval()


def state(made: asap.Method) -> dict[str, Tensor]:
    """The method's tensors under the published names and in the published shapes, computed ones with them."""
    out: dict[str, Tensor] = {}
    for ours, value in made.state_dict().items():
        if ours == "report.words.vocabulary":
            continue
        if found := re.fullmatch(r"report\.words\.layers\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", ours):
            for third, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"bert_decoder.bert.encoder.layer.{found[1]}.attention.self.{third}.{found[2]}"] = part.clone()
            continue
        pattern, theirs = next(rule for rule in NAMES if re.fullmatch(rule[0], ours))
        out[re.sub(pattern, theirs, ours)] = value
    out["patch_embed.proj.weight"] = out["patch_embed.proj.weight"].view(made.config.width, 1, *made.config.patch)
    out["regression_head.weight"] = out["regression_head.weight"][None]
    out["regression_head.bias"] = out["regression_head.bias"][None]
    positions = sincos_positions(made.config.grid, made.config.width)
    out["pos_embed"] = torch.cat([torch.zeros_like(positions[:1]), positions])[None]
    out["bert_topk_mlp.weight"] = torch.zeros(3, made.config.align_width)
    return out
