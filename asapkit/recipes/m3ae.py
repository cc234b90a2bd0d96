"""M3AE: volume and report look at one another in co-attention layers; either restores what is hidden of it, and a head says whether they match.

Source: Chen et al., Multi-Modal Masked Autoencoders for Medical Vision-and-Language Pre-training (2209.07098); github zhjohnchan/M3AE as described in
methods.md E4. Differs: matched form, on the house's 3-D ViT with the exact share of patches hidden; the text encoder is frozen; hidden words are
always [MASK]; the co-attention has the depth and width of the other recipes' report decoder (theirs: 6 layers of 768); a mismatch is made by showing
a volume with another report, which gives the same pairs as exchanging images, and two volumes of one report are never one.
Cost (2026-11-23, forward and backward of 16 phantom volumes at `small`, one thread): 2.9 times ASAP's CPU seconds, 2.5 times its operations: two of
the three passes see every patch, and three texts are encoded (`text_memory` spares two of them).
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .547 (.496 to .600), untrained .556.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.blanks import Blanks
from asapkit.config import Config
from asapkit.language import CoAttention, TextEncoder, WordDecoder
from asapkit.masking import hidden_indices, visible_of
from asapkit.pairing import alone, report_key, shown_reports
from asapkit.types import Batch, Losses
from asapkit.vit3d import Decoder, Encoder, patches_at

WEIGHTS = {"reconstruct": 1.0, "words": 1.0, "match": 1.0}


class Method(nn.Module):
    """Three passes: hidden patches with the whole report, hidden words with the whole volume, and both whole for the match.

    word_share: of a report's words that are hidden.   whole_words: with all their pieces.   exchange: share of volumes shown with another report.
    norm_pixels: standardise the target of each patch.   text_memory: keep the text features of reports seen before.
    """

    frozen = ("text.",)

    def __init__(
        self, config: Config, *, vocabulary: Int[Tensor, " W"] | None = None, word_share: float = 0.15, whole_words: bool = True,
        exchange: float = 0.5, norm_pixels: bool = True, dropout: float = 0.1, text_memory: bool = False,
    ):  # fmt: skip
        if not 0 < exchange < 1:
            raise ValueError(f"exchange {exchange}: give a share above 0 and below 1")
        super().__init__()
        self.config, self.gather, self.exchange, self.norm_pixels = config, alone, exchange, norm_pixels
        width, heads, depth = config.word_width, config.word_heads, config.word_depth
        self.encoder, self.decoder = Encoder(config), Decoder(config, width=width)
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.enter = nn.ModuleDict({"text": nn.Linear(self.text.width, width), "image": nn.Linear(config.width, width)})
        self.kind = nn.ParameterDict({name: nn.Parameter(torch.randn(1, width) * 0.02) for name in ("text", "image")})
        self.fusion, self.middle = CoAttention(width, heads, depth=depth, dropout=dropout), (depth + 1) // 2  # the image decoder reads the middle
        self.blanks = Blanks(config.text_encoder, word_share=word_share, whole_words=whole_words)
        vocabulary = torch.arange(self.blanks.size) if vocabulary is None else vocabulary
        self.words = WordDecoder(width, depth=0, heads=heads, vocabulary=vocabulary, size=self.blanks.size)
        self.pooled = nn.ModuleDict({name: nn.Sequential(nn.Linear(width, width), nn.Tanh()) for name in ("text", "image")})
        self.verdict = nn.Linear(2 * width, 1)

    def forward(self, batch: Batch) -> Losses:
        visible = visible_of(batch, self.config)
        hidden = hidden_indices(visible, self.config.patches)
        predicted = self.restored(batch, visible, only=hidden)
        target = patches_at(batch.image, self.config.patch, hidden)
        image = self.entered("image", self.encoder(batch.image))
        masked = self.entered("text", self.text(self.blanks.shown(batch), batch.report_real, once=True))
        restored, _ = self.fusion(masked, batch.report_real, image)
        tokens, real, own = self.shown(batch)
        return {
            "reconstruct": objectives.restored(predicted, target, patches=self.config.patches, norm_pixels=self.norm_pixels),
            "words": self.blanks.loss(self.words, restored, batch),
            "match": objectives.matching(self.judged(self.entered("text", self.text(tokens, real)), real, image), own),
        }

    def entered(self, name: str, x: Float[Tensor, "B M C"]) -> Float[Tensor, "B M D"]:
        """Tokens of the text or the image as the co-attention takes them: projected, with what kind they are."""
        return self.enter[name](x) + self.kind[name]

    def latent(self, batch: Batch, visible: Int[Tensor, "B V"]) -> Float[Tensor, "B M D"]:
        """What the image decoder reads: class token and visible patches after they have looked at the whole report."""
        text = self.entered("text", self.text(batch.report_tokens, batch.report_real))
        return self.fusion(text, batch.report_real, self.entered("image", self.encoder(batch.image, visible)), depth=self.middle)[1]

    def restored(self, batch: Batch, visible: Int[Tensor, "B V"], *, only: Int[Tensor, "B H"] | None = None) -> Float[Tensor, "B _ P"]:
        """Every patch as it is made of the visible ones and the report, or `only` these."""
        return self.decoder(self.latent(batch, visible), visible, only=only)[0]

    def shown(self, batch: Batch) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"], Bool[Tensor, " B"]]:
        """The report that each volume is shown with, of those of all ranks, and whether it is its own.

        Who is exchanged stands in the random number of [CLS], which no hidden word needs.
        """
        key = report_key(batch.report_tokens, batch.report_real)
        which, own = shown_reports(key, self.gather(key), batch.report_order[:, 0] < self.exchange)
        return self.gather(batch.report_tokens)[which].clamp(min=0), self.gather(batch.report_real)[which], own

    def judged(self, text: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"], image: Float[Tensor, "B M D"]) -> Float[Tensor, " B"]:
        """Logit of text and image belonging together, from their first tokens."""
        text, image = self.fusion(text, real, image)
        return self.verdict(torch.cat([self.pooled["text"](text[:, 0]), self.pooled["image"](image[:, 0])], dim=-1)).squeeze(-1)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        volumes = torch.tensor(float(len(batch)))
        return {"reconstruct": volumes, "match": volumes} | self.blanks.counts(self.words, batch)
