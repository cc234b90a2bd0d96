"""MRM: restore the volume at twice the resolution it was seen at, and a report's hidden words from their neighbours and the volume's mean token.

Source: Zhou et al., Advancing Radiograph Representation Learning with Masked Record Modeling (2301.13155); github RL4M/MRM-pytorch as described in
methods.md E5. Differs: matched form in 3-D. The crop is averaged over 2 x 2 x 2 voxels inside the encoder, whose patches then hold an eighth of the
voxels, and the decoder answers with whole ones: x2 at every axis, on the grid of every other recipe, so that evaluation passes the contract's crop
and reads the same patches (`patch=(32, 32, 16)` at `base` gives 16 x 16 x 8 averaged voxels a patch and 7 x 7 x 7 tokens). Word embeddings are those
of the report decoder, of the width of the other recipes' (theirs: 384, reports of 100 tokens); there is no other text encoder.
Cost (2026-11-23, forward and backward of 16 phantom volumes at `small`, one thread): .39 times ASAP's CPU seconds, .22 times its operations.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .608 (.540 to .669), untrained .556.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.blanks import Blanks
from asapkit.config import Config
from asapkit.language import WordDecoder
from asapkit.masking import hidden_indices, visible_of
from asapkit.types import Batch, Losses
from asapkit.vit3d import Decoder, Encoder, patches_at

WEIGHTS = {"reconstruct": 1.0, "words": 1.0}


class Method(nn.Module):
    """word_share: of a report's words that are hidden.   norm_pixels: standardise the target of each patch."""

    def __init__(
        self, config: Config, *, vocabulary: Int[Tensor, " W"] | None = None, word_share: float = 0.5, norm_pixels: bool = True,
        dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        config = replace(config, pool=2)
        self.config, self.norm_pixels, width = config, norm_pixels, config.word_width
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.blanks = Blanks(config.text_encoder, word_share=word_share)
        vocabulary = torch.arange(self.blanks.size) if vocabulary is None else vocabulary
        self.embed = nn.Embedding(len(vocabulary) + 2, width)  # a blank, a word that is not of the vocabulary, and the vocabulary
        self.places = nn.Embedding(config.max_tokens, width)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(dropout)
        self.image = nn.Linear(config.width, width)
        self.words = WordDecoder(
            width, depth=config.word_depth, heads=config.word_heads, vocabulary=vocabulary, size=self.blanks.size, dropout=dropout
        )

    def forward(self, batch: Batch) -> Losses:
        visible = visible_of(batch, self.config)
        hidden = hidden_indices(visible, self.config.patches)
        latent = self.encoder(batch.image, visible)
        predicted, _ = self.decoder(latent, visible, only=hidden)
        target = patches_at(batch.image, self.config.patch, hidden)
        return {
            "reconstruct": objectives.restored(predicted, target, patches=self.config.patches, norm_pixels=self.norm_pixels),
            "words": self.blanks.loss(self.words, self.told(batch) + self.image(latent[:, 1:].mean(1)).unsqueeze(1), batch),
        }

    def told(self, batch: Batch) -> Float[Tensor, "B R D"]:
        """Embeddings of the report's tokens and their places, blanks where words are hidden."""
        number = (self.words.lookup[batch.report_tokens] + 2).masked_fill(self.blanks.hidden(batch), 0)
        places = self.places(torch.arange(number.shape[1], device=number.device))
        return self.dropout(self.norm(self.embed(number) + places))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruct": torch.tensor(float(len(batch)))} | self.blanks.counts(self.words, batch)
