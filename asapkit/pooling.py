"""One feature per organ: pooled from the organ's own tokens, and read from the sentences that name it; their contrast, organ by organ.

Source: fVLM (github alibaba-damo-academy/fvlm) and ViSD-Boost (2508.03742) as described in methods.md E9, E10.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import TextEncoder, framed, tokenizer
from asapkit.pairing import Gather, report_key
from asapkit.types import Batch
from asapkit.vit3d import Encoder

GROUPS = {"lung": (0, 1, 2, 3, 4), "heart": (5, 6), "esophagus": (7,), "aorta": (8,)}
"""The organs that have a feature each, as indices into `ORGANS`; axis letter G."""
NORMAL = "{} shows no significant abnormalities."
"""What is said of an organ that no sentence names (fVLM's own words)."""


def grouped(organs: Bool[Tensor, "*L O"]) -> Bool[Tensor, "*L G"]:
    """Whether any organ of a group is marked."""
    return torch.stack([organs[..., list(group)].any(-1) for group in GROUPS.values()], dim=-1)


def inside(batch: Batch) -> Bool[Tensor, "B N G"]:
    """Patches that touch an organ; none where the scan has no organ masks."""
    return grouped((batch.organs > 0) & batch.has_organs[:, None, None])


def named(batch: Batch) -> Bool[Tensor, "B S G"]:
    """Organs that a sentence is about. A sentence that names none is about none; one of all nine cannot be told from it."""
    about = batch.sentence_organs & batch.names_organs.unsqueeze(-1)
    return grouped(about) & batch.sentence_real.unsqueeze(-1)


def normal(batch: Batch) -> Bool[Tensor, "B G"]:
    """Organs of which no sentence states that something is there."""
    return ~(named(batch) & batch.sentence_positive.unsqueeze(-1)).any(1)


def rows_inside(organ: Bool[Tensor, "B N"]) -> tuple[Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """Indices of an organ's patches, ascending, padded to the most of any volume (at least 1), and which are no padding."""
    most = max(1, int(organ.sum(1).max()))
    index = (~organ).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return index, organ.gather(1, index)


def levels(encoder: Encoder, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B N D"]]:
    """Patch tokens of every quarter of the encoder's depth (3, 6, 9 and the last of 12), each normalised; the last by the encoder's own norm."""
    states, depth = encoder.layers(image), len(encoder.blocks)
    early = sorted({ceil(depth * quarter / 4) for quarter in (1, 2, 3)} - {depth})
    return [F.layer_norm(states[n][:, 1:], states[n].shape[-1:]) for n in early] + [encoder.norm(states[-1])[:, 1:]]


class OrganPool(nn.Module):
    """A learned query per organ attends over that organ's tokens. Queries start at zero, hence a feature as the mean of its tokens.

    Differs: a query per organ and head in place of one query, its projection and the keys' projection: with a query that knows no token, the product
    of the three is what is learned, and from zero it has a gradient in the first step.   Raises: ValueError for heads that do not divide the width.
    """

    def __init__(self, width: int, out: int, *, heads: int = 4, dropout: float = 0.1):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"pool_heads {heads}: give a divisor of the width {width}")
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(len(GROUPS), heads, width))
        self.value, self.mix = nn.Linear(width, width), nn.Linear(width, width)
        self.project = nn.ModuleList(nn.Linear(width, out) for _ in GROUPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "B M D"], real: Bool[Tensor, "B M"], *, organ: int) -> Float[Tensor, "B E"]:
        """Unit features of one organ from its tokens; of a volume without any, a number that says nothing."""
        scores = torch.einsum("hd,bmd->bhm", self.query[organ], tokens).float() / tokens.shape[-1] ** 0.5
        share = scores.masked_fill(~real.unsqueeze(1), torch.finfo(scores.dtype).min).softmax(-1) * real.unsqueeze(1)
        pooled = torch.einsum("bhm,bmd->bhd", self.dropout(share).to(tokens.dtype), tokens)
        value = torch.einsum("bhd,hed->bhe", pooled, rearrange(self.value.weight, "(h e) d -> h e d", h=self.heads).to(pooled.dtype))
        return objectives.unit(self.project[organ](self.mix(value.flatten(1) + self.value.bias)))


