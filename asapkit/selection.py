"""Selective alignment: how many patches a sentence takes (selector), and which (top-K weights).

Source: ASAP section 3.3 (eq. 5 to 9); the learned selectors follow spec section G: the released head receives no gradient.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

SELECTORS = ("straight_through", "soft_topk", "frozen", "random", "fixed")
PLANES = 64  # whose sides are counted for a random K


def top_k_weights(
    similarity: Float[Tensor, "*L V"], mixture: Float[Tensor, "*L M"], top_k: tuple[int, ...], *, allowed: Bool[Tensor, "*L V"] | None = None
) -> Float[Tensor, "*L V"]:
    """Weight of every patch: sum over candidates K of mixture_K x [patch is among the K most similar] / K; each row sums to sum(mixture).

    Ties go to the lowest index. K is clamped to the number of allowed patches; where nothing is allowed, everything is.
    Differentiable in `mixture`.
    """
    similarity = similarity.detach()
    if allowed is None:
        available = torch.full_like(similarity[..., :1], similarity.shape[-1], dtype=torch.long)
    else:
        allowed = allowed | ~allowed.any(-1, keepdim=True)
        similarity = similarity.masked_fill(~allowed, -math.inf)
        available = allowed.sum(-1, keepdim=True)
    best = similarity.topk(min(max(top_k), similarity.shape[-1]), dim=-1).values
    weights = torch.zeros_like(similarity)
    for m, k in enumerate(top_k):
        k_row = available.clamp(max=k)
        threshold = best.gather(-1, k_row - 1)
        above, equal = similarity > threshold, similarity == threshold
        chosen = above | (equal & (equal.cumsum(-1) <= k_row - above.sum(-1, keepdim=True)))
        weights = weights + mixture[..., m : m + 1] * chosen / k_row
    return weights


def soft_top_k(similarity: Float[Tensor, "*L V"], k: Float[Tensor, "*L"], *, eta: float = 0.05) -> Float[Tensor, "*L V"]:
    """sigmoid((Sim - t) / eta) / k with the threshold t solved so that the weights sum to one; differentiable in similarity and k.

    Bisection without gradient, then one differentiable Newton step gives the implicit gradient. Rows sum to 1 up to the solver's tolerance.
    """
    sim = similarity.detach()
    low, high = (
        sim.amin(-1, keepdim=True) - 20 * eta,
        sim.amax(-1, keepdim=True) + 20 * eta,
    )
    target = k.detach().unsqueeze(-1)
    for _ in range(50):
        middle = (low + high) / 2
        too_many = torch.sigmoid((sim - middle) / eta).sum(-1, keepdim=True) > target
        low, high = (
            torch.where(too_many, middle, low),
            torch.where(too_many, high, middle),
        )
    t = (low + high) / 2
    gate = torch.sigmoid((similarity - t) / eta)
    slope = (gate * (1 - gate)).sum(-1, keepdim=True).detach().clamp(min=1e-6) / eta
    t = t + (gate.sum(-1, keepdim=True) - k.unsqueeze(-1)) / slope
    return torch.sigmoid((similarity - t) / eta) / k.unsqueeze(-1)


class Selector(nn.Module):
    """A sentence's own K, as a mixture over the candidates `top_k`.

    straight_through: one-hot forward, softmax gradient.   soft_topk: a continuous budget between the smallest and largest candidate.
    frozen: an untrained projection of the sentence (the released behaviour; registers no parameter).   fixed: always `fixed_k`.
    random: by a hash of the sentence's feature: any candidate as often, alike sentences apart, one feature always the same (in every process too).
    """

    def __init__(
        self,
        width: int,
        top_k: tuple[int, ...],
        *,
        kind: str = "straight_through",
        fixed_k: int | None = None,
        temperature: float = 1.0,
    ):
        super().__init__()
        if kind not in SELECTORS:
            raise ValueError(f"unknown selector {kind!r}; there are {', '.join(SELECTORS)}")
        if kind == "fixed" and (fixed_k is None or fixed_k < 1):
            raise ValueError("selector 'fixed' needs fixed_k, a number of visible patches of at least 1")
        self.kind, self.temperature = kind, temperature
        self.top_k = (fixed_k,) if kind == "fixed" else tuple(top_k)
        outputs = {"straight_through": len(top_k), "soft_topk": 1}.get(kind)
        self.head = nn.Linear(width, outputs) if outputs else None
        if kind == "frozen":
            self.register_buffer("projection", torch.randn(width) * width**-0.5)
            self.register_buffer("bias", torch.zeros(()))
        if kind == "random":
            planes = torch.randn(width, PLANES, generator=torch.Generator().manual_seed(0))
            self.register_buffer("planes", planes, persistent=False)

    def forward(self, sentence: Float[Tensor, "*L E"]) -> Float[Tensor, "*L M"]:
        """Mixture over the candidates (rows sum to 1). `soft_topk` answers the log-budget's share in its single column instead."""
        if self.kind == "fixed":
            return sentence.new_ones(*sentence.shape[:-1], 1)
        if self.kind == "frozen":
            z = sentence @ self.projection + self.bias
            m = (len(self.top_k) * torch.sigmoid(z)).long().clamp(max=len(self.top_k) - 1)
            return F.one_hot(m, len(self.top_k)).to(sentence.dtype)
        if self.kind == "random":  # on how many planes' positive side it lies, modulo the candidates
            m = (sentence @ self.planes > 0).sum(-1) % len(self.top_k)
            return F.one_hot(m, len(self.top_k)).to(sentence.dtype)
        if self.kind == "soft_topk":
            return torch.sigmoid(self.head(sentence))
        soft = (self.head(sentence) / self.temperature).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(self.top_k)).to(soft.dtype)
        return hard + soft - soft.detach()

    def budget(self, mixture: Float[Tensor, "*L M"]) -> Float[Tensor, "*L"]:
        """K of each sentence in visible patches (a real number for `soft_topk`)."""
        if self.kind == "soft_topk":
            return self.top_k[0] * (self.top_k[-1] / self.top_k[0]) ** mixture[..., 0]
        return (mixture * torch.tensor(self.top_k, dtype=mixture.dtype, device=mixture.device)).sum(-1)

    def weights(
        self,
        similarity: Float[Tensor, "*L V"],
        mixture: Float[Tensor, "*L M"],
        *,
        allowed: Bool[Tensor, "*L V"] | None = None,
    ) -> Float[Tensor, "*L V"]:
        """Patch weights of each sentence, rows summing to 1."""
        if self.kind != "soft_topk":
            return top_k_weights(similarity, mixture, self.top_k, allowed=allowed)
        if allowed is not None:
            similarity = torch.where(
                allowed | ~allowed.any(-1, keepdim=True),
                similarity,
                similarity.new_tensor(-4.0),
            )
        k = self.budget(mixture).clamp(max=similarity.shape[-1] - 1)
        return soft_top_k(similarity, k.expand(similarity.shape[:-1]))

    def prior(self, mixture: Float[Tensor, "B S M"], real: Bool[Tensor, "B S"]) -> Float[Tensor, " B"]:
        """KL(mean mixture of a report's sentences || uniform): keeps uninformative sentences from pushing every K to one end (spec section G.3).

        Per report, so that it adds up exactly over ranks and micro-batches. Zero for selectors without a learned mixture.
        """
        if self.kind != "straight_through":
            return mixture.new_zeros(len(mixture))
        share = (mixture * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
        share = share.clamp(min=1e-6)
        return (share * (share * share.shape[-1]).log()).sum(-1) * real.any(1)
