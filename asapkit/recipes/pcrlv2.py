"""PCRLv2: restores a volume from a disturbed view of it, and agrees with another view and with parts, at a depth of the decoder. Matched form.

Source: PCRLv2 (2301.00772), github RL4M/PCRLv2, as described in methods.md E2. Differs: this house's ViT, positions and a transformer decoder in
place of a U-Net, so that a scale is a depth of the decoder (a choice of methods.md); the depth is drawn per volume, not per batch; `beta` does
not fall with the epoch; a local view is a box of half the grid along each axis out of one of the two views, at its own position, not a crop disturbed
on its own; no flips and no turns. The heads that predict and what a disturbance is like are ours, after SimSiam (2011.10566) and methods.md: features
are standardised over the volumes of all ranks. Layer norms in their place let the features of all volumes become nearly one (LOG.md).
Cost (2026-11-23, LOG.md): a step at `small` takes 7.2 times as long as of `mae`: nothing is hidden, twice.
Result (2026-11-23, `benchmarks.recipes`, one seed, 800 volumes seen at `small`): probe .586 (.527 to .641), untrained .556.
"""

from __future__ import annotations

from math import prod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit import objectives
from asapkit.config import Config
from asapkit.masking import streams
from asapkit.pairing import Gather, alone
from asapkit.types import Batch, Losses
from asapkit.vit3d import Block, Encoder, initialise, patchify, sincos_positions, take, unpatchify

WEIGHTS = {"reconstruct": 1.0, "contrast": 1.0}

View = tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]
"""What views predict of others, and what others are to predict of them."""


