"""Convolutional encoders of other methods: I3D-ResNet-152 (Merlin), dilated ResNet-18 (ViSD-Boost), ResNet-18 of videos (this house's own network),
the contracting half of a U-Net (PCRLv2).

Tokens are the places of the last feature map. `hidden` gives the map of an earlier stage, averaged over the grid of the last one, so that all stages
speak of the same places; its number of features is that stage's own.
Source: Merlin (2406.06512), inflation after Carreira and Zisserman (1705.07750); MedicalNet (1904.00625); PCRLv2 (2301.00772); the repositories named
in `families`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from asapkit.config import Config
from asapkit.peers.building import Built, State, sized
from asapkit.peers.frame import Geometry, Peer, Triple
from asapkit.types import Refused


class Convolutional(Peer):
    """Stages of feature maps."""

    @abstractmethod
    def maps(self, own: Float[Tensor, "B 1 U V W"]) -> Iterable[Float[Tensor, "B C u v w"]]:
        """The maps of the stages, finest first."""

    def states(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        return [F.adaptive_avg_pool3d(found, self.own_grid).flatten(2).transpose(1, 2) for found in self.maps(own)]


def stages_of(state: State, names: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage.  Raises: Refused for a stage without any, or with a gap."""
    counted = []
    for name in names:
        numbers = {int(n.split(".")[1]) for n in state if n.startswith(f"{name}.")}
        if not numbers or numbers != set(range(len(numbers))):
            raise Refused(f"{name} has blocks {sorted(numbers)} instead of 0, 1, 2 ...")
        counted.append(len(numbers))
    return tuple(counted)


# -------------------------------------------------------------------------------------------------------------------- Merlin


class Bottleneck(nn.Module):
    """1, 3 x 3 x 3 (with the stride), 1; four times as wide at its end."""

    def __init__(self, into: int, inner: int, *, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(into, inner, 1, bias=False), nn.BatchNorm3d(inner)
        self.conv2, self.bn2 = nn.Conv3d(inner, inner, 3, stride=stride, padding=1, bias=False), nn.BatchNorm3d(inner)
        self.conv3, self.bn3 = nn.Conv3d(inner, 4 * inner, 1, bias=False), nn.BatchNorm3d(4 * inner)
        fits = stride == 1 and into == 4 * inner
        self.downsample = None if fits else nn.Sequential(nn.Conv3d(into, 4 * inner, 1, stride=stride, bias=False), nn.BatchNorm3d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class I3D(Convolutional):
    """A 2-D bottleneck ResNet inflated along z: patch 32 x 32 x 16, three copies of the only channel."""

    def __init__(self, geometry: Geometry, *, stem: int, blocks: Sequence[int]):
        inner = [stem * 2**n for n in range(len(blocks))]
        super().__init__(geometry, width=4 * inner[-1])
        self.conv1 = nn.Conv3d(3, stem, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(stem)
        into = stem
        for number, (count, channels) in enumerate(zip(blocks, inner, strict=True), start=1):
            layer = nn.Sequential()
            for k in range(count):
                layer.append(Bottleneck(into, channels, stride=2 if k == 0 and number > 1 else 1))
                into = 4 * channels
            self.add_module(f"layer{number}", layer)

    def maps(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(own.expand(-1, 3, -1, -1, -1)))), 3, stride=2, padding=1)
        found = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            found.append(x)
        return found


def i3d(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """Merlin's image tower, or another of its layout (Astra)."""
    blocks = stages_of(state, ("layer1", "layer2", "layer3", "layer4"))
    return Built("i3d", {"geometry": sized(geometry, crop=crop).to_dict(), "stem": len(state["conv1.weight"]), "blocks": list(blocks)}, state)


# ---------------------------------------------------------------------------------------------------------------- ViSD-Boost


class Basic(nn.Module):
    """Two 3 x 3 x 3 convolutions; where the shape changes, the shortcut is subsampled and filled with zero channels (type A)."""

    def __init__(self, into: int, out: int, *, stride: int, dilation: int):
        super().__init__()
        self.conv1 = nn.Conv3d(into, out, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.conv2 = nn.Conv3d(out, out, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm3d(out), nn.BatchNorm3d(out)
        self.stride, self.more = stride, out - into

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.more)))


class ResNet3D(Convolutional):
    """MedicalNet's ResNet, stages 3 and 4 dilated by 2 and 4; each stage projected to the same width. Patch 32 x 32 x 16."""

    STRIDES, DILATIONS = (1, 2, 2, 2), (1, 1, 2, 4)

    def __init__(self, geometry: Geometry, *, stem: int, blocks: Sequence[int], width: int):
        super().__init__(geometry, width=width)
        self.conv1, self.bn1 = nn.Conv3d(1, stem, 7, stride=(1, 2, 2), padding=3, bias=False), nn.BatchNorm3d(stem)
        into = stem
        for number, (count, stride, dilation) in enumerate(zip(blocks, self.STRIDES, self.DILATIONS, strict=True), start=1):
            out, layer = stem * 2 ** (number - 1), nn.Sequential()
            for k in range(count):
                layer.append(Basic(into, out, stride=stride if k == 0 else 1, dilation=dilation))
                into = out
            self.add_module(f"layer{number}", layer)
            self.add_module(f"proj{number}", nn.Conv3d(out, width, 1))

    def maps(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(own))), 3, stride=2, padding=1)
        found = []
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
            found.append(self.get_submodule(f"proj{number}")(x))
        return found


