"""The two models on the same weights and the same batch, and what a step of either is."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from asapkit import estimate, organs, released
from asapkit.config import Config
from asapkit.recipes import asap
from asapkit.types import Batch, Losses
from benchmarks.reference import Reference, pad, released_labels


class WithLabels(nn.Module):
    """The reference as a function of a batch alone: voxel labels and hidden words are put in."""

    def __init__(self, model: Reference, labels: Tensor, masked: Tensor):
        super().__init__()
        self.model = model
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("masked", masked, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        return self.model(batch, self.labels, self.masked)


class Models:
    """Reference and ours in both fidelities, made when first asked for. quick: scale `toy`; else `base` and a text encoder of the paper's size."""

    def __init__(self, *, quick: bool = False, volumes: int = 1, dropout: float = 0.1):
        self.quick, self.volumes, self.dropout = quick, volumes, dropout
        self.config = Config.at("toy" if quick else "base")

    @cached_property
    def reference(self) -> WithLabels:
        from transformers import BertConfig

        torch.manual_seed(0)
        text = BertConfig(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.25)
        if self.quick:
            from asapkit.language import load_text_model

            text = load_text_model("minilm").config
        model = Reference(self.config, text, dropout=self.dropout)
        return WithLabels(model, released_labels(self.labels), self.masked).train()

    @cached_property
    def correct(self) -> asap.Method:
        return self.ours("correct")

    @cached_property
    def official(self) -> asap.Method:
        return self.ours("official")

    def ours(self, fidelity: str) -> asap.Method:
        """Ours with the reference's weights, in training mode."""
        method = asap.Method(self.config, fidelity=fidelity, dropout=self.dropout, text_memory=True)
        if not self.quick:
            estimate.paper_text(method)
        method.load_state_dict(released.translate(self.reference.model.state_dict()), strict=False)
        return method.train()

    @cached_property
    def labels(self) -> Tensor:
        """Voxel labels 0 to 9 (B, X, Y, Z) in boxes of 4 voxels, uint8."""
        g = torch.Generator().manual_seed(1)
        coarse = torch.randint(0, 10, (self.volumes, *(n // 4 for n in self.config.crop)), generator=g)
        return coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3).to(torch.uint8)

    @cached_property
    def batch(self) -> Batch:
        """Reports of 310 tokens, 270 of them findings in 15 sentences; organ shares counted from the labels. The lowest `patch_order` come first."""
        words = dict(words=120, findings=90, sentences=7) if self.quick else {}
        batch = estimate.example(self.config, volumes=self.volumes, **words)
        shares = np.stack([organs.proportions(one.numpy(), self.config.patch) for one in self.labels])
        return replace(batch, organs=torch.from_numpy(shares))

    @cached_property
    def masked(self) -> Tensor:
        """The report's tokens with the words hidden that ours hides."""
        from asapkit.language import tokenizer
        from asapkit.masking import hidden_words

        b = self.batch
        hidden = hidden_words(b.report_order, b.report_real, b.report_special, share=self.config.hide_words)
        return b.report_tokens.masked_fill(hidden, tokenizer("minilm").mask_token_id)

    @cached_property
    def padded(self) -> Batch:
        """The batch with its reports padded to `max_tokens`, which the released loss over all positions counts."""
        b, length = self.batch, self.config.max_tokens
        wide = {name: pad(getattr(b, name), length) for name in ("report_tokens", "report_real", "report_special")}
        return replace(b, **wide, report_order=pad(b.report_order, length, fill=2))


def step(method: nn.Module, batch: Batch, *, precision: str = "fp32") -> None:
    """Forward and backward of the plain sum of the losses; gradients are dropped."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        loss = sum(method(batch).values())
    loss.backward()
    method.zero_grad(set_to_none=True)


def largest_difference(models: Models) -> float:
    """Of the losses of ours in official mode from the reference's, relative; dropout off."""
    reference, ours = models.reference.eval(), models.official.eval()
    with torch.no_grad():
        wanted, found = reference(models.batch), ours(models.padded)
    reference.train(), ours.train()
    return max(abs(float(found[name]) - float(value)) / max(abs(float(value)), 1e-6) for name, value in wanted.items())
