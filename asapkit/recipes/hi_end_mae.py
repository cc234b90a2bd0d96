"""Hi-End-MAE: a decoder that asks several depths of the encoder, deep ones first, restores the hidden patches. Matched form, on the 3-D ViT.

Source: github FengheTan9/Hi-End-MAE as described in methods.md E3; the masked loss is MAE's (2111.06377). Differs: this house's encoder, contract,
widths and share of hidden patches (theirs: patches of 12 voxels, a decoder of 528 features); the depths are the same shares of a shallower encoder
(3/4, 1/2, 1/4 of it: 9, 6, 3 of 12); the decoder's class token asks too; no flips and no turns, which would put the heart on the other side.
Cost (2026-11-23, LOG.md): a step at `small` takes 2.4 times as long as of `mae`.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .590 (.542 to .646), untrained .556.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import hidden_indices, visible_of
from asapkit.types import Batch, Losses
from asapkit.vit3d import Block, Decoder, Encoder, initialise, patches_at, take

WEIGHTS = {"reconstruct": 1.0}


class Method(nn.Module):
    """norm_pixels: the target of each patch is standardised.   blocks: of the decoder that ask nothing, before those that do.

    ask: the encoder's depths (1: after its first block) that are asked, in this order, a decoder block each; default 3/4, 1/2, 1/4 of the encoder.
    """

    def __init__(self, config: Config, *, norm_pixels: bool = True, blocks: int = 2, ask: Sequence[int] | None = None):
        super().__init__()
        self.ask = asked(config.depth) if ask is None else tuple(ask)
        if blocks < 1 or not self.ask or not all(1 <= depth <= config.depth for depth in self.ask):
            raise ValueError(f"blocks {blocks}, ask {self.ask}: give at least one block, and depths from 1 to {config.depth}")
        self.config, self.norm_pixels = config, norm_pixels
        self.encoder, self.decoder = Encoder(config), Decoder(replace(config, decoder_depth=blocks))
        self.asking = nn.ModuleList(Asking(config.decoder_width, config.decoder_heads, memory=config.width) for _ in self.ask)
        self.asking.apply(initialise)
        for block in self.asking:
            block.soften(config.decoder_init)

    def forward(self, batch: Batch) -> Losses:
        visible = visible_of(batch, self.config)
        hidden = hidden_indices(visible, self.config.patches)
        predicted = self.restored(batch, visible, only=hidden)
        target = patches_at(batch.image, self.config.patch, hidden)
        return {"reconstruct": objectives.restored(predicted, target, patches=self.config.patches, norm_pixels=self.norm_pixels)}

    def restored(self, batch: Batch, visible: Int[Tensor, "B V"], *, only: Int[Tensor, "B H"] | None = None) -> Float[Tensor, "B _ P"]:
        """Every patch as the decoder makes it of the visible ones, or `only` these; the last block works for no others."""
        states = self.encoder.layers(batch.image, visible)
        x = self.decoder.placed(self.encoder.norm(states[-1]), visible)
        for block in self.decoder.blocks:
            x = block(x)
        for block, depth in zip(self.asking[:-1], self.ask, strict=False):
            x = block(x, states[depth])
        rows = torch.arange(1, x.shape[1], device=x.device).expand(len(x), -1) if only is None else only + 1  # the class token is row 0
        return self.decoder.pred(self.decoder.norm(self.asking[-1](x, states[self.ask[-1]], rows)))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruct": torch.tensor(float(len(batch)))}


def asked(depth: int) -> tuple[int, ...]:
    """Three quarters, half and a quarter of an encoder's depth, each once: 9, 6, 3 of 12."""
    return tuple(dict.fromkeys(max(1, depth * part // 4) for part in (3, 2, 1)))


class Asking(nn.Module):
    """A transformer block whose tokens, between its two halves, ask the visible tokens of one encoder layer."""

    def __init__(self, width: int, heads: int, *, memory: int):
        super().__init__()
        self.block, self.cross = Block(width, heads), Cross(width, heads, memory=memory)
        self.norm, self.norm_memory = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(memory, eps=1e-6)

    def forward(self, x: Float[Tensor, "B N D"], memory: Float[Tensor, "B M C"], rows: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B _ D"]:
        """All tokens, or the ones in `rows` alone, the same numbers as without."""
        x = (x if rows is None else take(x, rows)) + self.block.attn(self.block.norm1(x), rows)
        x = x + self.cross(self.norm(x), self.norm_memory(memory))
        return x + self.block.mlp(self.block.norm2(x))

    @torch.no_grad()
    def soften(self, factor: float) -> None:
        """Scales what all three branches add, as `Block.soften`."""
        self.block.soften(factor)
        self.cross.proj.weight.mul_(factor)


class Cross(nn.Module):
    """Attention of tokens to those of another layer, of another width."""

    def __init__(self, width: int, heads: int, *, memory: int):
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(memory, 2 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N D"], memory: Float[Tensor, "B M C"]) -> Float[Tensor, "B N D"]:
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(memory), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        return self.proj(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))
