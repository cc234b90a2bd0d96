"""Places by rotation: queries and keys are turned by where their tokens lie, so that a score knows how far apart two tokens are and nothing else.

Hence an encoder for scans of any depth: no place is stored, and one that lies above all of the training's is turned like any other.

Source: RoFormer (2104.09864); SigVLP (2602.21735) for three axes, as methods.md B corrects them. The released layout, which neither keeps lengths nor
forgets a common shift, stands with the released weights in `peers.siglip`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.config import Config
from asapkit.stem import StatisticsStem
from asapkit.vit3d import Block, initialise, patches_at, patchify, take

MODES = ("axial", "videorope")
PADDINGS = ("repeat", "zero")
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Turn:
    """Turns pair (i, i + d / 2) of every query or key by its token's angle.  cos, sin: of both halves, for all tokens of the grid."""

    cos: Float[Tensor, "_ N d"]
    sin: Float[Tensor, "_ N d"]

    def __call__(self, x: Float[Tensor, "B H M d"], rows: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "B H M d"]:
        cos, sin = ((t if rows is None else take(t.expand(len(rows), -1, -1), rows)).unsqueeze(1) for t in (self.cos, self.sin))
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)  # half precision stays half


def frequencies(head: int, *, base: float = 1000.0, mode: str = "axial") -> Float[Tensor, "3 P"]:
    """Angle of each of the head / 2 pairs per step along x, y, z; a place (x, y, z) is turned by place @ frequencies.

    axial: three eighths of the pairs belong to x, as many to y, the rest to z, every axis with a ladder base^(-r / n) of its own.
    videorope: one ladder over all pairs, x and y in turns, then z, the slowest; a step along z also moves x and y.

    Raises: ValueError for a mode, a base or a width of heads that cannot be.
    """
    if mode not in MODES:
        raise ValueError(f"rope {mode!r}: there are {', '.join(MODES)}; the released layout is read with the released weights alone")
    if not base > 1:
        raise ValueError(f"rope_base {base}: give a number above 1, as 1000 or 10000")
    pairs, plane = head // 2, head // 2 * 3 // 8 or 1
    if head % 2 or pairs <= 2 * plane:
        raise ValueError(f"width / heads {head}: rotation along three axes needs an even number of at least 6")
    per_axis = (plane, plane, pairs - 2 * plane)
    angles = torch.zeros(3, pairs, dtype=torch.float64)
    if mode == "axial":
        for axis, (n, one) in enumerate(zip(per_axis, angles.split(per_axis, dim=1), strict=True)):
            one[axis] = base ** -(torch.arange(n, dtype=torch.float64) / n)
    else:
        angles[2] = base ** -(torch.arange(pairs, dtype=torch.float64) / pairs)
        for axis in (0, 1):
            angles[axis, axis : 2 * plane : 2] = angles[2, axis : 2 * plane : 2]
    return angles.float()


def turning(angles: Float[Tensor, "3 P"], grid: Triple, *, start: Triple = (0, 0, 0)) -> Turn:
    """The turn of every token of a grid, row-major x, y, z, whose first token lies at `start` (patches)."""
    axes = [torch.arange(s, s + g, dtype=torch.float64, device=angles.device) for s, g in zip(start, grid, strict=True)]
    angle = (torch.cartesian_prod(*axes) @ angles.double()).repeat(1, 2).unsqueeze(0)
    return Turn(angle.cos().float(), angle.sin().float())


