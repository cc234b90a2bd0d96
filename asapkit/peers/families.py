"""What is known: one entry per family of released weights, with its fingerprint, its names, what has no place here and why, and its contract.

A fingerprint is a set of names that must be there, some with a number of axes (a 2-D patch embedding has four, a 3-D one five). Names are written
without the wrappers of training. Facts are from the repositories at the commits named; what a source does not say is chosen here and said in
`remarks`.
"""

from __future__ import annotations

from functools import partial

from asapkit.config import Contract
from asapkit.peers import building
from asapkit.peers.family import Family, Rules
from asapkit.peers.frame import Frame, Geometry

# ----------------------------------------------------------------------------------------------------------- contracts and names

SCANNED = Frame("zyx", "yx")  # slices, rows to the back, columns to the left: CT-RATE's files as SimpleITK reads them
UNIT = (0.0, 1.0)
GREY = (-0.449 / 0.226, 0.551 / 0.226)  # 0 to 1, less ImageNet's mean over its standard deviation, averaged over colours
BASE = Contract((1.5, 1.5, 3.0), (224, 224, 112))
LUNG = (-1150.0, 350.0)

ASAP_GEOMETRY = Geometry(BASE, (16, 16, 8))
PLANE_GEOMETRY = Geometry(BASE, (16, 16, 8), SCANNED, GREY)
MRM_GEOMETRY = Geometry(BASE, (16, 16, 8), SCANNED, (-0.4978 / 0.2449, 0.5022 / 0.2449))
CLIP_GEOMETRY = Geometry(BASE, (16, 16, 8), SCANNED, (-0.4492 / 0.2686, 0.5508 / 0.2686))
HI_END_GEOMETRY = Geometry(Contract((1.5, 1.5, 1.5), (96, 96, 96), (-175.0, 250.0)), (12, 12, 12), Frame(), UNIT)
M3D_GEOMETRY = Geometry(Contract((1.5, 1.5, 4.5), (256, 256, 32), fit="resize"), (16, 16, 4), SCANNED, UNIT)
FVLM_GEOMETRY = Geometry(Contract((1.0, 1.0, 3.0), (352, 256, 112), LUNG), (32, 16, 16), SCANNED, UNIT)
HLIP_GEOMETRY = Geometry(Contract((1.0, 1.0, 3.0), (336, 336, 112), LUNG), (24, 24, 8), SCANNED, GREY)

