"""SCALE-VLP: sigmoid contrast whose pairs are weighted by how alike two studies are, in where they are looked at and in what is known of them.

Source: arXiv 2511.02996; no code was released: its shape follows public summaries, its details methods.md A. Differs: the encoder is this house's
ViT, trained, in place of a frozen one with a light transformer on top; the knowledge is the frozen text encoder's mean token, not a medical
language model's, or, with knowledge=ontology, what the labels say by an ontology of findings and organs that is ours; volumes of one report do not
count. Cost: every patch is computed, four times the tokens of a step that hides 75 %.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .547 (.488 to .603), untrained .556.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from asapkit import objectives
from asapkit import ontology as ontologies
from asapkit.config import Config
from asapkit.encoders import chosen_encoder
from asapkit.pairing import Pair, alone, moment_kernel, moments, same_report
from asapkit.types import Batch, Losses

WEIGHTS = {"contrast": 1.0}


class Method(nn.Module):
    """mode: soft_target, alike pairs are half matches (what the paper describes) | official, they weigh more as negatives (what its equations do).

    alpha: share of knowledge, beside the report's own feature, in the likeness of two texts.   softness: of a soft target, at most.
    knowledge: text, the frozen text encoder's mean token | ontology, the study's labels by the one named `ontology`, or in a .json file of your own.
    text_memory: keep the text features of reports seen before.
    """

    frozen = ("pair.text.",)

    def __init__(
        self, config: Config, *, mode: str = "soft_target", alpha: float = 0.5, softness: float = 0.5, knowledge: str = "text",
        ontology: str = "findings-v1", text_memory: bool = False,
    ):  # fmt: skip
        if mode not in ("soft_target", "official"):
            raise ValueError(f"mode {mode!r}: there are soft_target, official")
        if not (0 <= alpha <= 1 and 0 <= softness <= 1):
            raise ValueError(f"alpha {alpha}, softness {softness}: give numbers from 0 to 1")
        if knowledge not in ("text", "ontology"):
            raise ValueError(f"knowledge {knowledge!r}: there are text, ontology")
        super().__init__()
        self.ontology = ontologies.read(ontology) if knowledge == "ontology" else None
        self.needs = () if self.ontology is None else ("labels",)
        self.register_buffer("traits", None if self.ontology is None else self.ontology.traits, persistent=False)
        self.config, self.encoder, self.gather = config, chosen_encoder(config), alone
        self.pair = Pair(config, scale=10.0, bias=-10.0, text_memory=text_memory)
        self.mode, self.alpha, self.softness = mode, alpha, softness
        self.score = nn.Linear(config.width, 1, bias=False)
        axes = [torch.arange(g) * mm for g, mm in zip(config.grid, config.patch_mm, strict=True)]
        self.register_buffer("centres", torch.cartesian_prod(*axes).float(), persistent=False)  # mm, row-major x, y, z

    def shares(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        """How much of the volume's feature each patch gives."""
        return self.score(tokens).squeeze(-1).float().softmax(-1)

    def feature(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B D"]:
        """What is contrasted of a volume, before `pair` projects it."""
        tokens = self.encoder.tokens(image)
        return self.pooled(tokens, self.shares(tokens))

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Volume and report in one space, unit length."""
        return self.pair(self.feature(batch.image), batch.report_tokens, batch.report_real)

    @staticmethod
    def pooled(tokens: Float[Tensor, "B N D"], share: Float[Tensor, "B N"]) -> Float[Tensor, "B D"]:
        return torch.einsum("bn,bnd->bd", share.to(tokens.dtype), tokens)

    def forward(self, batch: Batch) -> Losses:
        tokens = self.encoder.tokens(batch.image)
        share, words = self.shares(tokens), self.pair.text(batch.report_tokens, batch.report_real)
        volume, report = self.pair.joined(self.pooled(tokens, share), words[:, 0])
        known = self.known(batch, words)
        volume, report, known, (mean, covariance) = (
            *map(self.gather, (volume, report, known)),
            map(self.gather, moments(share.detach(), self.centres)),
        )
        same = same_report(batch.report_tokens, batch.report_real, gather=self.gather)
        likeness = self.likeness(volume.detach(), report.detach(), known, moment_kernel(mean, covariance))
        logits, count = self.pair.logits(volume, report), len(likeness)
        if self.mode == "official":
            weight = count * likeness / likeness.sum(1, keepdim=True)
            return {"contrast": objectives.sigmoid_contrast(logits, same, weight=weight)}
        own = torch.eye(count, dtype=torch.bool, device=likeness.device)
        return {"contrast": objectives.sigmoid_contrast(logits, same, target=torch.where(own, 1.0, self.softness * likeness))}

    def known(self, batch: Batch, words: Float[Tensor, "B R C"]) -> Float[Tensor, "B _"]:
        """What is known of each study, unit length: of its words, or of its labels (zeros where none is known)."""
        if self.ontology is not None:
            return ontologies.described(batch.labels, self.traits, absent=self.ontology.absent)
        real = batch.report_real.unsqueeze(-1)
        return objectives.unit((words * real).sum(1) / real.sum(1))

    def likeness(self, volume: Tensor, report: Tensor, known: Tensor, places: Float[Tensor, "B B"]) -> Float[Tensor, "B B"]:
        """How alike two studies are, (0, 1]: the mean of the likenesses of their volumes and of their texts."""
        images = half(volume @ volume.mT) * places
        knowledge = half(known @ known.mT) if self.ontology is None else ontologies.alike(known)
        texts = self.alpha * knowledge + (1 - self.alpha) * half(report @ report.mT)
        return (images + texts) / 2


def half(cosine: Tensor) -> Tensor:
    """A cosine, from -1 to 1, as a likeness from 0 to 1."""
    return (1 + cosine) / 2