def filled(image: Float[Tensor, "B 1 X Y Z"], depth: int, *, padding: str = "repeat") -> Float[Tensor, "B 1 X Y Z2"]:
    """The image with slices added at its end until its depth is a multiple of `depth`; itself where it is.

    repeat: its last slices over again, as many as are missing, in turns where it has fewer.   zero: empty ones, the middle of the HU window.
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding {padding!r}: there are {', '.join(PADDINGS)}")
    slices = image.shape[-1]
    if not (missing := -slices % depth):
        return image
    if padding == "zero":
        return F.pad(image, (0, missing))
    last = min(missing, slices)
    again = torch.arange(missing, device=image.device) % last + slices - last
    return torch.cat([image, image[..., again]], dim=-1)


class RotaryEncoder(nn.Module):
    """The house's ViT with rotation in place of fixed positions and without a class token, which would lie nowhere. Scans of any depth.

    base, mode: of `frequencies`, which the weights keep.   padding: of `filled`, for depths that are no multiple of the patch.
    """

    def __init__(self, config: Config, *, base: float = 1000.0, mode: str = "axial", padding: str = "repeat"):
        super().__init__()
        self.config, self.padding = config, padding
        self.grid, self.patch, self.width, self.contract = config.grid, config.patch, config.width, config.contract
        self.embed = nn.Linear(prod(config.patch), config.width)
        self.stem = StatisticsStem(patch=config.patch, width=config.width, window_hu=config.window_hu) if config.stem == "statistics" else None
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.register_buffer("frequencies", frequencies(config.width // config.heads, base=base, mode=mode))
        self.apply(initialise)
        for block in self.blocks:
            block.soften(config.residual_init)

    def grid_of(self, image: Float[Tensor, "B 1 X Y Z"]) -> Triple:
        """Patches of a volume along x, y, z.  Raises: ValueError for another extent in x or y than the contract's."""
        (x, y), depth = image.shape[2:4], ceil(image.shape[4] / self.patch[2])
        if (x, y) != tuple(self.contract.crop[:2]) or not depth:
            raise ValueError(f"the volume has {x} x {y} x {image.shape[4]} voxels; its depth is free, x and y are {self.contract.crop[:2]}")
        return (*self.grid[:2], depth)

    def turn(self, grid: Triple, visible: Int[Tensor, "B V"] | None = None) -> Turn:
        """The turn of the tokens of a grid, or of the `visible` ones."""
        whole = turning(self.frequencies, grid)
        return whole if visible is None else Turn(*(take(t.expand(len(visible), -1, -1), visible) for t in (whole.cos, whole.sin)))

    def stem_tokens(self, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B V D"]:
        """Patch-local embedding, before any attention; of the `visible` patches only, or of all."""
        self.grid_of(image)
        image = filled(image, self.patch[2], padding=self.padding)
        patches = patchify(image, self.patch) if visible is None else patches_at(image, self.patch, visible)
        x = self.embed(patches)
        return x if self.stem is None else x + self.stem(patches)

    def forward(self, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B V D"]:
        """Visible (or all) patch tokens after the final norm."""
        return self.norm(self.layers(image, visible)[-1])

    def layers(self, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"] | None = None) -> list[Tensor]:
        """Patch tokens before the first block and after each block: depth + 1 tensors (B, V, D)."""
        return self.deepen(self.stem_tokens(image, visible), turn=self.turn(self.grid_of(image), visible))

    def deepen(self, x: Float[Tensor, "B V D"], *, turn: Turn | None = None) -> list[Tensor]:
        """Stem tokens through the blocks: what `layers` gives. Without `turn` they are all patches of a volume."""
        turn = self.turn((*self.grid[:2], x.shape[1] // prod(self.grid[:2]))) if turn is None else turn
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], None, turn))
        return states

    def tokens(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Patch tokens of the last block after the final norm, nothing hidden."""
        return self(image)

    def hidden(self, image: Float[Tensor, "B 1 X Y Z"], layers: tuple[int, ...]) -> list[Float[Tensor, "B N D"]]:
        """Patch tokens of the residual stream after the given blocks (0-based; -1 is the last)."""
        states = self.layers(image)[1:]
        return [states[i] for i in layers]

    def attention_outputs(self, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B N D"]]:
        """What each attention module adds to the patch tokens, after its projection and before the residual (for effective ranks)."""
        turn = self.turn(self.grid_of(image))
        return [block.attn(block.norm1(x), None, turn) for block, x in zip(self.blocks, self.layers(image), strict=False)]

    def attention(self, image: Float[Tensor, "B 1 X Y Z"], *, patches: Sequence[int]) -> Float[Tensor, "B L H Q N"]:
        """How much each of `patches` looks at every patch, by block and head, nothing hidden: one pass for all of them; sums to 1.

        Raises: IndexError for a patch that is not there.
        """
        turn = self.turn(self.grid_of(image))
        if strange := [p for p in patches if not 0 <= p < turn.cos.shape[1]]:
            raise IndexError(f"patch {strange[0]}: there are {turn.cos.shape[1]}, from 0")
        rows, found = torch.tensor(patches, device=image.device), []
        for block, x in zip(self.blocks, self.layers(image), strict=False):
            q, k, _ = rearrange(block.attn.qkv(block.norm1(x)), "b n (three h d) -> three b h n d", three=3, h=block.attn.heads)
            scores = turn(q)[:, :, rows] @ turn(k).mT / q.shape[-1] ** 0.5
            found.append(scores.softmax(-1))
        return torch.stack(found, dim=1)
