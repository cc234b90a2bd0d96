"""SimCroP: masked volume and masked report, and sentences aligned with a fixed number of patches each. ASAP without what reads organs or adapts.

Source: arXiv 2509.08311 (MICCAI 2025); only its downstream code was released, so its form follows methods.md E12. Differs: matched form, on the
house's 3-D ViT, with the exact share hidden; K is not stated anywhere: the middle of `top_k`. What ASAP adds stands beside it: organs (AKI), a K of
each sentence's own, the token of the selected patches (f_sim). The alignment's cures are options here as there.
Cost (2026-11-23, forward and backward of 16 phantom volumes at `small`, one thread): 1.03 times ASAP's CPU seconds, .98 times its operations.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .583 (.529 to .635), untrained .556.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.alignment import Alignment
from asapkit.blanks import ReportDecoder
from asapkit.config import Config
from asapkit.language import TextEncoder
from asapkit.masking import hidden_indices, visible_of
from asapkit.pairing import alone
from asapkit.types import Batch, Losses
from asapkit.vit3d import Decoder, Encoder, patches_at

WEIGHTS = {"reconstruct": 1.0, "align": 1.0, "words": 1.0}


class Method(nn.Module):
    """align_over ... align_positions, temperature: see `Alignment`.   fixed_k: visible patches that each sentence takes.

    restore: volumes per batch (of each rank) whose patches and words are restored (0: all); alignment always sees every volume of the batch.
    text_memory: keep the text features of sentences seen before.
    """

    frozen = ("text.",)

    def __init__(
        self, config: Config, *, vocabulary: Int[Tensor, " W"] | None = None, align_over: str = "report", align_from: str = "last",
        align_on: str = "visible", align_only: str = "all", positive_weight: float = 1.0, organ_gate: bool = False, encode: str = "report",
        align_negatives: str = "own", align_positions: str = "kept", fixed_k: int | None = None, temperature: float = 0.07, dropout: float = 0.1,
        text_memory: bool = False, restore: int = 0,
    ):  # fmt: skip
        super().__init__()
        if restore < 0:
            raise ValueError(f"restore {restore}: give a number of volumes (0: all)")
        self.config, self.gather, self.restore = config, alone, restore or None
        fixed_k = config.top_k[len(config.top_k) // 2] if fixed_k is None else fixed_k
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.alignment = Alignment(
            config, text_width=self.text.width, align_over=align_over, align_from=align_from, align_on=align_on, align_only=align_only,
            positive_weight=positive_weight, organ_gate=organ_gate, encode=encode, align_negatives=align_negatives, align_positions=align_positions,
            selector="fixed", fixed_k=fixed_k, temperature=temperature,
        )  # fmt: skip
        self.report = ReportDecoder(config, text_width=self.text.width, vocabulary=vocabulary, dropout=dropout)

    def forward(self, batch: Batch) -> Losses:
        visible = visible_of(batch, self.config)
        aligned, latent = self.alignment.read(self.encoder, batch.image, visible, restore=self.restore)
        levels = self.alignment.levels(*aligned, visible=visible)
        some, seen, latent = batch[: self.restore], visible[: self.restore], latent[: self.restore]
        hidden = hidden_indices(seen, self.config.patches)
        predicted, _ = self.decoder(latent, seen, only=hidden)
        sentence = self.alignment.sentences(self.text, batch)
        mixture = self.alignment.selector(sentence)
        keys, mean = self.report.keys(latent)
        return {
            "reconstruct": objectives.restored(predicted, patches_at(some.image, self.config.patch, hidden), patches=self.config.patches),
            "align": self.alignment.loss(batch, sentence, levels, mixture=mixture, gather=self.gather),
            "words": self.report(self.text, some, keys, mean=mean),
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        some = batch[: self.restore]
        return {"reconstruct": torch.tensor(float(len(some)))} | self.report.counts(some) | self.alignment.counts(batch)

    def aligned(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N E"]:
        """Every patch in the alignment space, nothing hidden; of two levels the first."""
        return self.alignment.aligned(self.encoder, image)

    def match(self, aligned: Float[Tensor, "N E"], sentences: list[str]) -> tuple[Float[Tensor, "S N"], Int[Tensor, " S"]]:
        """Cosine of each sentence with each patch of one image, and K."""
        return self.alignment.match(self.text, aligned, sentences)

    def said(self, batch: Batch) -> tuple[Float[Tensor, "B S E"], Int[Tensor, "B S"]]:
        """Every sentence as training encodes it (`match` encodes each alone), and the patches that it takes with nothing hidden."""
        return self.alignment.said(self.text, batch)