@dataclass(frozen=True)
class Said:
    """What the reports of a batch say of each organ."""

    feature: Float[Tensor, "B G E"]  # unit vectors
    key: Int[Tensor, "B G"]  # equal texts have equal ones, on every rank
    normal: Bool[Tensor, "B G"]


class OrganPair(nn.Module):
    """Organs of volumes and what reports say of them in one space: a frozen text encoder read at [CLS], a projection, a learned temperature.

    text_memory: keep the features of texts seen before.
    """

    def __init__(self, config: Config, *, temperature: float = 0.07, text_memory: bool = False):
        super().__init__()
        if not 0.001 <= temperature <= 0.5:
            raise ValueError(f"temperature {temperature}: give a number from 0.001 to 0.5, within which it is learned")
        words = tokenizer(config.text_encoder)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.report = nn.Linear(self.text.width, config.align_width)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.marks, self.longest = {"cls": words.cls_token_id, "sep": words.sep_token_id}, config.max_tokens - 2
        self.default = [words(NORMAL.format(organ), add_special_tokens=False)["input_ids"] for organ in GROUPS]

    def rows(self, batch: Batch) -> list[list[int]]:
        """Token ids of what each report says of each organ, B x G: the sentences that name it, in their order, or the default sentence."""
        about = F.pad(named(batch), (0, 0, 0, 1))  # index -1, a token of no sentence, is about nothing
        index = batch.findings_sentence.masked_fill(~batch.findings_real, -1)
        of = about[torch.arange(len(batch), device=index.device).unsqueeze(1), index].cpu()
        tokens = batch.findings_tokens.cpu()
        texts = [(tokens[b][of[b, :, g]].tolist(), self.default[g]) for b in range(len(batch)) for g in range(len(GROUPS))]
        return [(said or default)[: self.longest] for said, default in texts]

    def forward(self, batch: Batch) -> Said:
        rows, device, seen = self.rows(batch), batch.image.device, {}
        which = torch.tensor([seen.setdefault(tuple(row), len(seen)) for row in rows], device=device)  # each text is encoded once
        tokens, real = framed([torch.tensor(row) for row in seen], like=batch.findings_tokens, **self.marks)
        feature = objectives.unit(self.report(self.text(tokens, real)[:, 0]))[which]
        key = report_key(tokens, real)[which]
        return Said(rearrange(feature, "(b g) e -> b g e", g=len(GROUPS)), rearrange(key, "(b g) -> b g", g=len(GROUPS)), normal(batch))

    def contrast(self, organs: Float[Tensor, "B G E"], said: Said, present: Bool[Tensor, "B G"], *, gather: Gather) -> Float[Tensor, ""]:
        """Sum of the organs' contrasts over the volumes of all ranks that have the organ; nothing for one without a term, the graph stays whole."""
        volume, report = map(gather, (organs, said.feature))
        marks = {name: gather(x) for name, x in (("key", said.key), ("normal", said.normal), ("present", present))}
        nothing = (volume.sum() + report.sum()) * 0.0 + self.cool() * 0.0
        return nothing + sum(self.terms(volume, report, **marks).values())

    def cool(self) -> Float[Tensor, ""]:
        """The temperature, held from 0.001 to 0.5; beyond, the gradient still leads back."""
        return self.temperature + (self.temperature.clamp(0.001, 0.5) - self.temperature).detach()

    def terms(
        self, volume: Float[Tensor, "B G E"], report: Float[Tensor, "B G E"], *, key: Int[Tensor, "B G"], normal: Bool[Tensor, "B G"],
        present: Bool[Tensor, "B G"],
    ) -> dict[str, Float[Tensor, ""]]:  # fmt: skip
        """The contrast of each organ that is abnormal in some volume and whose targets tell volumes apart."""
        found = {}
        for g, organ in enumerate(GROUPS):
            here = present[:, g]
            target = objectives.alike_targets(normal[here, g], key[here, g])
            if (target > 0).all():  # normal everywhere, one text of all, or a single volume: nothing to tell apart
                continue
            logits = volume[here, g] @ report[here, g].mT / self.cool()
            found[organ] = objectives.contrast(logits, target > 0, target=target)
        return found
