"""How another method's network sees a volume: its axes, their direction, its crop, its numbers; and what every such encoder offers here.

A volume of this house is x, y, z in RAS+ with the HU window scaled to [-1, 1]. Sources order and turn their axes as they please, most of them as
CT-RATE's files are stored: x to the patient's left, y to the back. Everything outside `Peer` stays in the order of this house, tokens too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from asapkit.config import Contract
from asapkit.types import Refused

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Frame:
    """Order of a network's own axes, and which of them run against x, y, z. Frame("zyx", "yx"): slices, rows to the back, columns to the left."""

    axes: str = "xyz"
    flipped: str = ""

    def own(self, sizes: Sequence) -> tuple:
        """Three values of x, y, z in the network's order."""
        return tuple(sizes["xyz".index(axis)] for axis in self.axes)

    def enter(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 U V W"]:
        """A volume as the network sees it."""
        turned = image.permute(0, 1, *(2 + "xyz".index(axis) for axis in self.axes))
        return turned.flip([2 + self.axes.index(axis) for axis in self.flipped]) if self.flipped else turned

    def leave(self, tokens: Float[Tensor, "B N D"], grid: Triple) -> Float[Tensor, "B N D"]:
        """Tokens in the network's row-major order put into row-major x, y, z. `grid` is the network's own."""
        there = tokens.unflatten(1, grid)
        if self.flipped:
            there = there.flip([1 + self.axes.index(axis) for axis in self.flipped])
        return there.permute(0, *(1 + self.axes.index(axis) for axis in "xyz"), 4).flatten(1, 3)


@dataclass(frozen=True)
class Geometry:
    """All that is between a scan and a network's input; saved beside exported weights."""

    contract: Contract
    patch: Triple  # voxels of one token, x, y, z
    frame: Frame = Frame()
    values: tuple[float, float] = (-1.0, 1.0)  # what the two ends of the HU window become in the network

    def __post_init__(self):
        if any(p <= 0 or c <= 0 or c % p for c, p in zip(self.contract.crop, self.patch, strict=True)):
            raise Refused(f"crop {self.contract.crop} is not a multiple of this encoder's patch {self.patch}")

    @property
    def grid(self) -> Triple:
        """Tokens along x, y, z."""
        return tuple(c // p for c, p in zip(self.contract.crop, self.patch, strict=True))

    def to_dict(self) -> dict:
        """Plain numbers and words, for json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: dict) -> Geometry:
        """What `to_dict` gave, also after json made lists of its tuples."""
        contract = Contract(**{k: tuple(v) if isinstance(v, list) else v for k, v in told["contract"].items()})
        return cls(contract, tuple(told["patch"]), Frame(**told["frame"]), tuple(told["values"]))


class Peer(nn.Module, ABC):
    """What the rest of the house asks of an encoder, for a network with a frame of its own.

    A network gives `states(own)`: after each block its tokens (B, N, D) in its own order, without class token; and may give `finish`.
    """

    def __init__(self, geometry: Geometry, *, width: int):
        super().__init__()
        self.geometry, self.width = geometry, width
        self.contract, self.patch, self.grid = geometry.contract, geometry.patch, geometry.grid

    @property
    def own_grid(self) -> Triple:
        return self.geometry.frame.own(self.grid)

    def enter(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 U V W"]:
        """A volume of this house, HU window in [-1, 1], in the network's axes and numbers.  Raises: Refused for another size than the crop."""
        if tuple(image.shape[2:]) != tuple(self.contract.crop):
            raise Refused(f"the volume has {tuple(image.shape[2:])} voxels, this encoder was loaded for {self.contract.crop}; load it with that crop")
        low, high = self.geometry.values
        own = self.geometry.frame.enter(image)
        return own if (low, high) == (-1, 1) else own * ((high - low) / 2) + (high + low) / 2

    @abstractmethod
    def states(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        """Tokens (B, N, D) after each block, in the network's own order, without class token."""

    def finish(self, state: Tensor) -> Tensor:
        """Last state to tokens: the final norm, where there is one."""
        return state

    def tokens(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Tokens of the last block after the final norm, nothing hidden, row-major x, y, z."""
        return self.geometry.frame.leave(self.finish(self.states(self.enter(image))[-1]), self.own_grid)

    def hidden(self, image: Float[Tensor, "B 1 X Y Z"], layers: tuple[int, ...]) -> list[Float[Tensor, "B N D"]]:
        """Tokens after the given blocks (0-based; -1 is the last), before any final norm."""
        states = self.states(self.enter(image))
        return [self.geometry.frame.leave(states[i], self.own_grid) for i in layers]


def count(grid: Sequence[int]) -> int:
    """Tokens of a grid."""
    return prod(int(g) for g in grid)
