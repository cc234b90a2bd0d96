"""CXR-BERT, the frozen text encoder of several of these methods, from its own file of weights.

Source: BioViL-T and BioViL (2204.09817); `microsoft/BiomedVLP-CXR-BERT-specialized`. A BERT of transformers; its heads are dropped.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit.peers.building import Built, State
from asapkit.peers.convolutional import stages_of


class Bert(nn.Module):
    """Token ids to features, as `language.TextEncoder` gives them; frozen."""

    contract = None

    def __init__(self, *, vocabulary: int, width: int, depth: int, heads: int, inner: int, positions: int, types: int):
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=inner,
            max_position_embeddings=positions, type_vocab_size=types,
        )  # fmt: skip
        self.width = width
        self.bert = BertModel(config, add_pooling_layer=False).requires_grad_(False)

    @torch.no_grad()
    def forward(self, tokens: Int[Tensor, "B T"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Last hidden state. real: not padding."""
        return self.bert(input_ids=tokens, attention_mask=real.long()).last_hidden_state


def build(state: State) -> Built:
    """Heads of 64."""
    words, places, kinds = (state[f"bert.embeddings.{n}_embeddings.weight"] for n in ("word", "position", "token_type"))
    below = {n.removeprefix("bert.encoder."): v for n, v in state.items() if n.startswith("bert.encoder.")}
    width = words.shape[1]
    settings = {
        "vocabulary": len(words), "width": width, "depth": stages_of(below, ("layer",))[0], "heads": max(1, width // 64),
        "inner": len(state["bert.encoder.layer.0.intermediate.dense.weight"]), "positions": len(places), "types": len(kinds),
    }  # fmt: skip
    return Built("bert", settings, state)
