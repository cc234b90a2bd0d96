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


def ct_clip(m: Maker, *, width: int = 16, depth: int = 2, heads: int = 2, head_width: int = 8, patch: int = 2, codes: int = 12) -> dict:
    v, inner = "visual_transformer.", int(4 * (2 / 3) * width)
    voxels = 4 * patch**3
    for name, size in (("to_patch_emb", voxels), ("to_patch_emb_first_frame", voxels // patch)):
        m.norm(f"{v}{name}.1", size)
        m.linear(f"{v}{name}.2", width, size)
        m.norm(f"{v}{name}.3", width)
    for stage in ("enc_spatial", "enc_temporal", "dec_spatial", "dec_temporal"):
        for i in range(depth):
            b = f"{v}{stage}_transformer.layers.{i}."
            m.conv(f"{b}0.dsconv", width, 1, 3, 3, 3, bias=True)
            m.add(f"{b}1.null_kv", heads, 0, head_width)
            for norm in ("norm", "context_norm"):
                m.add(f"{b}1.{norm}.gamma", width, around=1.0)
                m.made[f"{b}1.{norm}.beta"] = torch.zeros(width, device=m.device)
            m.linear(f"{b}1.to_q", heads * head_width, width, bias=False)
            m.linear(f"{b}1.to_kv", 2 * heads * head_width, width, bias=False)
            m.add(f"{b}1.q_scale", head_width, around=1.0)
            m.add(f"{b}1.k_scale", head_width, around=1.0)
            m.linear(f"{b}1.to_out", width, heads * head_width, bias=False)
            m.norm(f"{b}3.0", width)
            m.linear(f"{b}3.1", 2 * inner, width, bias=False)
            m.linear(f"{b}3.4", width, inner, bias=False)
        m.add(f"{v}{stage}_transformer.norm_out.gamma", width, around=1.0)
        m.made[f"{v}{stage}_transformer.norm_out.beta"] = torch.zeros(width, device=m.device)
    m.linear(f"{v}spatial_rel_pos_bias.net.0.0", width, 2)
    m.linear(f"{v}spatial_rel_pos_bias.net.1.0", width, width)
    m.linear(f"{v}spatial_rel_pos_bias.net.2", heads, width)
    m.add(f"{v}vq._codebook.embed", 1, codes, width)
    m.add(f"{v}vq._codebook.cluster_size", 1, codes)
    m.add(f"{v}vq._codebook.initted", 1)
    m.linear(f"{v}to_pixels.0", voxels, width)
    m.add("text_transformer.embeddings.word_embeddings.weight", 30, width)
    m.linear("to_text_latent", width, width, bias=False)
    m.linear("to_visual_latent", width, 4 * width, bias=False)
    m.linear("to_visual_latent_extra", width, 4 * width, bias=False)
    m.add("temperature")
    return m.made


def bottlenecks(m: Maker, prefix: str, *, stem: int, blocks: tuple[int, ...]) -> None:
    m.conv(f"{prefix}conv1", stem, 3, 3, 7, 7)
    m.batch_norm(f"{prefix}bn1", stem)
    into = stem
    for number, count in enumerate(blocks, start=1):
        inner = stem * 2 ** (number - 1)
        for k in range(count):
            b = f"{prefix}layer{number}.{k}."
            for name, shape in (("1", (inner, into, 1, 1, 1)), ("2", (inner, inner, 3, 3, 3)), ("3", (4 * inner, inner, 1, 1, 1))):
                m.conv(f"{b}conv{name}", *shape)
                m.batch_norm(f"{b}bn{name}", shape[0])
            if k == 0:
                m.conv(f"{b}downsample.0", 4 * inner, into, 1, 1, 1)
                m.batch_norm(f"{b}downsample.1", 4 * inner)
            into = 4 * inner


def merlin(m: Maker, *, stem: int = 4, blocks: tuple[int, ...] = (2, 2, 1, 1)) -> dict:
    p = "encode_image.i3_resnet."
    bottlenecks(m, p, stem=stem, blocks=blocks)
    m.conv(f"{p}classifier", 7, 32 * stem, 1, 1, 1, bias=True)
    m.conv(f"{p}contrastive_head", 5, 32 * stem, 1, 1, 1, bias=True)
    m.add("encode_text.text_encoder.embeddings.word_embeddings.weight", 30, 8)
    m.linear("encode_text.linear_layer", 5, 8)
    m.add("logit_scale")
    return m.made


def visd_boost(m: Maker, *, stem: int = 4, blocks: tuple[int, ...] = (2, 2, 2, 2), width: int = 16) -> dict:
    v, into = "visual_encoder.res_model.", stem
    m.conv(f"{v}conv1", stem, 1, 7, 7, 7)
    m.batch_norm(f"{v}bn1", stem)
    for number, count in enumerate(blocks, start=1):
        out = stem * 2 ** (number - 1)
        for k in range(count):
            b = f"{v}layer{number}.{k}."
            m.conv(f"{b}conv1", out, into, 3, 3, 3)
            m.batch_norm(f"{b}bn1", out)
            m.conv(f"{b}conv2", out, out, 3, 3, 3)
            m.batch_norm(f"{b}bn2", out)
            into = out
        m.conv(f"visual_encoder.proj{number}", width, out, 1, 1, 1, bias=True)
    m.add("vq_layer.embeddings", 400, 8)
    m.linear("encoder.to_patch_embedding", 8, width)
    m.linear("id_projs", width, 1)
    m.add("query_tokens", 4, width)
    m.linear("res_projs1.0", width, 2 * width)
    m.linear("text_proj", width, 8)
    m.add("temp")
    return {"model": m.made}


def r3d_18(m: Maker, *, stem: int = 4, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> dict:
    m.conv("stem.0", stem, 3, 3, 7, 7)
    m.batch_norm("stem.1", stem)
    into = stem
    for number, count in enumerate(blocks, start=1):
        out = stem * 2 ** (number - 1)
        for k in range(count):
            b = f"layer{number}.{k}."
            for part, channels in ((1, into), (2, out)):
                m.conv(f"{b}conv{part}.0", out, channels, 3, 3, 3)
                m.batch_norm(f"{b}conv{part}.1", out)
            if k == 0 and number > 1:
                m.conv(f"{b}downsample.0", out, into, 1, 1, 1)
                m.batch_norm(f"{b}downsample.1", out)
            into = out
    m.linear("fc", 400, into)
    return m.made


def pcrlv2(m: Maker, *, stem: int = 4) -> dict:
    into = 1
    for level, name in enumerate((64, 128, 256, 512)):
        for k, out in enumerate((stem * 2**level, stem * 2 ** (level + 1))):
            m.conv(f"down_tr{name}.ops.{k}.conv1", out, into, 3, 3, 3, bias=True)
            m.batch_norm(f"down_tr{name}.ops.{k}.bn1", out)
            into = out
    m.conv("up_tr256.up_conv", into, into, 2, 2, 2, bias=True)
    m.linear("up_tr256.predictor_head.0", 8, 4)
    m.conv("out_tr.final_conv", 1, stem, 1, 1, 1, bias=True)
    return {"state_dict": m.made, "epoch": 240}


def sigvlp(m: Maker, *, width: int = 24, depth: int = 2) -> dict:
    v = "base_model.vision_model."
    m.conv(f"{v}embeddings.patch_embed", width, 1, 16, 16, 16, bias=True)
    for i in range(depth):
        b = f"{v}encoder.layers.{i}."
        m.norm(f"{b}layer_norm1", width)
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            m.linear(f"{b}self_attn.{part}", width, width)
        m.norm(f"{b}layer_norm2", width)
        m.linear(f"{b}mlp.fc1", 4 * width, width)
        m.linear(f"{b}mlp.fc2", width, 4 * width)
    m.norm(f"{v}post_layernorm", width)
    m.add(f"{v}head.probe", 1, 1, width)
    m.add(f"{v}head.attention.in_proj_weight", 3 * width, width)
    m.add("base_model.text_model.embeddings.token_embedding.weight", 30, width)
    m.add("logit_scale")
    m.add("logit_bias")
    return {"model": {f"module._orig_mod.{name}": value for name, value in m.made.items()}, "step": 234_930}


def cxr_bert(m: Maker, *, width: int = 64, depth: int = 2) -> dict:
    e = "bert.embeddings."
    m.made[f"{e}position_ids"] = torch.arange(40, device=m.device)[None]
    for name, count in (("word", 30), ("position", 40), ("token_type", 2)):
        m.add(f"{e}{name}_embeddings.weight", count, width)
    m.norm(f"{e}LayerNorm", width)
    for i in range(depth):
        b = f"bert.encoder.layer.{i}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            m.linear(f"{b}{part}", width, width)
        m.norm(f"{b}attention.output.LayerNorm", width)
        m.linear(f"{b}intermediate.dense", 4 * width, width)
        m.linear(f"{b}output.dense", width, 4 * width)
        m.norm(f"{b}output.LayerNorm", width)
    m.linear("bert.pooler.dense", width, width)
    m.linear("cls.predictions.transform.dense", width, width)
    m.linear("cls_projection_head.dense_to_hidden", 8, width)
    return m.made
