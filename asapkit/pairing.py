"""Volumes and reports in one space: the projections and the scale of every recipe that contrasts the two.

Source: CLIP (2103.00020), SigLIP (2303.15343); what single methods do otherwise stands in their recipes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from asapkit import objectives
from asapkit.config import Config
from asapkit.language import TextEncoder

Gather = Callable[[Tensor], Tensor]
"""Joins a tensor over ranks along its first axis, with gradient."""


class Pair(nn.Module):
    """A frozen text encoder read at [CLS], linear projections of a volume's and a report's feature, and their scaled products.

    text_memory: keep the text features of reports seen before.
    scale: the learned factor on the products, its value at the start; None: the products themselves, nothing learned. log_scale=False keeps the
    number itself as the parameter, not its logarithm.
    bias: learned offset of every product (sigmoid losses), its value at the start.   normalise: unit vectors, so that products are cosines.
    """

    def __init__(
        self, config: Config, *, text_memory: bool = False, scale: float | None = 1 / 0.07, log_scale: bool = True, bias: float | None = None,
        normalise: bool = True,
    ):  # fmt: skip
        super().__init__()
        if scale is not None and scale <= 0:
            raise ValueError(f"scale {scale}: give a number above 0")
        self.text = TextEncoder(config.text_encoder, remember=text_memory)
        self.volume, self.report = (nn.Linear(width, config.align_width, bias=False) for width in (config.width, self.text.width))
        self.normalise, self.log_scale = normalise, log_scale
        start = None if scale is None else torch.tensor(float(scale))
        self.scale = None if start is None else nn.Parameter(start.log() if log_scale else start)
        self.bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self, volume: Float[Tensor, "B D"], tokens: Int[Tensor, "B R"], real: Bool[Tensor, "B R"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """A volume's feature and the text beside it, both in the shared space."""
        return self.joined(volume, self.text(tokens, real)[:, 0])

    def joined(self, volume: Float[Tensor, "B D"], text: Float[Tensor, "B C"]) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """The same for a text feature that is at hand."""
        return self.embed_volume(volume), self._placed(self.report(text))

    def embed_volume(self, volume: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Volumes in the shared space, no text beside them."""
        return self._placed(self.volume(volume))

    def embed_text(self, tokens: Int[Tensor, "L R"], real: Bool[Tensor, "L R"]) -> Float[Tensor, "L E"]:
        """Texts in the shared space, no volumes beside them."""
        return self._placed(self.report(self.text(tokens, real)[:, 0]))

    def _placed(self, x: Tensor) -> Tensor:
        return objectives.unit(x) if self.normalise else x.float()

    def logits(self, volume: Float[Tensor, "B E"], report: Float[Tensor, "L E"]) -> Float[Tensor, "B L"]:
        """Every volume (row) with every report (column)."""
        products = volume @ report.mT
        if self.scale is not None:
            products = products * (self.scale.exp() if self.log_scale else self.scale)
        return products if self.bias is None else products + self.bias

    def info_nce(
        self, embedded: tuple[Float[Tensor, "B E"], Float[Tensor, "B E"]], tokens: Int[Tensor, "B R"], real: Bool[Tensor, "B R"], *, gather: Gather
    ) -> Float[Tensor, ""]:
        """Contrast of the volumes and reports of all ranks; `tokens` are the text by which two volumes count as of one report."""
        volume, report = map(gather, embedded)
        return objectives.contrast(self.logits(volume, report), same_report(tokens, real, gather=gather))


def alone(x: Tensor) -> Tensor:
    """`gather` of a method in one process; training on several puts its own in this place."""
    return x


def report_key(tokens: Int[Tensor, "B R"], real: Bool[Tensor, "B R"]) -> Int[Tensor, " B"]:
    """A number per report: equal texts have equal ones, whatever their padding, on every rank; different texts in practice never."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=torch.int64)
    mixed = (tokens.long() + 1) * 0x9E3779B97F4A7C1 ^ places * 0x2545F4914F6CDD1D  # 64-bit products wrap around
    mixed = mixed * (mixed >> 29 | 1)
    return (mixed * real).sum(1)


def same_report(tokens: Int[Tensor, "B R"], real: Bool[Tensor, "B R"], *, gather: Gather = alone) -> Bool[Tensor, "G G"]:
    """Which volumes of the (joined) batch share a report: reconstructions of one study do, and must not be negatives of one another."""
    key = gather(report_key(tokens, real))
    return key[:, None] == key[None]


def shown_reports(key: Int[Tensor, " B"], joined: Int[Tensor, " G"], exchanged: Bool[Tensor, " B"]) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
    """Which report of the joined batch each volume is shown with, and whether it is its own.

    A volume that is `exchanged` gets the next other report in the order of the keys, round the batch; its own where there is no other. By keys
    alone, so that every rank agrees, and a volume of the same report is never a mismatch.
    """
    ordered, row = joined.sort(stable=True)
    at = torch.where(exchanged, torch.searchsorted(ordered, key, right=True) % len(ordered), torch.searchsorted(ordered, key))
    return row[at], ordered[at] == key


def moments(share: Float[Tensor, "B N"], centres: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "B 3 3"]]:
    """Centroid and covariance of where a volume's attention lies; `share` sums to 1 over its patches, `centres` in any unit of length."""
    mean = share @ centres
    away = centres - mean.unsqueeze(1)
    return mean, torch.einsum("bn,bni,bnj->bij", share, away, away)


def moment_kernel(mean: Float[Tensor, "B 3"], covariance: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B B"]:
    """Likeness of where two volumes' attention lies, (0, 1]: exp(-|mean difference|^2 / a) exp(-|covariance difference|_F / b).

    a and b are the medians of those differences over the pairs of the batch (the median heuristic), so that the kernel knows no unit.

    Source: SCALE-VLP (2511.02996), eq. 8, as methods.md A gives it.
    """
    apart = (mean.unsqueeze(1) - mean.unsqueeze(0)).square().sum(-1)
    shaped = (covariance.unsqueeze(1) - covariance.unsqueeze(0)).flatten(2).norm(dim=-1)
    pairs = ~torch.eye(len(mean), dtype=torch.bool, device=mean.device)
    if not pairs.any():
        return torch.ones_like(apart)
    a, b = (values[pairs].median().clamp(min=1e-12) for values in (apart, shaped))
    return torch.exp(-apart / a - shaped / b)
