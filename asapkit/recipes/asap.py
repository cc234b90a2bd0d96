"""ASAP: masked volumes and reports joined by anatomy-aware knowledge injection, selective alignment and semantically-adaptive fusion.

Source: arXiv 2606.00602, section 3; released code github ToniChopp/ASAP (Apache-2.0), described in own words. `Differs:` every deviation is a
keyword; `fidelity="official"` sets the defaults of the ten switches in `OFFICIAL` to what was released, `"correct"` to what the equations say.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import Fusion, Projection, TextEncoder, WordDecoder, one_sentence_per_row, sentence_features, tokenizer
from asapkit.masking import hidden_indices, hidden_words, visible_patches
from asapkit.selection import Selector
from asapkit.types import ORGANS, Batch, Losses
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
ORGAN_GROUPS = ((0, 1), (2, 3, 4), (5, 6), (7,), (8,))
"""Table IX, grouped organs: left lung, right lung, heart, esophagus, aorta (indices into `ORGANS`)."""


class Method(nn.Module):
    """ASAP and its ablations.

    aki, ssa, slf, gf: the four parts of Table VIII.   align_over: report (the paper) | batch (contrast over images).
    align_from: last | early | stem | stem_and_last, the patch features that are aligned; of the last, sentence maps are the stem's.
    align_on: visible (the paper) | all, the patches of the stem that a sentence may select (what restores an image never sees its hidden patches).
    organ_gate: only patches of the organs that the sentence names.
    align_only: all | positive, which sentences are aligned.   encode: report | sentence.
    selector, fixed_k, top_k "all patches": Table X.   organ_layer, organ_targets (soft | one_hot), organ_groups (nine | grouped): Table IX.
    restore: volumes per batch (of each rank) whose patches, organs and words are restored (0: all); alignment always sees every volume of the batch.
    text_memory: keep the text features of sentences seen before.   switches: any of the keys of `CORRECT`.
    """

    frozen = ("text.",)  # parameter prefixes that are neither trained nor saved
    without = "aki=false"  # of what it needs

    def __init__(
        self, config: Config, *, vocabulary: Int[Tensor, " W"] | None = None, fidelity: str = "correct", aki: bool = True, ssa: bool = True,
        slf: bool = True, gf: bool = True, align_over: str = "report", align_from: str = "last", align_on: str = "visible", align_only: str = "all",
        organ_gate: bool = False, encode: str = "report", fixed_k: int | None = None, temperature: float = 0.07, prior: float = 0.05,
        organ_layer: int = 1, organ_targets: str = "soft", organ_groups: str = "nine", dropout: float = 0.1,
        text_memory: bool = False, restore: int = 0, **switches,
    ):  # fmt: skip
        super().__init__()
        self.switches = choose(fidelity, switches)
        for name, value, known in (
            ("align_over", align_over, ("report", "batch")), ("align_from", align_from, ("last", "early", "stem", "stem_and_last")),
            ("align_on", align_on, ("visible", "all")),
            ("align_only", align_only, ("all", "positive")), ("encode", encode, ("report", "sentence")),
            ("organ_targets", organ_targets, ("soft", "one_hot")), ("organ_groups", organ_groups, ("nine", "grouped")),
        ):  # fmt: skip
            if value not in known:
                raise ValueError(f"{name} {value!r}: there are {', '.join(known)}")
        if align_on == "all" and not align_from.startswith("stem"):
            raise ValueError(f"align_on 'all' needs align_from 'stem' or 'stem_and_last': hidden patches have no feature from {align_from!r}")
        if restore < 0 or temperature <= 0:
            raise ValueError(f"restore {restore}, temperature {temperature}: give a number of volumes (0: all) and a temperature above 0")
        if not -config.decoder_depth <= organ_layer < config.decoder_depth:
            raise ValueError(f"organ_layer {organ_layer}: the decoder has {config.decoder_depth} blocks, counted from 0")
        self.config, self.aki, self.ssa, self.slf, self.align_on = config, aki, ssa, slf, align_on
        self.align_over, self.align_from, self.align_only, self.organ_gate, self.encode = align_over, align_from, align_only, organ_gate, encode
        self.temperature, self.prior_weight, self.organ_layer = temperature, prior, organ_layer
        self.organ_targets, self.organ_groups, self.restore = organ_targets, organ_groups, restore or None
        self.gather: Callable[[Tensor], Tensor] = lambda x: x  # train.py joins ranks here
        self.needs = ("organs",) if aki else ()
        self.partial = not ssa  # parameters of the alignment get no gradient then

        self.encoder, self.decoder = Encoder(config), Decoder(config)
        organs = len(ORGAN_GROUPS) if organ_groups == "grouped" else len(ORGANS)
        self.organ_head = (
            nn.Sequential(nn.Linear(config.decoder_width, organs), nn.LayerNorm(organs, eps=1e-6), nn.ReLU(), nn.Linear(organs, organs))
            if aki
            else None
        )
        words = tokenizer(config.text_encoder)
        self.text = TextEncoder(config.text_encoder, dropout=self.switches["text_dropout"], remember=text_memory)
        self.marks = {"cls": words.cls_token_id, "sep": words.sep_token_id}
        self.mask_id = words.mask_token_id
        self.align_image = Projection(config.width, config.align_width)
        self.align_last = Projection(config.width, config.align_width) if align_from == "stem_and_last" else None
        self.align_text = Projection(self.text.width, config.align_width)
        kind = self.switches["selector"]
        self.selector = Selector(config.align_width, config.top_k, kind=kind, fixed_k=fixed_k)
        self.word_text = Projection(self.text.width, config.word_width)
        self.word_image = nn.Linear(config.width, config.word_width)
        self.similarity_gain = nn.Parameter(torch.tensor(0.2)) if slf and self.switches["f_sim"] == "keys" else None
        self.fusion = Fusion(config.word_width, config.word_heads, form=self.switches["fusion"], global_feature=gf, dropout=dropout)
        vocabulary = torch.arange(len(words)) if vocabulary is None else vocabulary
        self.words = WordDecoder(
            config.word_width, depth=config.word_depth, heads=config.word_heads, vocabulary=vocabulary, size=len(words), dropout=dropout
        )

    def forward(self, batch: Batch) -> Losses:
        config, whole = self.config, self.align_on == "all"
        visible = self.visible(batch)
        stem = self.encoder.stem_tokens(batch.image, None if whole else visible)
        deep = self.restore if self.align_from == "stem" else None  # what nobody aligns or restores needs no depth
        states = self.encoder.deepen(take(stem[:deep], visible[:deep]) if whole else stem[:deep])
        latent = self.encoder.norm(states[-1])
        some, seen = batch[: self.restore], visible[: self.restore]
        hidden = hidden_indices(seen, config.patches)
        every = self.aki and self.organ_layer in (-1, config.decoder_depth - 1)  # organs are read from the last block
        predicted, decoded = self.decoder(latent[: self.restore], seen, only=None if every else hidden)
        predicted, target = take(predicted, hidden) if every else predicted, patches_at(some.image, config.patch, hidden)
        losses = {"reconstruct": objectives.restored(predicted, target, patches=config.patches, on=self.switches["reconstruct_on"])}
        losses["organs"] = self.organ_loss(decoded[self.organ_layer], some) if self.aki else predicted.new_zeros(())

        sentence = self.sentences(batch.findings_tokens, batch.findings_real, batch.findings_sentence, batch.sentence_real.shape[1])
        mixture = self.selector(sentence)
        levels = self.levels(stem, states, latent, visible)
        losses["align"] = self.align_loss(batch, sentence, levels, mixture=mixture) if self.ssa else predicted.new_zeros(())
        guide, which = levels[-1]
        guide = take(guide[: self.restore], seen) if which is None else guide[: self.restore]
        weights = self.select(sentence[: self.restore], guide, mixture=mixture[: self.restore], gate=self.gate(some, seen))
        losses["words"] = self.word_loss(some, latent[: self.restore], guide, weights=weights)
        return losses

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """What each loss is a mean over, so that ranks and micro-batches add up exactly; a loss that is absent is already global."""
        some = batch[: self.restore]
        counts = {
            "reconstruct": torch.tensor(float(len(some))),
            "organs": some.has_organs.sum(),
            "words": (self.counted_words(some) & (self.words.lookup[some.report_tokens] >= 0)).sum(),
        }
        if self.align_over == "report":
            real = self.stated(batch)
            counts["align"] = real.sum() if self.switches["align_mean"] == "batch" else real.any(1).sum()
        return counts

    def stated(self, batch: Batch) -> Bool[Tensor, "B S"]:
        """Sentences that are aligned."""
        return batch.sentence_real & batch.sentence_positive if self.align_only == "positive" else batch.sentence_real

    def visible(self, batch: Batch) -> Int[Tensor, "B V"]:
        last = ~batch.in_body if self.config.hide_air_first else None
        return visible_patches(batch.patch_order, visible=self.config.visible, last=last)

    def levels(
        self, stem: Tensor, states: list[Tensor], latent: Tensor, visible: Int[Tensor, "B V"] | None
    ) -> list[tuple[Float[Tensor, "B _ E"], Int[Tensor, "B V"] | None]]:
        """The patch features that are aligned, in the alignment space, and which patches they are (None: every patch)."""
        if self.align_from == "last":
            return [(self.align_image(latent[:, 1:]), visible)]
        if self.align_from == "early":
            return [(self.align_image(states[max(1, self.config.depth // 4)][:, 1:]), visible)]
        first = (self.align_image(stem), None if self.align_on == "all" else visible)
        return [first] if self.align_last is None else [first, (self.align_last(latent[:, 1:]), visible)]

    def sentences(self, tokens: Int[Tensor, "B T"], real: Bool[Tensor, "B T"], index: Int[Tensor, "B T"], count: int) -> Float[Tensor, "B S E"]:
        """Sentence features: mean of the projected token features; the report is encoded whole, or each sentence alone."""
        if self.encode == "report":
            return sentence_features(self.align_text(self.text(tokens, real)), index, count)
        rows, row_real, row_index = one_sentence_per_row(tokens, index, count, **self.marks)
        features = sentence_features(self.align_text(self.text(rows, row_real)), row_index, 1)
        return features.reshape(len(tokens), count, -1)

    def gate(self, batch: Batch, visible: Int[Tensor, "B V"] | None) -> tuple[Bool[Tensor, "B V G"], Bool[Tensor, "B S G"]] | None:
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
            none_named = batch.sentence_organs.all(-1, keepdim=True)
            patches, named = torch.cat([touched, inside], dim=-1), torch.cat([batch.sentence_organs & ~none_named, none_named], dim=-1)
        return (patches if visible is None else take(patches, visible)), named

    def select(self, sentence: Float[Tensor, "B S E"], patches: Float[Tensor, "B V E"], *, mixture: Tensor, gate) -> Float[Tensor, "B S V"]:
        """Weights of the visible patches that each sentence selects in its own image."""
        if not self.ssa:
            return sentence.new_full((*sentence.shape[:2], patches.shape[1]), 1.0 / patches.shape[1])
        similarity = objectives.unit(sentence) @ objectives.unit(patches).mT
        allowed = None if gate is None else gate[1].float() @ gate[0].float().mT > 0
        return self.selector.weights(similarity, mixture, allowed=allowed)

    def align_loss(self, batch: Batch, sentence: Tensor, levels: list, *, mixture: Tensor) -> Tensor:
        """Contrast of the stated sentences with what they select, summed over the levels of features, and the prior of their K."""
        real, meaning = self.stated(batch), batch.sentence_meaning
        if self.align_over == "report":
            loss = self.prior_loss(mixture, real)
            for patches, which in levels:
                weights = self.select(sentence, patches, mixture=mixture, gate=self.gate(batch, which))
                loss = loss + objectives.align_in_report(
                    sentence, weights @ patches.float(), real, meaning=meaning, temperature=self.temperature,
                    pad_columns=self.switches["pad_columns"], mean=self.switches["align_mean"],
                )  # fmt: skip
            return loss
        sentence, mixture, meaning, real = map(self.gather, (sentence, mixture, meaning, real))
        loss = self.prior_loss(mixture, real)
        if not real.any():
            return loss + sum(patches.sum() for patches, _ in levels) * 0.0 + sentence.sum() * 0.0  # every rank's graph stays whole
        own = torch.arange(len(real), device=real.device).unsqueeze(1).expand_as(real)[real]
        weight = (1.0 / real.sum(1, keepdim=True).clamp(min=1)).expand(real.shape)[real]
        for patches, which in levels:
            gate = self.gate(batch, which)
            gate = None if gate is None else (self.gather(gate[0]), self.gather(gate[1])[real])
            logits = self.over_images(sentence[real], self.gather(patches), mixture=mixture[real], gate=gate)
            loss = loss + objectives.align_over_images(logits, own, meaning[real], weight=weight)
        return loss

    def over_images(self, sentence: Float[Tensor, "L E"], patches: Float[Tensor, "B V E"], *, mixture: Tensor, gate) -> Float[Tensor, "L B"]:
        """Scaled cosine of every sentence with the mean of the patches that it selects in every image."""
        s = objectives.unit(sentence)
        similarity = torch.einsum("le,bve->lbv", s, objectives.unit(patches))
        allowed = None if gate is None else torch.einsum("lg,bvg->lbv", gate[1].float(), gate[0].float()) > 0
        chosen = self.selector.weights(similarity, mixture.unsqueeze(1).expand(-1, len(patches), -1), allowed=allowed)
        evidence = torch.einsum("lbv,bve->lbe", chosen, patches.float())
        return torch.einsum("le,lbe->lb", s, objectives.unit(evidence)) / self.temperature

    def prior_loss(self, mixture: Float[Tensor, "B S M"], real: Bool[Tensor, "B S"]) -> Tensor:
        per_report = self.selector.prior(mixture, real)
        return self.prior_weight * objectives.sentence_mean(per_report.unsqueeze(1).expand(real.shape), real, mean=self.switches["align_mean"])

    def organ_loss(self, decoded: Float[Tensor, "B N D"], batch: Batch) -> Tensor:
        share = batch.organs
        if self.organ_groups == "grouped":
            share = torch.stack([share[..., list(group)].sum(-1) for group in ORGAN_GROUPS], dim=-1)
        elif self.switches["organ_background"]:
            # released label range 0..8: background first; the left atrial appendage is counted as heart so that eight organs remain
            organs = torch.cat([share[..., :5], share[..., 5:7].sum(-1, keepdim=True), share[..., 7:]], dim=-1)
            share = torch.cat([1 - organs.sum(-1, keepdim=True), organs], dim=-1)
        share = share.clamp(0, 1)
        if self.organ_targets == "one_hot":
            share = (share == share.amax(-1, keepdim=True)) * (share > 0).to(share.dtype)
        return objectives.organ_proportions(self.organ_head(decoded), share, batch.has_organs, reduction=self.switches["organ_reduction"])

    def counted_words(self, batch: Batch) -> Bool[Tensor, "B R"]:
        if self.switches["words_on"] == "all":
            return torch.ones_like(batch.report_real)
        return hidden_words(batch.report_order, batch.report_real, batch.report_special, share=self.config.hide_words)

    def masked_report(self, batch: Batch) -> Int[Tensor, "B R"]:
        """The report's tokens with [MASK] where a word is hidden."""
        hidden = hidden_words(batch.report_order, batch.report_real, batch.report_special, share=self.config.hide_words)
        return batch.report_tokens.masked_fill(hidden, self.mask_id)

    def word_loss(self, batch: Batch, latent: Tensor, patches: Tensor, *, weights: Tensor) -> Tensor:
        text = self.word_text(self.text(self.masked_report(batch), batch.report_real, once=True))
        keys = self.word_image(latent[:, 1:])
        global_image = keys.mean(1)
        if self.slf:
            keys = torch.cat([self.similarity_token(batch, keys, patches, weights=weights).to(keys.dtype), keys], dim=1)
        counted = self.counted_words(batch)
        logits = self.words(self.fusion(text, batch.report_real, keys, global_image=global_image), batch.report_real, counted)
        return objectives.words(logits, self.words.lookup[batch.report_tokens[counted]])

    def similarity_token(self, batch: Batch, keys: Tensor, patches: Tensor, *, weights: Tensor) -> Float[Tensor, "B 1 D"]:
        """f_sim: the patches that the sentences selected, pooled in the space of the keys (eq. 9, 11, 12)."""
        if self.switches["f_sim"] == "all_slots":
            return 0.2 * (weights.to(patches.dtype) @ patches).mean(1, keepdim=True)
        real = batch.sentence_real.to(keys.dtype)
        pooled = torch.einsum("bs,bsv,bve->be", real, weights.to(keys.dtype), keys) / real.sum(1, keepdim=True).clamp(min=1)
        return self.similarity_gain * pooled.unsqueeze(1)

    @torch.no_grad()
    def aligned(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N E"]:
        """Every patch in the alignment space, nothing hidden; of two levels the first."""
        stem = self.encoder.stem_tokens(image)
        if self.align_from.startswith("stem"):
            return self.align_image(stem)
        states = self.encoder.deepen(stem)
        return self.levels(stem, states, self.encoder.norm(states[-1]), None)[0][0]

    @torch.no_grad()
    def match(self, aligned: Float[Tensor, "N E"], sentences: list[str]) -> tuple[Float[Tensor, "S N"], Int[Tensor, " S"]]:
        """Cosine of each sentence with each patch of one image, and K: the sentence's budget, times all / visible patches if trained on those."""
        rows = tokenizer(self.config.text_encoder)(sentences, padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt")
        tokens, real = rows["input_ids"].to(aligned.device), rows["attention_mask"].bool().to(aligned.device)
        special = (tokens == self.marks["cls"]) | (tokens == self.marks["sep"])
        index = torch.where(real & ~special, 0, -1)
        feature = sentence_features(self.align_text(self.text(tokens, real)), index, 1)[:, 0]
        budget = self.selector.budget(self.selector(feature))
        if self.align_on == "visible":
            budget = budget * self.config.patches / self.config.visible
        similarity = objectives.unit(feature) @ objectives.unit(aligned).mT
        return similarity, budget.round().long().clamp(1, self.config.patches)


def choose(fidelity: str, switches: dict) -> dict:
    """The ten switches: the defaults of the fidelity, with single ones changed.

    Raises: ValueError for an unknown fidelity or switch (listing the known ones).
    """
    if fidelity not in ("correct", "official"):
        raise ValueError(f"unknown fidelity {fidelity!r}; there are correct, official")
    if unknown := sorted(set(switches) - set(CORRECT)):
        raise ValueError(f"unknown option {', '.join(unknown)} of recipe asap; switches are {', '.join(CORRECT)}")
    return (CORRECT if fidelity == "correct" else OFFICIAL) | switches
