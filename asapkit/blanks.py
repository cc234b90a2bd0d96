"""Reports with words left blank: which ones, how the text looks then, and what fills them in from the patches.

Source: ASAP section 3.4 for the report decoder; BERT's masked words for the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import Fusion, Projection, TextEncoder, WordDecoder, tokenizer
from asapkit.masking import hidden_words
from asapkit.types import Batch


class Blanks(nn.Module):
    """Which words of a report are hidden: no parameters.

    word_share: of the words, (0, 1).   whole_words: a word with all its pieces (##) or not at all.
    words_on: hidden | all, the positions that the loss counts (all: padding as well, as ASAP was released).
    """

    def __init__(self, text_encoder: str, *, word_share: float, whole_words: bool = False, words_on: str = "hidden"):
        super().__init__()
        if words_on not in ("hidden", "all"):
            raise ValueError(f"words_on {words_on!r}: there are hidden, all")
        if not 0 < word_share < 1:
            raise ValueError(f"word_share {word_share}: give a number above 0 and below 1")
        self.share, self.on, words = word_share, words_on, tokenizer(text_encoder)
        self.sign, self.size = words.mask_token_id, len(words)
        pieces = words.convert_ids_to_tokens(list(range(self.size))) if whole_words else []
        self.register_buffer("continues", torch.tensor([p.startswith("##") for p in pieces]) if whole_words else None, persistent=False)

    def hidden(self, batch: Batch) -> Bool[Tensor, "B R"]:
        goes_on = None if self.continues is None else self.continues[batch.report_tokens]
        return hidden_words(batch.report_order, batch.report_real, batch.report_special, share=self.share, continues=goes_on)

    def shown(self, batch: Batch) -> Int[Tensor, "B R"]:
        """The report's tokens with [MASK] where a word is hidden."""
        return batch.report_tokens.masked_fill(self.hidden(batch), self.sign)

    def counted(self, batch: Batch) -> Bool[Tensor, "B R"]:
        """Positions whose words the loss asks for."""
        return torch.ones_like(batch.report_real) if self.on == "all" else self.hidden(batch)

    def loss(self, words: WordDecoder, x: Float[Tensor, "B R D"], batch: Batch) -> Float[Tensor, ""]:
        counted = self.counted(batch)
        return objectives.words(words(x, batch.report_real, counted), words.lookup[batch.report_tokens[counted]])

    def counts(self, words: WordDecoder, batch: Batch) -> dict[str, Tensor]:
        """What `loss` is a mean over."""
        return {"words": (self.counted(batch) & (words.lookup[batch.report_tokens] >= 0)).sum()}


class ReportDecoder(nn.Module):
    """Fills in a report's blanks: its words look at the patches and at their mean, then at one another. ASAP's and SimCroP's.

    words_on: see `Blanks`.   form, global_feature: see `Fusion`.   vocabulary: ids that occur in the corpus, every id of the tokenizer unless given.
    """

    def __init__(
        self, config: Config, *, text_width: int, vocabulary: Int[Tensor, " W"] | None = None, words_on: str = "hidden", form: str = "official",
        global_feature: bool = True, dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        width, heads = config.word_width, config.word_heads
        self.blanks = Blanks(config.text_encoder, word_share=config.hide_words, words_on=words_on)
        self.text = Projection(text_width, width)
        self.image = nn.Linear(config.width, width)
        self.fusion = Fusion(width, heads, form=form, global_feature=global_feature, dropout=dropout)
        vocabulary = torch.arange(self.blanks.size) if vocabulary is None else vocabulary
        self.words = WordDecoder(width, depth=config.word_depth, heads=heads, vocabulary=vocabulary, size=self.blanks.size, dropout=dropout)

    def keys(self, latent: Float[Tensor, "B M C"]) -> tuple[Float[Tensor, "B V D"], Float[Tensor, "B D"]]:
        """Patches in the space of the words, and their mean; the class token is left out."""
        keys = self.image(latent[:, 1:])
        return keys, keys.mean(1)

    def forward(
        self,
        text: TextEncoder,
        batch: Batch,
        keys: Float[Tensor, "B V D"],
        *,
        mean: Float[Tensor, "B D"],
        first: Float[Tensor, "B 1 D"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of the words.  mean: of the keys.   first: one more key, before the patches'."""
        asked = self.text(text(self.blanks.shown(batch), batch.report_real, once=True))
        image = keys if first is None else torch.cat([first.to(keys.dtype), keys], dim=1)
        return self.blanks.loss(self.words, self.fusion(asked, batch.report_real, image, global_image=mean), batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return self.blanks.counts(self.words, batch)
