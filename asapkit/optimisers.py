"""Which optimiser steps which parameter: every trained one is in exactly one group.

A method asks for its optimiser by an attribute `optimiser`; the configuration's field of that name goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from asapkit.config import Config

KINDS = ("adamw", "muon")


def make_optimizer(method: nn.Module, config: Config) -> torch.optim.Optimizer:
    """AdamW, or Muon for the weight matrices with AdamW for the rest.

    Muon leaves to AdamW what is no matrix (norms, biases, single tokens, scales) and the matrices whose names begin as the method's `adamw` says.
    Both take one rate: Muon's steps are brought to the root-mean-square that AdamW's have. Momentum .95 (Nesterov), 5 Newton-Schulz steps.

    Source: SigVLP's released optimiser (methods.md B: one rate and decay for both, projections and scalars left to Adam); the scaling is that of
    "Muon is scalable for LLM training" (2502.16982).   Raises: ValueError for a kind that is not there.
    """
    kind = getattr(method, "optimiser", "adamw") if config.optimiser == "recipe" else config.optimiser
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if kind == "adamw":
        return adamw(trained.values(), config)
    if kind != "muon":
        raise ValueError(f"optimiser {kind!r}: there are {', '.join(KINDS)}")
    left = tuple(getattr(method, "adamw", ()))
    matrices = {name: p for name, p in trained.items() if p.ndim == 2 and min(p.shape) > 1 and not name.startswith(left)}
    muon = torch.optim.Muon(
        [{"params": list(matrices.values())}], lr=config.lr, weight_decay=config.weight_decay, momentum=0.95, nesterov=True, ns_steps=5,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return Together(muon=muon, adamw=adamw((p for name, p in trained.items() if name not in matrices), config))


def adamw(parameters: Iterable[nn.Parameter], config: Config) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms and single tokens.  Source: ASAP section 4.1 (1.5e-4, 0.05, betas 0.9 / 0.95)."""
    trained = list(parameters)
    groups = [
        {"params": [p for p in trained if p.ndim > 1 and p.shape[0] > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1 or p.shape[0] == 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)  # one pass over memory in place of eight
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


class Together(torch.optim.Optimizer):
    """Several optimisers that step as one. Their groups are listed here, so that a rate set on any of them holds; each keeps its own state.

    Raises: ValueError for a parameter in two groups.
    """

    def __init__(self, **parts: torch.optim.Optimizer):
        self.parts = parts
        super().__init__([group for part in parts.values() for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """A closure, which only line searches need, is not called."""
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Raises: ValueError where the state is of other optimisers."""
        if set(state_dict) != set(self.parts):
            raise ValueError(f"the state is of {', '.join(map(str, state_dict))}, the optimisers are {', '.join(self.parts)}")
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]  # loading made new ones
