"""Hierarchical encoder: MONAI's Swin stages, read on the grid of the configuration, for recipes that hide no patches.

Source: Liu et al., Swin Transformer (2103.14030); MONAI's 3-D form of it (`monai.networks.nets.swin_unetr`, Apache-2.0). Differs: a window that is
larger than the map of its stage is made with the map's size, so that its position biases stay those of its offsets (MONAI cuts a larger table);
merging takes all eight neighbours ("mergingv2"); maps are read before they are merged; tokens join those of all stages.
Cost (2026-11-23, LOG.md): a step of `supervised` at `small` takes 1.9 times as long as with the ViT, for three times the parameters.
"""

from __future__ import annotations

from math import gcd, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.stages import on_grid, require_all, with_mean
from asapkit.types import Refused

WINDOW = 7


class Swin(nn.Module):
    """Four stages: the first on half the side of a patch (on patches of an odd side, the whole), each later one on twice as much.

    A quarter of the width is the first stage's number of features; blocks beyond two a stage go to the third, as in Swin-T (2, 2, 6, 2 for 12).
    There is no class token: where one is asked for, it is the mean of the patch tokens. Positions enter as window biases alone.

    Raises: Refused where MONAI is not installed; ValueError for a width that is no multiple of 4.
    """

    def __init__(self, config: Config):
        super().__init__()
        try:
            from monai.networks.blocks import PatchEmbed
            from monai.networks.nets.swin_unetr import BasicLayer, PatchMergingV2
        except ImportError as error:
            raise Refused("encoder 'swin' needs MONAI: pip install monai") from error
        if config.width % 4:
            raise ValueError(f"width {config.width}: encoder 'swin' needs a multiple of 4")
        self.config = config
        self.grid, self.patch, self.width, self.contract = config.grid, config.patch, config.width, config.contract
        finer = 1 if any(p % 2 for p in config.patch) else 2
        widths, heads = [config.width // 4 * 2**n for n in range(4)], gcd(config.width // 4, max(1, config.heads // 4))
        self.embed = PatchEmbed(tuple(p // finer for p in config.patch), in_chans=1, embed_dim=widths[0], norm_layer=None)
        self.stages, size = nn.ModuleList(), [g * finer for g in config.grid]
        for number, blocks in enumerate((2, 2, max(2, config.depth - 6), 2)):
            window = tuple(min(WINDOW, n) for n in size)
            self.stages.append(BasicLayer(widths[number], blocks, heads * 2**number, window, drop_path=0.0, qkv_bias=True))
            size = [(n + 1) // 2 for n in size]
        for module in self.stages.modules():
            if hasattr(module, "relative_position_index"):  # made again with the network: weights are real numbers
                module.register_buffer("relative_position_index", module.relative_position_index, persistent=False)
        self.merges = nn.ModuleList(PatchMergingV2(width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.join, self.norm = nn.Linear(sum(widths), config.width), nn.LayerNorm(config.width)

    def maps(self, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B _ _ _ _"]]:
        """What each stage gives before it is merged, finest first."""
        found = [self.stages[0](self.embed(image))]
        for merge, stage in zip(self.merges, self.stages[1:], strict=True):
            found.append(stage(merge(found[-1].movedim(1, -1)).movedim(-1, 1)))
        return found

    def states(self, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B N _"]]:
        """The maps on the grid of the patches, before any norm."""
        return on_grid(self.maps(image), self.grid)

    def forward(self, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B M D"]:
        """The mean of the patch tokens, and these.  Raises: Refused where some patches are to be left out."""
        require_all(visible, prod(self.grid), encoder="swin")
        return with_mean(self.tokens(image))

    def tokens(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Patch tokens: the maps of all stages, joined."""
        every = [norm(state) for norm, state in zip(self.norms, self.states(image), strict=True)]
        return self.norm(self.join(torch.cat(every, dim=-1)))

    def hidden(self, image: Float[Tensor, "B 1 X Y Z"], layers: tuple[int, ...]) -> list[Float[Tensor, "B N _"]]:
        """The maps of the given stages (0-based; -1 is the last) on the grid, each with features of its own number, before any norm."""
        states = self.states(image)
        return [states[i] for i in layers]
