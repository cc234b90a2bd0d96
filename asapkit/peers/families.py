"""What is known: one entry per family of released weights, with its fingerprint, its names, what has no place here and why, and its contract.

A fingerprint is a set of names that must be there, some with a number of axes (a 2-D patch embedding has four, a 3-D one five). Names are written
without the wrappers of training. Facts are from the repositories at the commits named; what a source does not say is chosen here and said in
`remarks`.
"""

from __future__ import annotations

from functools import partial

from asapkit.config import Contract
from asapkit.peers import building, convolutional, ctvit, siglip, text
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

CTVIT_GEOMETRY = Geometry(Contract((0.75, 0.75, 1.5), (480, 480, 240)), (20, 20, 10), Frame("zxy", "xy"))
MERLIN_GEOMETRY = Geometry(Contract((1.5, 1.5, 3.0), (224, 224, 160)), (32, 32, 16), Frame("zxy"), UNIT)
VISD_GEOMETRY = Geometry(Contract((1.0, 1.0, 3.0), (352, 256, 112), LUNG), (32, 32, 16), SCANNED, UNIT)
PCRL_GEOMETRY = Geometry(Contract((1.0, 1.0, 1.0), (64, 64, 32)), (8, 8, 8), Frame("xyz", "xy"), UNIT)
SIGVLP_GEOMETRY = Geometry(Contract((1.5, 1.5, 1.5), (256, 256, 128)), (16, 16, 16), Frame("zyx", "y"))