def resnet(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """ViSD-Boost's image encoder."""
    settings = {
        "stem": len(state["conv1.weight"]), "blocks": list(stages_of(state, ("layer1", "layer2", "layer3", "layer4"))),
        "width": len(state["proj4.weight"]),
    }  # fmt: skip
    return Built("resnet", {"geometry": sized(geometry, crop=crop).to_dict()} | settings, state)


# -------------------------------------------------------------------------------------------------------------------- R3D-18


def video(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """torchvision's r3d_18 as this house's `resnet.ResNet18`, which it fills: kernels turned from time, rows, columns to x, y, z, colours summed."""
    wanted = sized(geometry, crop=crop)
    blocks = [len({name.split(".")[2] for name in state if name.startswith(f"stages.{n}.")}) for n in range(4)]
    if blocks != [2, 2, 2, 2]:
        raise Refused(f"{', '.join(map(str, blocks))} blocks in its stages, where a ResNet-18 has 2, 2, 2, 2")
    state.update({name: value.permute(0, 1, 4, 3, 2).contiguous() for name, value in state.items() if value.ndim == 5})
    colours, width = state["stem.0.weight"].shape[1], len(state["stages.3.1.conv2.weight"])
    state["stem.0.weight"] = state["stem.0.weight"].sum(1, keepdim=True)
    adapted = {"every kernel": "turned from time, rows, columns to x, y, z", "stem.0.weight": f"its {colours} colours summed to one"}
    counters = [name.replace("running_var", "num_batches_tracked") for name in state if name.endswith("running_var")]
    if not any(name in state for name in counters):  # files older than these counters, which no result depends on
        state.update({name: torch.zeros((), dtype=torch.long, device=state["stem.0.weight"].device) for name in counters})
        adapted["num_batches_tracked"] = "zeros, the file is older than these counters"
    config = Config.at("base", encoder="resnet18", crop=wanted.contract.crop, width=width)
    return Built("house", {"config": asdict(config)}, state, adapted)


# -------------------------------------------------------------------------------------------------------------------- PCRLv2


class Contracting(Convolutional):
    """Two convolutions a level, halved between levels by maximum. Patch 8 x 8 x 8 with four levels."""

    def __init__(self, geometry: Geometry, *, channels: Sequence[Sequence[int]]):
        super().__init__(geometry, width=channels[-1][2])
        self.levels = nn.ModuleList(
            nn.Sequential(*(nn.ModuleDict({"conv": nn.Conv3d(a, b, 3, padding=1), "norm": nn.BatchNorm3d(b)}) for a, b in ((into, mid), (mid, out))))
            for into, mid, out in channels
        )

    def maps(self, own: Float[Tensor, "B 1 U V W"]) -> list[Tensor]:
        x, found = own, []
        for number, level in enumerate(self.levels):
            x = F.max_pool3d(x, 2) if number else x
            for step in level:
                x = F.relu(step["norm"](step["conv"](x)))
            found.append(x)
        return found


def unet(state: State, *, geometry: Geometry, crop: Triple | None = None) -> Built:
    """PCRLv2's encoder."""
    channels = []
    for level in range(4):
        first, second = (state[f"levels.{level}.{k}.conv.weight"] for k in (0, 1))
        channels.append([first.shape[1], first.shape[0], second.shape[0]])
    return Built("unet", {"geometry": sized(geometry, crop=crop).to_dict(), "channels": channels}, state)