TIMM = r"cls_token|pos_embed|patch_embed\.proj\.\w+|blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.\w+|norm\.\w+"
DECODER = (r"mask_token|decoder_.+", "the decoder of pre-training")
MONAI = (
    (r"blocks\.(\d+)\.(norm[12]|attn\.qkv)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"blocks\.(\d+)\.mlp\.linear([12])\.(\w+)", r"blocks.\1.mlp.fc\2.\3"),
    (r"(norm\.\w+|cls_token)", r"\1"),
    (r"patch_embedding\.position_embeddings", "pos_embed"),
    (r"patch_embedding\.patch_embeddings\.(?:1\.)?(\w+)", r"patch_embed.proj.\1"),
)
CROSS = (r".*blocks\.\d+\.(?:norm_cross_attn|cross_attn)\..+", "registered by newer MONAI, never used")
CHOSEN_2D = "spacing, crop and HU window of a 2-D encoder are this house's choice"


def under(prefix: str, rules: Rules) -> Rules:
    """Rules for names below a prefix (a regular expression without groups)."""
    return tuple((prefix + (f"(?:{pattern})" if "|" in pattern and not pattern.startswith("(") else pattern), ours) for pattern, ours in rules)


FAMILIES: tuple[Family, ...] = (
    Family(
        "ASAP", "arXiv 2606.00602; github ToniChopp/ASAP, commit 6918832", "",
        needs=((r"patch_embed\.proj\.weight", 5), (r"blocks\.0\.attn\.qkv\.weight", 2), (r"decoder_injection_.+", None)),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(
            DECODER, (r"bert_.+", "text encoder and word decoder"),
            (r"(?:finding_align_img_mlp|align_text_mlp|regression_head)\..+", "heads of the sentence alignment"),
        ),
        build=partial(building.house, geometry=ASAP_GEOMETRY),
    ),
    Family(
        "SimCroP", "arXiv 2509.08311; github ToniChopp/SimCroP, commit b10fd08", "Apache-2.0",
        needs=((r"patch_embed\.proj\.weight", 5), (r"blocks\.0\.attn\.qkv\.weight", 2), ("pos_embed", 3)),
        lacks=(r"decoder_injection_.+",),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(
            DECODER, (r"bert_.+", "text encoder and word decoder"),
            (r"(?:finding_align_img_mlp|align_text_mlp|regression_head)\..+", "heads of the sentence alignment"),
        ),
        build=partial(building.house, geometry=ASAP_GEOMETRY),
        remarks=("an ASAP encoder saved without its heads has the same names, and is the same network",),
    ),
    Family(
        "MRM", "github RL4M/MRM-pytorch, commit 3730ba4", "MIT",
        needs=((r"patch_embed\.proj\.weight", 4), (r"blocks\.0\.attn\.qkv\.weight", 2), (r"bert_(?:encoder|mlp)\..+", None)),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(DECODER, (r"bert_(?:encoder|mlp)\..+", "the report decoder")),
        build=partial(building.plane, geometry=MRM_GEOMETRY),
        remarks=(CHOSEN_2D, "trained on chest radiographs at half resolution"),
    ),
    Family(
        "MAE", "arXiv 2111.06377; github facebookresearch/mae, commit efb2a80", "CC-BY-NC-4.0",
        needs=((r"patch_embed\.proj\.weight", 4), (r"blocks\.0\.attn\.qkv\.weight", 2), ("pos_embed", 3)),
        lacks=(r"bert_.+",),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(DECODER,),
        build=partial(building.plane, geometry=PLANE_GEOMETRY),
        remarks=(CHOSEN_2D, "trained on photographs (ImageNet)"),
    ),
    Family(
        "M3AE", "github zhjohnchan/M3AE, commit 14da377", "",
        needs=((r"vision_encoder\.visual\.conv1\.weight", 4), (r"vision_encoder\.visual\.transformer\..+", None)),
        rules=under(r"vision_encoder\.visual\.", (
            (r"conv1\.weight", "patch_embed.proj.weight"), ("class_embedding", "cls_token"), ("positional_embedding", "pos_embed"),
            (r"ln_pre\.(\w+)", r"norm_pre.\1"), (r"ln_post\.(\w+)", r"norm.\1"),
            (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
            (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
            (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
            (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
            (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
        )),
        dropped=(
            (r"vision_encoder\.(?:token_embedding|ln_final)\..+|vision_encoder\.positional_embedding", "what is left of CLIP's text tower"),
            (r"language_encoder\..+", "the text encoder"),
            (r"(?:multi_modal_|modality_type_embeddings).+|(?:mlm|mim|itm|vqa|cls|irtr)_head\..+", "fusion of image and text, and heads"),
        ),
        build=partial(building.plane, geometry=CLIP_GEOMETRY, activation="quick", eps=1e-5),
        remarks=(CHOSEN_2D, "CLIP's last block is not there: the source leaves it out"),
    ),
    Family(
        "Hi-End-MAE", "github FengheTan9/Hi-End-MAE, commit b0df9c6", "Apache-2.0",
        needs=((r"encoder\.patch_embed\.proj\.weight", 5), ("encoder_pos_embed", 3)),
        rules=((rf"encoder\.({TIMM})", r"\1"), ("encoder_pos_embed", "pos_embed")),
        dropped=((r"mask_token|decoder_pos_embed|decoder\..+|encoder_to_decoder\..+", "the decoder of pre-training"),),
        build=partial(building.hi_end, geometry=HI_END_GEOMETRY),
        remarks=("trained with flips and quarter turns of every axis: directions are free",),
    ),
    Family(
        "M3D-CLIP", "arXiv 2404.00578; github BAAI-DCAI/M3D, commit 63e7200", "MIT",
        needs=(
            (r"(?:vision_encoder\.)?patch_embedding\.patch_embeddings\.1\.weight", 2),
            (r"(?:vision_encoder\.)?patch_embedding\.position_embeddings", 3),
        ),
        rules=under(r"(?:vision_encoder\.)?", MONAI),
        dropped=(CROSS, (r"language_encoder\..+", "the text encoder"), (r"mm_(?:vision|language)_proj\..+|logit_scale", "the contrastive head")),
        build=partial(building.m3d, geometry=M3D_GEOMETRY),
        remarks=("the source scales each volume between its own extremes; the HU window and the spacing are this house's choice",),
    ),
    Family(
        "fVLM", "github alibaba-damo-academy/fvlm, commit d768ec1", "",
        needs=((r"visual_encoder\.patch_embedding\.patch_embeddings\.weight", 5), (r"visual_encoder\.patch_embedding\.position_embeddings", 3)),
        rules=under(r"visual_encoder\.", MONAI),
        dropped=(
            CROSS, (r"(?:text_encoder|text_decoder|text_proj)\..+", "the text encoder"),
            (r"query_tokens|temp|(?:attention|vision_projs)\..+", "pooling by organ and the contrastive head"),
        ),
        build=partial(building.vit, geometry=FVLM_GEOMETRY, eps=1e-5),
        remarks=("axis directions are those of CT-RATE's stored files",),
    ),
    Family(
        "HLIP", "arXiv 2505.21862; github Zch0414/hlip, commit fe8d764", "MIT",
        needs=((r"visual\.trunk\.patch_embed\.proj\.weight", 5), (r"visual\.trunk\.spatial_posemb", 5)),
        rules=(
            (rf"visual\.trunk\.({TIMM})", r"\1"), (r"visual\.trunk\.spatial_posemb", "pos_embed"), (r"visual\.trunk\.(sequential_posemb)", r"\1"),
        ),
        dropped=((r"visual\.head\..+|logit_(?:scale|bias)", "the contrastive head"), (r"text\..+", "the text encoder")),
        build=partial(building.hlip, geometry=HLIP_GEOMETRY),
        remarks=("axis directions are those of CT-RATE's stored files", "one scan of a study, every third block over the whole scan"),
    ),
)  # fmt: skip
