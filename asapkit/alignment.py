"""Sentences and patches in one space: their features, which patches a sentence may take and takes, and their contrast. ASAP's and SimCroP's.

Source: ASAP section 3.3 (eq. 4 to 10). The paper's form stays the default; what closes its shortcut - a sentence that points to one place in every
patient - is an option: contrast over images, another study's image as a hard negative, positive sentences weighted or alone, patch-local features,
positions left out of what is matched, the organ gate.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import Projection, TextEncoder, one_sentence_per_row, sentence_features, tokenizer
from asapkit.pairing import Gather, alone, report_key, shown_reports
from asapkit.selection import Selector
from asapkit.types import Batch
from asapkit.vit3d import Encoder, take

Levels = list[tuple[Float[Tensor, "B _ E"], Int[Tensor, "B V"] | None]]
"""Patch features that are aligned, in the alignment space, and which patches they are (None: every patch)."""
Seen = tuple[Float[Tensor, "B _ D"], list[Tensor], Float[Tensor, "_ _ D"]]
"""What is aligned before it is projected: stem tokens, states of class and patch tokens, the last of them after the norm."""
Gate = tuple[Bool[Tensor, "B V G"], Bool[Tensor, "B S G"]] | None
"""Groups of patches that each patch is in, and that each sentence may choose; None: all are free."""

OPTIONS = {
    "align_over": ("report", "batch"), "align_from": ("last", "early", "stem", "stem_and_last"), "align_on": ("visible", "all"),
    "align_only": ("all", "positive"), "encode": ("report", "sentence"), "align_mean": ("report", "batch"),
    "align_negatives": ("own", "exchanged"), "align_positions": ("kept", "left_out"),
}  # fmt: skip


class Alignment(nn.Module):
    """A sentence against the mean of the patches that it selects.

    align_over: report (the paper), against the other sentences of its report | batch, against what it would select in every image of the batch.
    align_from: last | early | stem | stem_and_last, the patch features that are aligned; of the last, sentence maps are the stem's.
    align_on: visible (the paper) | all, the patches of the stem that a sentence may select (what restores an image never sees its hidden patches).
    align_only: all | positive, which sentences are aligned.   positive_weight: how many others a positive sentence counts for.
    organ_gate: only patches of the organs that the sentence names.   encode: report | sentence, what is encoded at once.
    align_negatives: own (the paper) | exchanged: also what the sentence itself would select in the image of another study of the batch.
    align_positions: kept (the paper) | left_out, see `without_positions`.
    selector, fixed_k: see `Selector`.   prior: weight of its prior.   pad_columns, align_mean: see `objectives.align_in_report`.
    """

    def __init__(
        self, config: Config, *, text_width: int, align_over: str = "report", align_from: str = "last", align_on: str = "visible",
        align_only: str = "all", positive_weight: float = 1.0, organ_gate: bool = False, encode: str = "report",
        selector: str = "straight_through", fixed_k: int | None = None, temperature: float = 0.07, prior: float = 0.05, pad_columns: bool = False,
        align_mean: str = "report", align_negatives: str = "own", align_positions: str = "kept",
    ):  # fmt: skip
        super().__init__()
        given = (align_over, align_from, align_on, align_only, encode, align_mean, align_negatives, align_positions)
        for (name, known), value in zip(OPTIONS.items(), given, strict=True):
            if value not in known:
                raise ValueError(f"{name} {value!r}: there are {', '.join(known)}")
        if align_on == "all" and not align_from.startswith("stem"):
            raise ValueError(f"align_on 'all' needs align_from 'stem' or 'stem_and_last': hidden patches have no feature from {align_from!r}")
        if align_negatives == "exchanged" and align_over == "batch":
            raise ValueError("align_negatives 'exchanged' needs align_over 'report': over 'batch' every other image is a negative already")
        if align_positions == "left_out" and not config.position_scale:
            raise ValueError("align_positions 'left_out' needs positions: position_scale 0 has none")
        for name, value in (("temperature", temperature), ("positive_weight", positive_weight)):
            if not value > 0:
                raise ValueError(f"{name} {value}: give a number above 0")
        self.config, self.over, self.source, self.on, self.only = config, align_over, align_from, align_on, align_only
        self.positive_weight, self.organ_gate, self.encode = positive_weight, organ_gate, encode
        self.negatives, self.positions = align_negatives, align_positions
        self.temperature, self.prior_weight, self.pad_columns, self.mean = temperature, prior, pad_columns, align_mean

        self.image = Projection(config.width, config.align_width)
        self.last = Projection(config.width, config.align_width) if align_from == "stem_and_last" else None
        self.text = Projection(text_width, config.align_width)
        self.selector = Selector(config.align_width, config.top_k, kind=selector, fixed_k=fixed_k)

    # --- features

    def read(
        self, encoder: Encoder, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"], *, restore: int | None = None
    ) -> tuple[Seen, Float[Tensor, "_ M D"]]:
        """What `levels` aligns, of every volume; last tokens of the visible patches, of at least the first `restore` volumes (None: of all)."""
        whole, apart = self.on == "all", self.positions == "left_out"
        stem = encoder.stem_tokens(image, None if whole else visible)
        deep = restore if apart or self.source == "stem" else None  # what nobody aligns or restores needs no depth
        states = encoder.deepen(take(stem[:deep], visible[:deep]) if whole else stem[:deep])
        latent = encoder.norm(states[-1])
        if not apart:
            return (stem, states, latent), latent
        return self.without_positions(encoder, stem, visible, whole=whole), latent

    def without_positions(self, encoder: Encoder, stem: Float[Tensor, "B _ D"], visible: Int[Tensor, "B V"] | None, *, whole: bool) -> Seen:
        """What the same patches give where no position was ever added: of the stem by subtraction, of deeper layers by a pass of their own.

        A function of which patches there are, not of where: shuffle the patches and their features are shuffled with them. So no code of a place
        is left to point to. What stays: anatomy tells its place, deep tokens know what else is seen, and with attend "slices" what is in their slice.
        The pass costs the encoder once more; tokens that restore and that the probes read keep their positions and learn from the alignment through
        the shared weights alone.
        """
        positions = encoder.positions.expand(len(stem), -1, -1)
        free = stem - (positions if whole or visible is None else take(positions, visible))
        if self.source == "stem":
            return free, [], free[:0]
        states = encoder.deepen(take(free, visible) if whole and visible is not None else free)
        return free, states, encoder.norm(states[-1])

    def levels(self, stem: Tensor, states: list[Tensor], latent: Tensor, *, visible: Int[Tensor, "B V"] | None) -> Levels:
        if self.source == "last":
            return [(self.image(latent[:, 1:]), visible)]
        if self.source == "early":
            return [(self.image(states[max(1, self.config.depth // 4)][:, 1:]), visible)]
        first = (self.image(stem), None if self.on == "all" else visible)
        return [first] if self.last is None else [first, (self.last(latent[:, 1:]), visible)]

    def sentences(self, text: TextEncoder, batch: Batch) -> Float[Tensor, "B S E"]:
        """Sentence features: mean of the projected token features; the report is encoded whole, or each sentence alone."""
        tokens, index, count = batch.findings_tokens, batch.findings_sentence, batch.sentence_real.shape[1]
        if self.encode == "report":
            return sentence_features(self.text(text(tokens, batch.findings_real)), index, count)
        words = tokenizer(self.config.text_encoder)
        rows, real, row_index = one_sentence_per_row(tokens, index, count, cls=words.cls_token_id, sep=words.sep_token_id)
        return sentence_features(self.text(text(rows, real)), row_index, 1).reshape(len(tokens), count, -1)

    # --- what a sentence takes

    def stated(self, batch: Batch) -> Bool[Tensor, "B S"]:
        """Sentences that are aligned."""
        return batch.sentence_real & batch.sentence_positive if self.only == "positive" else batch.sentence_real

    def worth(self, batch: Batch) -> Float[Tensor, "B S"]:
        """How much each sentence counts beside the others of its report; 0 where it is not aligned."""
        return self.stated(batch) * torch.where(batch.sentence_positive, self.positive_weight, 1.0)

    def gate(self, batch: Batch, visible: Int[Tensor, "B V"] | None) -> Gate:
        """Groups of patches (the organs, then the body) that each visible patch (every patch, for None) is in, and that each sentence may choose.

        With the organ gate a sentence chooses among the patches that touch an organ that it names; among all body patches where it names none, or
        where the scan has no organ masks (the candidates of `tasks.ground`). Without it the visible patches are free (None); of every patch, those
        of the body are.
        """
        if not self.organ_gate and visible is not None:
            return None
        inside = batch.in_body.unsqueeze(-1)
        patches, named = inside, inside.new_ones(*batch.sentence_real.shape, 1)
        if self.organ_gate:
            touched = torch.where(batch.has_organs[:, None, None], batch.organs > 0, inside)
            none_named = ~batch.names_organs.unsqueeze(-1)
            patches, named = torch.cat([touched, inside], dim=-1), torch.cat([batch.sentence_organs & ~none_named, none_named], dim=-1)
        return (patches if visible is None else take(patches, visible)), named

    def select(self, sentence: Float[Tensor, "B S E"], patches: Float[Tensor, "B V E"], *, mixture: Tensor, gate: Gate) -> Float[Tensor, "B S V"]:
        """Weights of the patches that each sentence selects in its own image."""
        similarity = objectives.unit(sentence) @ objectives.unit(patches).mT
        allowed = None if gate is None else gate[1].float() @ gate[0].float().mT > 0
        return self.selector.weights(similarity, mixture, allowed=allowed)

    # --- the loss

    def loss(self, batch: Batch, sentence: Float[Tensor, "B S E"], levels: Levels, *, mixture: Tensor, gather: Gather = alone) -> Float[Tensor, ""]:
        """Contrast of the stated sentences with what they select, summed over the levels of features, and the prior of their K."""
        if self.over == "batch":
            return self.over_batch(batch, sentence, levels, mixture=mixture, gather=gather)
        gather = gather if self.negatives == "exchanged" else alone  # what stays within a report asks no other rank
        own = (sentence, mixture, batch.sentence_meaning, self.stated(batch), self.worth(batch))
        sentence, mixture, meaning, real, worth = map(gather, own)
        partner, wrong = self.exchange(batch, gather=gather) if self.negatives == "exchanged" else (None, None)
        loss = self.prior(mixture, real, worth=worth)
        for patches, which in levels:
            gate, patches = self.gate(batch, which), gather(patches)
            gate = None if gate is None else (gather(gate[0]), gather(gate[1]))
            evidence, other = self.select(sentence, patches, mixture=mixture, gate=gate) @ patches.float(), None
            if partner is not None:
                gate = None if gate is None else (gate[0][partner], gate[1])
                other = self.select(sentence, patches[partner], mixture=mixture, gate=gate) @ patches[partner].float()
            loss = loss + objectives.align_in_report(
                sentence, evidence, real, meaning=meaning, temperature=self.temperature, pad_columns=self.pad_columns, mean=self.mean, worth=worth,
                other=other, wrong=wrong,
            )  # fmt: skip
        return loss

    def exchange(self, batch: Batch, *, gather: Gather) -> tuple[Int[Tensor, " G"], Bool[Tensor, "G S"]]:
        """Of the volumes of all ranks: whose image each is given, and for which of its sentences that image is wrong.

        The next study in the order of the reports' keys, round the batch, so that neither order nor rank matter; a volume of the same report never,
        itself where there is no other study. Wrong for the sentences whose meaning that image's report does not state: of its own report none.
        """
        key, meaning, real = gather(report_key(batch.report_tokens, batch.report_real)), gather(batch.sentence_meaning), gather(batch.sentence_real)
        partner, _ = shown_reports(key, key, torch.ones_like(key, dtype=torch.bool))
        stated = (meaning.unsqueeze(2) == meaning[partner].unsqueeze(1)) & real[partner].unsqueeze(1)
        return partner, real & ~stated.any(2)

    def over_batch(self, batch: Batch, sentence: Tensor, levels: Levels, *, mixture: Tensor, gather: Gather) -> Float[Tensor, ""]:
        """The contrast over the images of all ranks."""
        own = (sentence, mixture, batch.sentence_meaning, self.stated(batch), self.worth(batch))
        sentence, mixture, meaning, real, worth = map(gather, own)
        loss = self.prior(mixture, real, worth=worth)
        if not real.any():
            return loss + sum(patches.sum() for patches, _ in levels) * 0.0 + sentence.sum() * 0.0  # every rank's graph stays whole
        image = torch.arange(len(real), device=real.device).unsqueeze(1).expand_as(real)[real]
        weight = (worth / worth.sum(1, keepdim=True).clamp(min=1e-6))[real]  # a report counts as much as any other
        for patches, which in levels:
            gate = self.gate(batch, which)
            gate = None if gate is None else (gather(gate[0]), gather(gate[1])[real])
            logits = self.over_images(sentence[real], gather(patches), mixture=mixture[real], gate=gate)
            loss = loss + objectives.align_over_images(logits, image, meaning[real], weight=weight)
        return loss

    def over_images(self, sentence: Float[Tensor, "L E"], patches: Float[Tensor, "B V E"], *, mixture: Tensor, gate) -> Float[Tensor, "L B"]:
        """Scaled cosine of every sentence with the mean of the patches that it selects in every image."""
        s = objectives.unit(sentence)
        similarity = torch.einsum("le,bve->lbv", s, objectives.unit(patches))
        allowed = None if gate is None else torch.einsum("lg,bvg->lbv", gate[1].float(), gate[0].float()) > 0
        chosen = self.selector.weights(similarity, mixture.unsqueeze(1).expand(-1, len(patches), -1), allowed=allowed)
        evidence = torch.einsum("lbv,bve->lbe", chosen, patches.float())
        return torch.einsum("le,lbe->lb", s, objectives.unit(evidence)) / self.temperature

    def prior(self, mixture: Float[Tensor, "B S M"], real: Bool[Tensor, "B S"], *, worth: Float[Tensor, "B S"] | None = None) -> Float[Tensor, ""]:
        """Of each report, averaged as the contrast is."""
        per_report = self.selector.prior(mixture, real)
        return self.prior_weight * objectives.sentence_mean(per_report.unsqueeze(1).expand(real.shape), real, mean=self.mean, worth=worth)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What `loss` is a mean over; nothing where it joins the ranks itself."""
        if self.over == "batch" or self.negatives == "exchanged":
            return {}
        worth = self.worth(batch)
        return {"align": worth.sum() if self.mean == "batch" else worth.any(1).sum()}

    # --- a trained one

    @torch.no_grad()
    def aligned(self, encoder: Encoder, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N E"]:
        """Every patch in the alignment space, nothing hidden; of two levels the first."""
        stem = encoder.stem_tokens(image)
        if self.positions == "left_out":
            return self.levels(*self.without_positions(encoder, stem, None, whole=True), visible=None)[0][0]
        if self.source.startswith("stem"):
            return self.image(stem)
        states = encoder.deepen(stem)
        return self.levels(stem, states, encoder.norm(states[-1]), visible=None)[0][0]

    @torch.no_grad()
    def match(self, text: TextEncoder, aligned: Float[Tensor, "N E"], sentences: list[str]) -> tuple[Float[Tensor, "S N"], Int[Tensor, " S"]]:
        """Cosine of each sentence with each patch of one image, and K: the sentence's budget, times all / visible patches if trained on those."""
        words = tokenizer(self.config.text_encoder)
        rows = words(sentences, padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt")
        tokens, real = rows["input_ids"].to(aligned.device), rows["attention_mask"].bool().to(aligned.device)
        special = (tokens == words.cls_token_id) | (tokens == words.sep_token_id)
        index = torch.where(real & ~special, 0, -1)
        feature = sentence_features(self.text(text(tokens, real)), index, 1)[:, 0]
        return objectives.unit(feature) @ objectives.unit(aligned).mT, self.taken(feature)

    @torch.no_grad()
    def said(self, text: TextEncoder, batch: Batch) -> tuple[Float[Tensor, "B S E"], Int[Tensor, "B S"]]:
        """Every sentence as training encodes it (`match` encodes each alone), and the patches that it takes with nothing hidden."""
        feature = self.sentences(text, batch)
        return feature, self.taken(feature)

    def taken(self, feature: Float[Tensor, "*L E"]) -> Int[Tensor, "*L"]:
        """K of each sentence with nothing hidden: its budget, times all / visible patches if trained on those."""
        budget = self.selector.budget(self.selector(feature))
        if self.on == "visible":
            budget = budget * self.config.patches / self.config.visible
        return budget.round().long().clamp(1, self.config.patches)
