"""Weights with the published names and ranks of every family: random numbers, few channels, the published grid where positions need it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass
class Maker:
    """Random tensors of one seed; on the meta device they have shapes only."""

    device: str = "cpu"
    seed: int = 0
    made: State = field(default_factory=dict)

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)

    def add(self, name: str, *shape: int, around: float = 0.0) -> None:
        if self.device == "meta":
            self.made[name] = torch.empty(shape, device="meta")
        else:
            self.made[name] = torch.randn(shape, generator=self.generator) * 0.1 + around

    def linear(self, name: str, out: int, into: int, *, bias: bool = True) -> None:
        self.add(f"{name}.weight", out, into)
        if bias:
            self.add(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, around=1.0)
        self.add(f"{name}.bias", width)

    def batch_norm(self, name: str, width: int) -> None:
        self.norm(name, width)
        self.add(f"{name}.running_mean", width)
        self.made[f"{name}.running_var"] = torch.ones(width, device=self.device)
        self.made[f"{name}.num_batches_tracked"] = torch.ones((), dtype=torch.long, device=self.device)

    def conv(self, name: str, *shape: int, bias: bool = False) -> None:
        self.add(f"{name}.weight", *shape)
        if bias:
            self.add(f"{name}.bias", shape[0])


def timm_blocks(m: Maker, prefix: str, *, width: int, depth: int) -> None:
    for i in range(depth):
        b = f"{prefix}blocks.{i}."
        m.norm(f"{b}norm1", width)
        m.linear(f"{b}attn.qkv", 3 * width, width)
        m.linear(f"{b}attn.proj", width, width)
        m.norm(f"{b}norm2", width)
        m.linear(f"{b}mlp.fc1", 4 * width, width)
        m.linear(f"{b}mlp.fc2", width, 4 * width)


def timm(m: Maker, *, width: int, depth: int, patch: tuple[int, ...], patches: int, colours: int = 1, prefix: str = "") -> None:
    m.add(f"{prefix}cls_token", 1, 1, width)
    m.conv(f"{prefix}patch_embed.proj", width, colours, *patch, bias=True)
    timm_blocks(m, prefix, width=width, depth=depth)
    m.norm(f"{prefix}norm", width)
    if patches:
        m.add(f"{prefix}pos_embed", 1, patches, width)


def sincos(m: Maker, name: str, grid: tuple[int, int, int], *, cls: bool) -> None:
    from asapkit.vit3d import sincos_positions

    if m.device != "meta":
        code = sincos_positions(grid, m.made[name].shape[-1])
        m.made[name] = torch.nn.functional.pad(code, (0, 0, int(cls), 0))[None]


def asap(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    timm(m, width=width, depth=depth, patch=(16, 16, 8), patches=2745)
    sincos(m, "pos_embed", (14, 14, 14), cls=True)
    m.add("mask_token", 1, 1, width)
    m.add("decoder_pos_embed", 1, 2745, width)
    m.linear("decoder_embed", width, width)
    timm_blocks(m, "decoder_", width=width, depth=2)
    m.norm("decoder_norm", width)
    m.linear("decoder_pred_layer", 2048, width)
    m.linear("decoder_injection_pred_layer_0", 9, width)
    m.norm("decoder_injection_pred_norm", 9)
    m.linear("decoder_injection_pred_layer_1", 9, 9)
    m.linear("bert_encoder.bert.encoder.layer.0.attention.self.query", width, width)
    m.linear("bert_mlp", width, width)
    m.linear("bert_decoder.cls.predictions.transform.dense", width, width)
    m.linear("finding_align_img_mlp.dense_to_hidden", width, width)
    m.linear("align_text_mlp.dense_to_hidden", width, width)
    m.linear("regression_head", 1, width)
    return {"model": m.made, "epoch": 130}


def simcrop(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    timm(m, width=width, depth=depth, patch=(16, 16, 8), patches=2745)
    sincos(m, "pos_embed", (14, 14, 14), cls=True)
    return {"model": m.made}


def mae(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    timm(m, width=width, depth=depth, patch=(16, 16), patches=197, colours=3)
    m.add("mask_token", 1, 1, width)
    m.linear("decoder_embed", width, width)
    timm_blocks(m, "decoder_", width=width, depth=1)
    m.linear("decoder_pred", 768, width)
    return {"model": m.made}


def mrm(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    told = mae(m, width=width, depth=depth)
    m.linear("bert_mlp", 384, width)
    m.add("bert_encoder.model.bert.embeddings.word_embeddings.weight", 30, 384)
    return told | {"epoch": 199}


def m3ae(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    v = "vision_encoder.visual."
    m.conv(f"{v}conv1", width, 3, 16, 16)
    m.add(f"{v}class_embedding", width)
    m.add(f"{v}positional_embedding", 325, width)  # 288 / 16 squared, plus the class token
    m.norm(f"{v}ln_pre", width)
    for i in range(depth):
        b = f"{v}transformer.resblocks.{i}."
        m.add(f"{b}attn.in_proj_weight", 3 * width, width)
        m.add(f"{b}attn.in_proj_bias", 3 * width)
        m.linear(f"{b}attn.out_proj", width, width)
        m.norm(f"{b}ln_1", width)
        m.linear(f"{b}mlp.c_fc", 4 * width, width)
        m.linear(f"{b}mlp.c_proj", width, 4 * width)
        m.norm(f"{b}ln_2", width)
    m.norm(f"{v}ln_post", width)
    m.add("vision_encoder.token_embedding.weight", 30, width)
    m.add("vision_encoder.positional_embedding", 77, width)
    m.norm("vision_encoder.ln_final", width)
    m.add("language_encoder.embeddings.word_embeddings.weight", 30, width)
    m.linear("multi_modal_vision_proj", width, width)
    m.linear("multi_modal_language_layers.0.attention.self.query", width, width)
    m.add("modality_type_embeddings.weight", 2, width)
    m.linear("mlm_head.decoder", 30, width)
    m.linear("itm_head.fc", 2, 2 * width)
    return {"state_dict": m.made, "global_step": 100_000}


def hi_end_mae(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    timm(m, width=width, depth=depth, patch=(12, 12, 12), patches=0, prefix="encoder.")
    m.add("encoder_pos_embed", 1, 512, width)
    sincos(m, "encoder_pos_embed", (8, 8, 8), cls=False)
    m.add("decoder_pos_embed", 1, 512, width)
    m.add("mask_token", 1, 1, width)
    timm_blocks(m, "decoder.", width=width, depth=1)
    m.linear("decoder.cross_attention_blocks.0.cross_attn.kv", 2 * width, width)
    m.linear("encoder_to_decoder.0", width, width)
    return {"state_dict": {f"module.{name}": value for name, value in m.made.items()}, "epoch": 999}


def monai_blocks(m: Maker, prefix: str, *, width: int, depth: int, bias: bool) -> None:
    for i in range(depth):
        b = f"{prefix}blocks.{i}."
        m.linear(f"{b}mlp.linear1", 4 * width, width)
        m.linear(f"{b}mlp.linear2", width, 4 * width)
        m.norm(f"{b}norm1", width)
        m.linear(f"{b}attn.out_proj", width, width)
        m.linear(f"{b}attn.qkv", 3 * width, width, bias=bias)
        m.norm(f"{b}norm2", width)
    m.norm(f"{prefix}norm", width)


def m3d_clip(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    v = "vision_encoder."
    m.add(f"{v}cls_token", 1, 1, width)
    m.add(f"{v}patch_embedding.position_embeddings", 1, 2048, width)
    m.linear(f"{v}patch_embedding.patch_embeddings.1", width, 1024)
    monai_blocks(m, v, width=width, depth=depth, bias=False)
    m.add("language_encoder.embeddings.word_embeddings.weight", 30, width)
    m.linear("mm_vision_proj", width, width)
    m.linear("mm_language_proj", width, width)
    m.add("logit_scale")
    return m.made


def fvlm(m: Maker, *, width: int = 24, depth: int = 3) -> dict:
    v = "visual_encoder."
    m.add(f"{v}patch_embedding.position_embeddings", 1, 7 * 16 * 11, width)
    m.conv(f"{v}patch_embedding.patch_embeddings", width, 1, 16, 16, 32, bias=True)
    monai_blocks(m, v, width=width, depth=depth, bias=True)
    m.add("query_tokens", 4, width)
    m.add("temp")
    m.add("attention.in_proj_weight", 3 * width, width)
    m.linear("vision_projs.0", 8, width)
    m.linear("text_proj", 8, width)
    m.add("text_encoder.embeddings.word_embeddings.weight", 30, width)
    return {"model": m.made, "config": {"run": {"seed": 42}}, "epoch": 19}


def hlip(m: Maker, *, width: int = 24, depth: int = 6) -> dict:
    t = "visual.trunk."
    timm(m, width=width, depth=depth, patch=(8, 24, 24), patches=0, prefix=t)
    m.add(f"{t}spatial_posemb", 1, 14, 14, 14, width)
    m.conv("visual.head.proj", 8, width)
    m.add("text.transformer.embeddings.word_embeddings.weight", 30, width)
    m.add("text.proj.weight", 8, width)
    m.add("logit_scale")
    return {"state_dict": {f"module.{name}": value for name, value in m.made.items()}, "epoch": 20}
