"""ASAP: masked volumes and reports joined by anatomy-aware knowledge injection, selective alignment and semantically-adaptive fusion.

Source: arXiv 2606.00602, section 3; released code github ToniChopp/ASAP (Apache-2.0), described in own words. `Differs:` every deviation is a
keyword; `fidelity="official"` sets the defaults of the ten switches in `OFFICIAL` to what was released, `"correct"` to what the equations say.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .655 (.604 to .702), untrained .556.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit import anatomy, objectives
from asapkit.alignment import Alignment
from asapkit.blanks import ReportDecoder
from asapkit.config import Config
from asapkit.language import TextEncoder
from asapkit.masking import hidden_indices, visible_of
from asapkit.pairing import alone
from asapkit.types import Batch, Losses
from asapkit.vit3d import Decoder, Encoder, patches_at, take

WEIGHTS = {"reconstruct": 1.0, "organs": 1.0, "align": 1.0, "words": 1.0}

CORRECT = {
    "reconstruct_on": "hidden", "words_on": "hidden", "text_dropout": False, "pad_columns": False, "align_mean": "report", "f_sim": "keys",
    "organ_reduction": "sum", "organ_background": False, "selector": "straight_through", "fusion": "official",
}  # fmt: skip
OFFICIAL = CORRECT | {
    "reconstruct_on": "all", "words_on": "all", "text_dropout": True, "pad_columns": True, "align_mean": "batch", "f_sim": "all_slots",
    "organ_reduction": "mean", "organ_background": True, "selector": "frozen",
}  # fmt: skip


class Method(nn.Module):
    """ASAP and its ablations.

    aki, ssa, slf, gf: the four parts of Table VIII.   align_over ... align_positions, temperature, prior: see `Alignment`.
    selector, fixed_k, top_k "all patches": Table X.   organ_layer, organ_targets (soft | one_hot), organ_classes (nine | grouped): Table IX;
    organ_classes may be any list that `anatomy.classes` reads, lesions among them where the store has their masks.
    restore: volumes per batch (of each rank) whose patches, organs and words are restored (0: all); alignment always sees every volume of the batch.
    text_memory: keep the text features of sentences seen before.   switches: any of the keys of `CORRECT`.
    """

    frozen = ("text.",)  # parameter prefixes that are neither trained nor saved
    without = "aki=false"  # of what it needs

    def __init__(
        self, config: Config, *, vocabulary: Int[Tensor, " W"] | None = None, fidelity: str = "correct", aki: bool = True, ssa: bool = True,
        slf: bool = True, gf: bool = True, align_over: str = "report", align_from: str = "last", align_on: str = "visible", align_only: str = "all",
        positive_weight: float = 1.0, organ_gate: bool = False, encode: str = "report", align_negatives: str = "own", align_positions: str = "kept",
        fixed_k: int | None = None, temperature: float = 0.07, prior: float = 0.05, organ_layer: int = 1, organ_targets: str = "soft",
        organ_classes: str = "nine", dropout: float = 0.1, text_memory: bool = False, restore: int = 0, **switches,
    ):  # fmt: skip
        super().__init__()
        self.switches = s = choose(fidelity, switches)
        if organ_targets not in ("soft", "one_hot"):
            raise ValueError(f"organ_targets {organ_targets!r}: there are soft, one_hot")
        if restore < 0:
            raise ValueError(f"restore {restore}: give a number of volumes (0: all)")
        if not -config.decoder_depth <= organ_layer < config.decoder_depth:
            raise ValueError(f"organ_layer {organ_layer}: the decoder has {config.decoder_depth} blocks, counted from 0")
        self.config, self.gather, self.restore, self.ssa, self.slf = config, alone, restore or None, ssa, slf
        self.organ_layer, self.organ_targets, self.organ_classes = organ_layer, organ_targets, anatomy.classes(organ_classes)
        self.background = s["organ_background"] and aki
        if self.background and self.organ_classes != anatomy.classes("nine"):
            raise ValueError("organ_background is of the nine organs alone; with other organ_classes set organ_background=false")
        self.needs = anatomy.needed(self.organ_classes) if aki else ()
        self.partial = not ssa  # parameters of the alignment get no gradient then

        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.organ_head = anatomy.head(config.decoder_width, len(self.organ_classes)) if aki else None
        self.text = TextEncoder(config.text_encoder, dropout=s["text_dropout"], remember=text_memory)
        self.alignment = Alignment(
            config, text_width=self.text.width, align_over=align_over, align_from=align_from, align_on=align_on, align_only=align_only,
            positive_weight=positive_weight, organ_gate=organ_gate, encode=encode, align_negatives=align_negatives, align_positions=align_positions,
            selector=s["selector"], fixed_k=fixed_k, temperature=temperature, prior=prior, pad_columns=s["pad_columns"], align_mean=s["align_mean"],
        )  # fmt: skip
        self.similarity_gain = nn.Parameter(torch.tensor(0.2)) if slf and s["f_sim"] == "keys" else None
        self.report = ReportDecoder(
            config, text_width=self.text.width, vocabulary=vocabulary, words_on=s["words_on"], form=s["fusion"], global_feature=gf, dropout=dropout
        )

    def forward(self, batch: Batch) -> Losses:
        visible = self.visible(batch)
        aligned, latent = self.alignment.read(self.encoder, batch.image, visible, restore=self.restore)
        some, seen = batch[: self.restore], visible[: self.restore]
        losses = self.patch_losses(some, latent[: self.restore], seen)

        sentence = self.alignment.sentences(self.text, batch)
        mixture = self.alignment.selector(sentence)
        levels = self.alignment.levels(*aligned, visible=visible)
        losses["align"] = latent.new_zeros(())
        if self.ssa:
            losses["align"] = self.alignment.loss(batch, sentence, levels, mixture=mixture, gather=self.gather)

        (keys, mean), first = self.report.keys(latent[: self.restore]), None
        if self.slf:
            guide, which = levels[-1]
            guide = take(guide[: self.restore], seen) if which is None else guide[: self.restore]  # what restores words sees no hidden patch
            asking, mixture = sentence[: self.restore], mixture[: self.restore]
            weights = asking.new_full((*asking.shape[:2], guide.shape[1]), 1.0 / guide.shape[1])
            if self.ssa:
                weights = self.alignment.select(asking, guide, mixture=mixture, gate=self.alignment.gate(some, seen))
            first = self.similarity_token(some, keys, guide, weights=weights)
        losses["words"] = self.report(self.text, some, keys, mean=mean, first=first)
        return losses

    def patch_losses(self, batch: Batch, latent: Float[Tensor, "B M D"], visible: Int[Tensor, "B V"]) -> Losses:
        """Hidden patches, and what of them each organ fills."""
        config, hidden = self.config, hidden_indices(visible, self.config.patches)
        every = self.organ_head is not None and self.organ_layer in (-1, config.decoder_depth - 1)  # organs are read from the last block
        predicted, decoded = self.decoder(latent, visible, only=None if every else hidden)
        predicted, target = take(predicted, hidden) if every else predicted, patches_at(batch.image, config.patch, hidden)
        return {
            "reconstruct": objectives.restored(predicted, target, patches=config.patches, on=self.switches["reconstruct_on"]),
            "organs": self.organ_loss(decoded[self.organ_layer], batch) if self.organ_head is not None else predicted.new_zeros(()),
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each loss is a mean over, so that ranks and micro-batches add up exactly; a loss that is absent is already global."""
        some = batch[: self.restore]
        own = {"reconstruct": torch.tensor(float(len(some))), "organs": anatomy.shares(some, self.organ_classes)[1].any(-1).sum()}
        return own | self.report.counts(some) | self.alignment.counts(batch)

    def visible(self, batch: Batch) -> Int[Tensor, "B V"]:
        return visible_of(batch, self.config)

    def organ_loss(self, decoded: Float[Tensor, "B N D"], batch: Batch) -> Tensor:
        share, known = anatomy.shares(batch, self.organ_classes)
        if self.background:
            # released label range 0..8: background first; the left atrial appendage is counted as heart so that eight organs remain
            organs = torch.cat([share[..., :5], share[..., 5:7].sum(-1, keepdim=True), share[..., 7:]], dim=-1)
            share = torch.cat([1 - organs.sum(-1, keepdim=True), organs], dim=-1)
        share = share.clamp(0, 1)
        if self.organ_targets == "one_hot":
            share = anatomy.one_hot(share, self.organ_classes)
        return objectives.organ_proportions(self.organ_head(decoded), share, known, reduction=self.switches["organ_reduction"])

    def similarity_token(self, batch: Batch, keys: Tensor, patches: Tensor, *, weights: Tensor) -> Float[Tensor, "B 1 D"]:
        """f_sim: the patches that the sentences selected, pooled in the space of the keys (eq. 9, 11, 12)."""
        if self.switches["f_sim"] == "all_slots":
            return 0.2 * (weights.to(patches.dtype) @ patches).mean(1, keepdim=True)
        real = batch.sentence_real.to(keys.dtype)
        pooled = torch.einsum("bs,bsv,bve->be", real, weights.to(keys.dtype), keys) / real.sum(1, keepdim=True).clamp(min=1)
        return self.similarity_gain * pooled.unsqueeze(1)

    def aligned(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N E"]:
        """Every patch in the alignment space, nothing hidden; of two levels the first."""
        return self.alignment.aligned(self.encoder, image)

    def match(self, aligned: Float[Tensor, "N E"], sentences: list[str]) -> tuple[Float[Tensor, "S N"], Int[Tensor, " S"]]:
        """Cosine of each sentence with each patch of one image, and K."""
        return self.alignment.match(self.text, aligned, sentences)

    def said(self, batch: Batch) -> tuple[Float[Tensor, "B S E"], Int[Tensor, "B S"]]:
        """Every sentence as training encodes it (`match` encodes each alone), and the patches that it takes with nothing hidden."""
        return self.alignment.said(self.text, batch)


def choose(fidelity: str, switches: dict) -> dict:
    """The ten switches: the defaults of the fidelity, with single ones changed.

    Raises: ValueError for an unknown fidelity or switch (listing the known ones).
    """
    if fidelity not in ("correct", "official"):
        raise ValueError(f"unknown fidelity {fidelity!r}; there are correct, official")
    if unknown := sorted(set(switches) - set(CORRECT)):
        raise ValueError(f"unknown option {', '.join(unknown)} of recipe asap; switches are {', '.join(CORRECT)}")
    return (CORRECT if fidelity == "correct" else OFFICIAL) | switches