class Method(nn.Module):
    """beta: weight of the restoration at the drawn depth; the original lets it fall from 1 to 0 over the epochs, by half a cosine: .5 in the mean.

    local: parts that are compared with both views, half of them of each.
    blur: most of a blur's variance along each axis, voxels (up to 2/3).   gamma: most of the logarithm of the exponent on intensities from 0 to 1.
    noise: most of its standard deviation, network units.   swap: share of the blocks of half a patch that change places with one another.
    Everything random comes from `patch_order`, the volume's own random numbers: the same batch has the same loss.
    """

    def __init__(
        self, config: Config, *, beta: float = 0.5, local: int = 6, blur: float = 2 / 3, gamma: float = 0.3, noise: float = 0.05, swap: float = 0.1
    ):
        super().__init__()
        if local < 0 or local % 2:
            raise ValueError(f"local {local}: give an even number of at least 0, half of them for each view")
        for name, value, most in (("blur", blur, 2 / 3), ("gamma", gamma, 2.0), ("noise", noise, 1.0), ("swap", swap, 1.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value}: give a number from 0 to {most:.3g}")
        if beta < 0:
            raise ValueError(f"beta {beta}: give a number of at least 0")
        if config.batch_size < 2:
            raise ValueError(f"batch_size {config.batch_size}: features are standardised over the volumes of a step; give at least 2")
        self.config, self.gather, self.beta, self.local = config, alone, beta, local
        self.disturbance = {"blur": blur, "gamma": gamma, "noise": noise, "swap": swap}
        self.encoder, self.restorer = Encoder(config), Restorer(config)
        self.scales = nn.ModuleList(Scale(config) for _ in range(config.decoder_depth))

    def forward(self, batch: Batch) -> Losses:
        own = streams(batch.patch_order)
        views = [self.disturbed(batch.image, own) for _ in range(2)]
        depth = torch.cat([torch.randint(len(self.scales), (1,), generator=g, device=g.device) for g in own])
        parts = boxes(self.config.grid, own, count=self.local)
        stems = [self.encoder.stem_tokens(view) for view in views]
        states = [self.states(stem) for stem in stems]
        pairs = [self.pair(found, depth) for found in states]
        contrast = objectives.agreement(*pairs).mean()
        if self.local:
            small = [self.parts(stem, index, depth) for stem, index in zip(stems, parts.chunk(2, dim=1), strict=True)]
            known = [tuple(x.repeat_interleave(self.local // 2, 0) for x in pair) for pair in pairs]
            contrast = contrast + torch.stack([objectives.agreement(part, whole).mean() for part in small for whole in known]).mean()
        return {"reconstruct": self.restoration(batch, states[0], depth), "contrast": contrast}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruct": torch.tensor(float(len(batch)))}

    def disturbed(self, image: Float[Tensor, "B 1 X Y Z"], own: list[torch.Generator]) -> Float[Tensor, "B 1 X Y Z"]:
        """A view of every volume."""
        block = tuple(p // 2 if p % 2 == 0 else p for p in self.config.patch)
        return torch.stack([disturbed(volume, stream, block=block, **self.disturbance) for volume, stream in zip(image, own, strict=True)])

    def states(self, stem: Float[Tensor, "B V D"], index: Int[Tensor, "B V"] | None = None) -> list[Float[Tensor, "B V E"]]:
        """Patch states of every decoder block, of all patches or of the ones in `index`."""
        return self.restorer(self.encoder.norm(self.encoder.deepen(stem)[-1]), index)

    def parts(self, stem: Float[Tensor, "B N D"], index: Int[Tensor, "B L V"], depth: Int[Tensor, " B"]) -> View:
        """What parts of a view say, L of each volume."""
        count = index.shape[1]
        seen = rearrange(take(stem, index.flatten(1)), "b (l v) d -> (b l) v d", l=count)
        return self.pair(self.states(seen, index.flatten(0, 1)), depth.repeat_interleave(count))

    def pair(self, states: list[Float[Tensor, "B V E"]], depth: Int[Tensor, " B"]) -> View:
        """What every view says at the depth that was drawn for its volume."""
        volume = torch.arange(len(depth), device=depth.device)
        every = [scale(state, self.gather) for scale, state in zip(self.scales, states, strict=True)]
        predicted, projected = (torch.stack(one)[depth, volume] for one in zip(*every, strict=True))
        return predicted, projected

    def restoration(self, batch: Batch, states: list[Float[Tensor, "B N E"]], depth: Int[Tensor, " B"]) -> Float[Tensor, ""]:
        """Squared error of the undisturbed volume after the last block, and beta times that after the drawn one."""
        target, patches = patchify(batch.image, self.config.patch), self.config.patches
        loss = objectives.restored(self.scales[-1].restored(states[-1]), target, patches=patches)
        for number, (scale, state) in enumerate(zip(self.scales, states, strict=True)):
            drawn = depth == number
            middle = objectives.restored(scale.restored(state[drawn]), target[drawn], patches=patches)
            loss = loss + self.beta * drawn.float().mean() * middle
        return loss


class Restorer(nn.Module):
    """Decoder of views of which nothing is hidden: as `vit3d.Decoder`, without a mask token, for any patches."""

    def __init__(self, config: Config):
        super().__init__()
        self.embed = nn.Linear(config.width, config.decoder_width)
        self.blocks = nn.ModuleList(Block(config.decoder_width, config.decoder_heads) for _ in range(config.decoder_depth))
        self.register_buffer("positions", sincos_positions(config.grid, config.decoder_width), persistent=False)
        self.apply(initialise)
        for block in self.blocks:
            block.soften(config.decoder_init)

    def forward(self, latent: Float[Tensor, "B M D"], index: Int[Tensor, "B V"] | None = None) -> list[Float[Tensor, "B V E"]]:
        """Patch states after each block. `latent` starts with the class token; `index`: which patches the others are, None: all."""
        positions = self.positions.expand(len(latent), -1, -1)
        x = self.embed(latent)
        x, states = torch.cat([x[:, :1], x[:, 1:] + (positions if index is None else take(positions, index))], dim=1), []
        for block in self.blocks:
            x = block(x)
            states.append(x[:, 1:])
        return states


class Scale(nn.Module):
    """What is asked of one depth of the decoder: the voxels of a patch, and a feature of a view with a prediction of the other's."""

    def __init__(self, config: Config):
        super().__init__()
        inner, width = config.decoder_width, config.align_width
        narrow = max(1, width // 4)
        self.norm, self.voxels = nn.LayerNorm(inner, eps=1e-6), nn.Linear(inner, prod(config.patch))
        self.project, self.predict = Perceptron(inner, width, width), Perceptron(width, narrow, width)
        initialise(self.voxels)
        with torch.no_grad():
            self.voxels.weight.mul_(config.decoder_init)

    def restored(self, state: Float[Tensor, "B N E"]) -> Float[Tensor, "B N P"]:
        """Voxels of every patch."""
        return self.voxels(self.norm(state))

    def forward(self, state: Float[Tensor, "B V E"], gather: Gather) -> View:
        """What the view predicts of another one, and its own feature."""
        feature = standardised(self.project(self.norm(state).mean(1), gather), gather)
        return self.predict(feature, gather), feature


class Perceptron(nn.Module):
    """Two layers; between them each feature is standardised over the views of all ranks, scaled and shifted, as a batch norm does."""

    def __init__(self, into: int, inner: int, out: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(into, inner, bias=False), nn.Linear(inner, out)
        self.weight, self.bias = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.zeros(inner))

    def forward(self, x: Float[Tensor, "B D"], gather: Gather) -> Float[Tensor, "B E"]:
        return self.fc2(F.relu(standardised(self.fc1(x), gather) * self.weight + self.bias))


def standardised(x: Float[Tensor, "B D"], gather: Gather) -> Float[Tensor, "B D"]:
    """Each feature with mean 0 and variance 1 over the rows of all ranks: one process and many agree, and no feature is one for all volumes."""
    every = gather(x.float())
    return (x.float() - every.mean(0)) / (every.var(0, unbiased=False) + 1e-5).sqrt()


def disturbed(
    volume: Float[Tensor, "1 X Y Z"], stream: torch.Generator, *, block: tuple[int, int, int], blur: float, gamma: float, noise: float, swap: float
) -> Float[Tensor, "1 X Y Z"]:
    """A volume with another gamma, blurred, with noise, and with some of its blocks exchanged; each up to the given strength, in [-1, 1]."""
    strength = torch.rand(3, generator=stream, device=volume.device)
    exponent = (gamma * (2 * strength[0] - 1)).exp()
    view = 2 * ((volume + 1) / 2).clamp(0, 1).pow(exponent) - 1
    for axis in (1, 2, 3):  # a kernel of three voxels has the variance of its share outside
        before, after = (view.index_select(axis, shifted(view.shape[axis], by, device=view.device)) for by in (-1, 1))
        view = view.lerp((before + after) / 2, blur * strength[1])
    view = view + noise * strength[2] * torch.randn(view.shape, generator=stream, device=view.device)
    return swapped(view.clamp(-1, 1), stream, block=block, share=swap)


def shifted(length: int, by: int, *, device: torch.device) -> Int[Tensor, " X"]:
    """Places along an axis moved by some voxels; the ends stay."""
    return (torch.arange(length, device=device) + by).clamp(0, length - 1)


def swapped(volume: Float[Tensor, "1 X Y Z"], stream: torch.Generator, *, block: tuple[int, int, int], share: float) -> Float[Tensor, "1 X Y Z"]:
    """A share of the blocks, drawn at random, put each where the next one was."""
    blocks = patchify(volume.unsqueeze(0), block)
    order = torch.rand(blocks.shape[1], generator=stream, device=volume.device).argsort()
    chosen = order[: round(share * len(order))]
    grid = tuple(n // b for n, b in zip(volume.shape[1:], block, strict=True))
    return unpatchify(blocks.index_copy(1, chosen, blocks[:, chosen.roll(1)]), grid, block)[0]


def boxes(grid: tuple[int, int, int], own: list[torch.Generator], *, count: int) -> Int[Tensor, "B L V"]:
    """Patches of `count` boxes of every volume, ascending, each half the grid along each axis (rounded up), anywhere inside."""
    device, size = own[0].device, [(g + 1) // 2 for g in grid]
    free = torch.tensor([g - s + 1 for g, s in zip(grid, size, strict=True)], device=device)
    step = torch.tensor([grid[1] * grid[2], grid[2], 1], device=device)
    corner = torch.stack([(torch.rand(count, 3, generator=g, device=device) * free).long() for g in own])
    inside = torch.cartesian_prod(*(torch.arange(s, device=device) for s in size))
    return (corner * step).sum(-1, keepdim=True) + (inside * step).sum(-1)
