"""What an organ looks like when nothing is wrong with it: a vector-quantised autoencoder of organ tokens with a small book of codes per organ.

Source: VQ-VAE (1711.00937) with codes as moving averages; its use on normal organs is ViSD-Boost's (2508.03742, methods.md E10).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.pairing import Gather

COMMITMENT = 0.25


class Codebook(nn.Module):
    """Tokens of an organ through a transformer to the nearest of the organ's codes, and back through another.

    codes: per organ.   depth: blocks of either transformer.   decay: of the averages; a code that no token chose stays as it is.
    Codes start as tokens of the first normal organ that is seen, evenly spaced, with a little noise that parts equal ones.
    """

    def __init__(self, width: int, *, organs: int, heads: int, codes: int = 100, depth: int = 2, decay: float = 0.99):
        super().__init__()
        if codes < 1 or not 0 <= decay < 1:
            raise ValueError(f"codes {codes}, decay {decay}: give at least 1 code and a decay from 0 to below 1")
        self.decay = decay
        self.encoder, self.decoder = (blocks(width, heads, depth) for _ in range(2))
        self.back = nn.Linear(width, width)
        self.register_buffer("codes", torch.randn(organs, codes, width))
        self.register_buffer("count", torch.zeros(organs, codes))  # moving average of the tokens that chose a code; none before the start
        self.register_buffer("total", torch.zeros(organs, codes, width))  # and of their sum

    def forward(
        self, tokens: Float[Tensor, "B M D"], real: Bool[Tensor, "B M"], *, organ: int, learn: Bool[Tensor, " B"], gather: Gather
    ) -> tuple[Float[Tensor, "B M D"], Float[Tensor, " B"]]:
        """Tokens as the codes say them (themselves while no normal organ was seen), and each volume's error, zero where it is not in `learn`.

        No gradient reaches the tokens.
        """
        scaled, low, span = stretched(tokens.detach().float(), real)
        padded = ~real
        padded[:, 0] = False  # a row of padding alone would have nothing to attend to
        z = self.encoder(scaled, src_key_padding_mask=padded)
        learned = real & learn.unsqueeze(1)
        if self.training:
            self.begin(z.detach().float(), learned, organ=organ, gather=gather)
        nearest = torch.cdist(z.detach().float(), self.codes[organ].expand(len(z), -1, -1)).argmin(-1)
        chosen = self.codes[organ][nearest]
        if self.training:
            self.follow(z.detach().float(), nearest, learned, organ=organ, gather=gather)
        out = self.back(self.decoder((z + (chosen - z).detach()).to(z.dtype), src_key_padding_mask=padded)).float()
        error = (out - scaled).square().mean(-1) + COMMITMENT * (z.float() - chosen).square().mean(-1)
        usual = out.detach() * span + low if self.count[organ].any() else tokens.detach().float()
        return usual, (error * learned).sum(1) / learned.sum(1).clamp(min=1)

    @torch.no_grad()
    def begin(self, z: Float[Tensor, "B M D"], learned: Bool[Tensor, "B M"], *, organ: int, gather: Gather) -> None:
        """Codes from the first volume of any rank that is learned from, once."""
        if self.count[organ].any():
            return
        some = learned.any(1)
        first = int(some.to(torch.uint8).argmax())
        own = z[first][learned[first]] if some.any() else z[0]
        even = torch.linspace(0, len(own) - 1, self.codes.shape[1], device=z.device).round().long()
        offered, able = gather(own[even].unsqueeze(0)), gather(some.any().unsqueeze(0))
        if able.any():
            self.codes[organ] = offered[int(able.to(torch.uint8).argmax())] + 0.01 * self.codes[organ]
            self.count[organ], self.total[organ] = 1.0, self.codes[organ]

    @torch.no_grad()
    def follow(
        self, z: Float[Tensor, "B M D"], nearest: Int[Tensor, "B M"], learned: Bool[Tensor, "B M"], *, organ: int,
        gather: Gather,
    ) -> None:  # fmt: skip
        """Moves every code that was chosen towards the mean of the tokens of all ranks that chose it."""
        chose = F.one_hot(nearest[learned], self.codes.shape[1]).to(z.dtype)
        count, total = (gather(x.unsqueeze(0)).sum(0) for x in (chose.sum(0), chose.mT @ z[learned]))
        used, rest = count > 0, 1 - self.decay
        self.count[organ] = torch.where(used, self.decay * self.count[organ] + rest * count, self.count[organ])
        self.total[organ] = torch.where(used.unsqueeze(1), self.decay * self.total[organ] + rest * total, self.total[organ])
        self.codes[organ] = torch.where(used.unsqueeze(1), self.total[organ] / self.count[organ].clamp(min=1e-6).unsqueeze(1), self.codes[organ])


def blocks(width: int, heads: int, depth: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def stretched(
    tokens: Float[Tensor, "B M D"], real: Bool[Tensor, "B M"]
) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B 1 1"], Float[Tensor, "B 1 1"]]:
    """Tokens of each volume from 0 to 1 (its least and greatest number), padding at 0; and the least and the span that undo it."""
    inner = real.unsqueeze(-1)
    none = ~real.any(1)[:, None, None]
    low = tokens.masked_fill(~inner, float("inf")).amin((1, 2), keepdim=True).masked_fill(none, 0.0)
    high = tokens.masked_fill(~inner, float("-inf")).amax((1, 2), keepdim=True).masked_fill(none, 1.0)
    span = (high - low).clamp(min=1e-6)
    return ((tokens - low) / span).masked_fill(~inner, 0.0), low, span