TIMM = r"cls_token|pos_embed|patch_embed\.proj\.\w+|blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\.\w+|norm\.\w+"
DECODER = (r"mask_token|decoder_.+", "the decoder of pre-training")
ASAP_REST = (
    DECODER, (r"bert_.+", "text encoder and word decoder"),
    (r"(?:finding_align_img_mlp|align_text_mlp|regression_head)\..+", "heads of the sentence alignment"),
)  # fmt: skip
MONAI = (
    (r"blocks\.(\d+)\.(norm[12]|attn\.qkv)\.(\w+)", r"blocks.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"blocks\.(\d+)\.mlp\.linear([12])\.(\w+)", r"blocks.\1.mlp.fc\2.\3"),
    (r"(norm\.\w+|cls_token)", r"\1"),
    (r"patch_embedding\.position_embeddings", "pos_embed"),
    (r"patch_embedding\.patch_embeddings\.(?:1\.)?(\w+)", r"patch_embed.proj.\1"),
)
I3D = r"(?:(?:visual_encoder\.model\.)?encode_image\.)?(?:i3_resnet\.)?"
RESNET = r"((?:layer[1-4]\.\d+\.)?(?:conv[123]|bn[123])\.\w+|layer[1-4]\.\d+\.downsample\.[01]\.\w+)"
CROSS = (r".*blocks\.\d+\.(?:norm_cross_attn|cross_attn)\..+", "registered by newer MONAI, never used")
VIT_B = {"width": 768, "depth": 12}
CHOSEN_2D = "spacing, crop and HU window of a 2-D encoder are this house's choice"


def under(prefix: str, rules: Rules) -> Rules:
    """Rules for names below a prefix (a regular expression without groups)."""
    return tuple((prefix + (f"(?:{pattern})" if "|" in pattern and not pattern.startswith("(") else pattern), ours) for pattern, ours in rules)


FAMILIES: tuple[Family, ...] = (
    Family(
        "ASAP", "arXiv 2606.00602; github ToniChopp/ASAP, commit 6918832", "Apache-2.0",
        needs=((r"patch_embed\.proj\.weight", 5), (r"blocks\.0\.attn\.qkv\.weight", 2), (r"decoder_injection_.+", None)),
        rules=((f"({TIMM})", r"\1"),),
        dropped=ASAP_REST,
        build=partial(building.house, geometry=ASAP_GEOMETRY),
        sizes=VIT_B,
    ),
    Family(
        "SimCroP", "arXiv 2509.08311; github ToniChopp/SimCroP, commit b10fd08", "Apache-2.0",
        needs=((r"patch_embed\.proj\.weight", 5), (r"blocks\.0\.attn\.qkv\.weight", 2), ("pos_embed", 3)),
        lacks=(r"decoder_injection_.+",),
        rules=((f"({TIMM})", r"\1"),),
        dropped=ASAP_REST,
        build=partial(building.house, geometry=ASAP_GEOMETRY),
        sizes=VIT_B,
        remarks=("an ASAP encoder saved without its heads has the same names, and is the same network",),
    ),
    Family(
        "MRM", "github RL4M/MRM-pytorch, commit 3730ba4", "MIT",
        needs=((r"patch_embed\.proj\.weight", 4), (r"blocks\.0\.attn\.qkv\.weight", 2), (r"bert_(?:encoder|mlp)\..+", None)),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(DECODER, (r"bert_(?:encoder|mlp)\..+", "the report decoder")),
        build=partial(building.plane, geometry=MRM_GEOMETRY),
        sizes=VIT_B,
        remarks=(CHOSEN_2D, "trained on chest radiographs at half resolution"),
    ),
    Family(
        "MAE", "arXiv 2111.06377; github facebookresearch/mae, commit efb2a80", "CC-BY-NC-4.0",
        needs=((r"patch_embed\.proj\.weight", 4), (r"blocks\.0\.attn\.qkv\.weight", 2), ("pos_embed", 3)),
        lacks=(r"bert_.+",),
        rules=((f"({TIMM})", r"\1"),),
        dropped=(DECODER,),
        build=partial(building.plane, geometry=PLANE_GEOMETRY),
        sizes=VIT_B,
        remarks=(CHOSEN_2D, "trained on photographs (ImageNet)"),
    ),
    Family(
        "M3AE", "github zhjohnchan/M3AE, commit 14da377", "",
        needs=((r"vision_encoder\.visual\.conv1\.weight", 4), (r"vision_encoder\.visual\.ln_pre\.weight", 1)),
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
        build=partial(building.plane, geometry=CLIP_GEOMETRY, activation="quick", eps=1e-5, without=("patch_embed.proj.bias",)),
        sizes=VIT_B | {"depth": 11},
        remarks=(CHOSEN_2D, "CLIP's last block is not there: the source leaves it out"),
    ),
    Family(
        "Hi-End-MAE", "github FengheTan9/Hi-End-MAE, commit b0df9c6", "Apache-2.0",
        needs=((r"encoder\.patch_embed\.proj\.weight", 5), (r"encoder\.cls_token", 3), ("encoder_pos_embed", 3)),
        rules=((rf"encoder\.({TIMM})", r"\1"), ("encoder_pos_embed", "pos_embed")),
        dropped=((r"mask_token|decoder_pos_embed|decoder\..+|encoder_to_decoder\..+", "the decoder of pre-training"),),
        build=partial(building.hi_end, geometry=HI_END_GEOMETRY),
        sizes={"depth": 12},
        remarks=("trained with flips and quarter turns of every axis: directions are free",),
    ),
    Family(
        "M3D-CLIP", "arXiv 2404.00578; github BAAI-DCAI/M3D, commit 63e7200", "MIT",
        needs=(
            (r"(?:vision_encoder\.)?patch_embedding\.patch_embeddings\.1\.weight", 2),
            (r"(?:vision_encoder\.)?patch_embedding\.position_embeddings", 3), (r"(?:vision_encoder\.)?cls_token", 3),
        ),
        rules=under(r"(?:vision_encoder\.)?", MONAI),
        dropped=(CROSS, (r"language_encoder\..+", "the text encoder"), (r"mm_(?:vision|language)_proj\..+|logit_scale", "the contrastive head")),
        build=partial(building.m3d, geometry=M3D_GEOMETRY),
        sizes=VIT_B,
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
        sizes=VIT_B,
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
        sizes=VIT_B,
        remarks=("axis directions are those of CT-RATE's stored files", "one scan of a study, every third block over the whole scan"),
    ),
    Family(
        "CT-CLIP", "arXiv 2403.17834; github ibrahimethemhamamci/CT-CLIP, commit a2a155c", "CC-BY-NC-SA-4.0",
        needs=((r"visual_transformer\.enc_spatial_transformer\..+", None), (r"visual_transformer\.vq\._codebook\.embed", None)),
        rules=under(r"visual_transformer\.", (
            (r"to_patch_emb\.1\.(\w+)", r"embed_in.\1"), (r"to_patch_emb\.2\.(\w+)", r"embed_linear.\1"),
            (r"to_patch_emb\.3\.(\w+)", r"embed_out.\1"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.0\.dsconv\.(\w+)", r"\1.\2.place.\3"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.norm\.gamma", r"\1.\2.attend.norm.weight"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.norm\.beta", r"\1.\2.attend.norm.bias"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_q\.weight", r"\1.\2.attend.query.weight"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_kv\.weight", r"\1.\2.attend.key_value.weight"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.q_scale", r"\1.\2.attend.query_scale"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.k_scale", r"\1.\2.attend.key_scale"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.1\.to_out\.weight", r"\1.\2.attend.out.weight"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.0\.(\w+)", r"\1.\2.feed.norm.\3"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.1\.weight", r"\1.\2.feed.up.weight"),
            (r"enc_(spatial|temporal)_transformer\.layers\.(\d+)\.3\.4\.weight", r"\1.\2.feed.down.weight"),
            (r"enc_(spatial|temporal)_transformer\.norm_out\.gamma", r"\1_norm.weight"),
            (r"enc_(spatial|temporal)_transformer\.norm_out\.beta", r"\1_norm.bias"),
            (r"spatial_rel_pos_bias\.net\.0\.0\.(\w+)", r"bias.first.\1"), (r"spatial_rel_pos_bias\.net\.1\.0\.(\w+)", r"bias.second.\1"),
            (r"spatial_rel_pos_bias\.net\.2\.(\w+)", r"bias.last.\1"), (r"vq\._codebook\.embed", "codebook"),
        )),
        dropped=(
            (r"visual_transformer\.enc_\w+\.layers\.\d+\.1\.(?:null_kv|context_norm\..+)", "not used by attention of a sequence to itself"),
            (r"visual_transformer\.vq\..+", "statistics of the codebook's training"),
            (r"visual_transformer\.(?:to_patch_emb_first_frame|to_pixels\w*|dec_\w+|discr|vgg)\..+", "the decoder of GenerateCT, and its judges"),
            (r"text_transformer\..+|to_text_latent.*", "the text encoder"),
            (r"to_visual_latent.*|temperature", "the contrastive head"), (r"classifier\..+", "CT-LiPro's classifier"),
            (r".+_extra(?:\..+)?", "never used by the released forward"),
        ),
        build=partial(ctvit.build, geometry=CTVIT_GEOMETRY),
        sizes={"width": 512, "spatial": 4, "temporal": 4, "heads": 8, "codes": 8192},
        remarks=("axis directions are those of CT-RATE's stored files", "tokens are codebook entries, as CT-CLIP pools them"),
    ),
    Family(
        "Merlin", "arXiv 2406.06512; github StanfordMIMI/Merlin, commit 2489a96", "MIT",
        needs=((rf"{I3D}conv1\.weight", 5), (rf"{I3D}layer1\.0\.conv3\.weight", 5), (rf"{I3D}layer4\.0\.bn3\.running_var", 1)),
        rules=under(I3D, ((RESNET, r"\1"),)),
        dropped=(
            (r"(?:.+\.)?(?:classifier|contrastive_head|fc)\..+", "phenotypes and the contrastive head"),
            (r"encode_text\..+", "the text encoder"), ("logit_scale|meta", "the contrastive head"),
        ),
        build=partial(convolutional.i3d, geometry=MERLIN_GEOMETRY),
        sizes={"stem": 64, "blocks": [3, 8, 36, 3]},
        remarks=("trained on abdominal CT", "Astra's image weights (zzzwzh/Astra_CTRG, chest CT, MIT) have the same names and are read alike"),
    ),
    Family(
        "ViSD-Boost", "arXiv 2508.03742; github alibaba-damo-academy/ViSD-Boost, commit 42d18a9", "",
        needs=((r"visual_encoder\.res_model\.conv1\.weight", 5), (r"visual_encoder\.proj4\.weight", 5)),
        rules=((rf"visual_encoder\.res_model\.{RESNET}", r"\1"), (r"visual_encoder\.(proj[1-4]\.\w+)", r"\1")),
        dropped=(
            (r"(?:text_encoder|text_proj)\..+", "the text encoder"),
            (r"(?:vq_layer|encoder|decoder|id_projs)\..+", "the VQ-VAE of normal anatomy"),
            (r"query_tokens|temp|(?:attention|vision_projs|res_projs[12])\..+", "pooling by organ and the contrastive head"),
        ),
        build=partial(convolutional.resnet, geometry=VISD_GEOMETRY),
        sizes={"stem": 64, "blocks": [2, 2, 2, 2], "width": 256},
        remarks=("axis directions are those of CT-RATE's stored files",),
    ),
    Family(
        "R3D-18", "arXiv 1711.11248; torchvision's r3d_18, trained on Kinetics-400", "BSD-3-Clause",
        needs=((r"stem\.0\.weight", 5), (r"layer1\.0\.conv1\.0\.weight", 5), (r"layer4\.0\.downsample\.1\.running_var", 1)),
        rules=(
            (r"(stem\.[01]\.\w+)", r"\1"),
            *(rule for n in (1, 2, 3, 4) for rule in (
                (rf"layer{n}\.(\d+)\.conv([12])\.0\.(\w+)", rf"stages.{n - 1}.\1.conv\2.\3"),
                (rf"layer{n}\.(\d+)\.conv([12])\.1\.(\w+)", rf"stages.{n - 1}.\1.bn\2.\3"),
                (rf"layer{n}\.(\d+)\.(downsample\.[01]\.\w+)", rf"stages.{n - 1}.\1.\2"),
            )),
        ),
        dropped=((r"fc\.\w+", "the classifier of Kinetics' actions"),),
        build=partial(convolutional.video, geometry=ASAP_GEOMETRY),
        sizes={"width": 512},
        remarks=(
            "trained on videos: a start for a training, no encoder of CT; its norms remember standardised colours where HU now enter from -1 to 1",
            "spacing, crop and HU window are this house's choice; time, rows and columns are taken for z, y and x, none reversed",
        ),
    ),
    Family(
        "PCRLv2", "arXiv 2301.00772; github RL4M/PCRLv2, commit 6634bef", "MIT",
        needs=((r"down_tr64\.ops\.0\.conv1\.weight", 5), (r"down_tr512\.ops\.1\.conv1\.weight", 5)),
        rules=tuple(
            rule for level, n in enumerate((64, 128, 256, 512))
            for rule in ((rf"down_tr{n}\.ops\.([01])\.conv1\.(\w+)", rf"levels.{level}.\1.conv.\2"),
                         (rf"down_tr{n}\.ops\.([01])\.bn1\.(\w+)", rf"levels.{level}.\1.norm.\2"))
        ),
        dropped=((r"(?:up_tr\d+|out_tr)\..+", "the expanding half, which restores the image"),),
        build=partial(convolutional.unet, geometry=PCRL_GEOMETRY),
        sizes={"channels": [[1, 32, 64], [64, 64, 128], [128, 128, 256], [256, 256, 512]]},
        remarks=("trained on cubes of LUNA16; any crop of whole patches may be asked for",),
    ),
    Family(
        "SigVLP", "arXiv 2602.21735; code in github WongJiayi/ReciproVox (MIT), commit 892a8ec", "",
        needs=((r"(?:base_model\.)?vision_model\.embeddings\.patch_embed\.weight", 5), (r"(?:base_model\.)?vision_model\.encoder\..+", None)),
        rules=under(r"(?:base_model\.)?vision_model\.", (
            (r"embeddings\.patch_embed\.(\w+)", r"patch_embed.proj.\1"), (r"post_layernorm\.(\w+)", r"norm.\1"),
            (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
            (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.qkv.\3:\2"),
            (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
            (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
        )),
        dropped=(
            (r"(?:base_model\.)?vision_model\.head\..+", "the pooling head"), (r".*\.(?:inv_freq|cached_penc)", "computed here"),
            (r"(?:base_model\.)?text_model\..+", "the text encoder"), (r"(?:base_model\.)?logit_(?:scale|bias)", "the contrastive head"),
        ),
        build=partial(siglip.build, geometry=SIGVLP_GEOMETRY),
        sizes={"width": 1024, "depth": 24},
        remarks=(
            "the source resizes the whole field of a slice to 256 x 256; 1.5 mm and 128 slices are this house's choice",
            "positions are those that the released code computes, which are not what its configuration says",
        ),
    ),
    Family(
        "CXR-BERT", "arXiv 2204.09817; microsoft/BiomedVLP-CXR-BERT-specialized", "MIT",
        needs=((r"bert\.embeddings\.word_embeddings\.weight", 2), (r"bert\.encoder\.layer\.0\..+", None), (r"cls_projection_head\..+", None)),
        rules=((r"(bert\.(?:embeddings\.(?:\w+_embeddings|LayerNorm)\.\w+|encoder\.layer\..+))", r"\1"),),
        dropped=(
            (r"bert\.embeddings\.position_ids", "computed here"), (r"bert\.pooler\..+", "not read by any method here"),
            (r"cls\..+|cls_projection_head\..+", "heads of its own pre-training"),
        ),
        build=text.build,
        sizes=VIT_B,
        kind="text",
    ),
)  # fmt: skip
