"""Patch-local statistics of CT patches, and a small network on them: what a linear embedding of voxels learns too slowly from a few hundred scans.

A patch is described by the histogram of its HU values, the size of its HU steps along each axis, its mean and its spread. The order of the voxels
is lost but for the steps; the linear embedding beside it keeps the order. One patch at a time: a hidden voxel cannot reach a visible patch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

EDGES_HU = (
    -975, -940, -905, -870, -830, -780, -720, -640, -550, -450, -350, -250, -160, -110, -75, -40, -10, 10, 30, 50, 75, 100, 130, 170, 220, 300,
    400, 600, 850,
)  # fmt: skip
"""Between bins: fine in lung, fat, soft tissue and fluid, coarse in bone and metal."""

STEPS = ("x", "y", "z")
NAMES = (
    tuple(f"bin {n}" for n in range(len(EDGES_HU) + 1))
    + tuple(f"{how} step {axis}" for axis in STEPS for how in ("mean", "largest"))
    + ("mean", "sd")
)
"""The statistics in order."""


MEAN = (
    0.131, 0.0409, 0.0367, 0.0444, 0.0725, 0.118, 0.166, 0.159, 0.118, 0.101, 0.0964, 0.1, 0.106, 0.116, 0.301, 0.157, 0.138, 0.143, 0.16, 0.204,
    0.175, 0.085, 0.0803, 0.0716, 0.0715, 0.0835, 0.0505, 0.00481, 0.000471, 0.000233, 0.0536, 0.291, 0.064, 0.342, 0.0442, 0.234, -0.289, 0.206,
)  # fmt: skip
SD = (
    0.258, 0.0796, 0.0723, 0.0902, 0.136, 0.184, 0.205, 0.179, 0.11, 0.0897, 0.0845, 0.0851, 0.0886, 0.0917, 0.264, 0.114, 0.113, 0.128, 0.142,
    0.198, 0.195, 0.112, 0.119, 0.107, 0.11, 0.133, 0.0994, 0.0267, 0.01, 0.01, 0.0426, 0.18, 0.0468, 0.204, 0.0466, 0.187, 0.318, 0.131,
)  # fmt: skip
"""Mean and standard deviation of the statistics over body patches (28 mm) of 96 phantom volumes at scale `small`; network units."""


class StatisticsStem(nn.Module):
    """Standardised patch statistics -> Linear -> GELU -> Linear.  `MEAN` and `SD` play the part of ImageNet's channel means; weights keep them.

    They were measured in the window -1000 to 1000 HU; another window moves the bins with it and leaves the steps, mean and spread in its own units.
    """

    def __init__(self, *, patch: tuple[int, int, int], width: int, window_hu: tuple[float, float]):
        super().__init__()
        low, high = window_hu
        self.patch = patch
        self.register_buffer("edges", (torch.tensor(EDGES_HU) - low) * (2 / (high - low)) - 1, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("sd", torch.tensor(SD))
        self.fc1 = nn.Linear(len(NAMES), 64)
        self.fc2 = nn.Linear(64, width)

    def forward(self, patches: Float[Tensor, "B V P"]) -> Float[Tensor, "B V D"]:
        x = (statistics(patches, self.edges, patch=self.patch) - self.mean) / self.sd
        return self.fc2(F.gelu(self.fc1(x.clamp(-20, 20).to(patches.dtype))))


@torch.no_grad()
def statistics(patches: Float[Tensor, "B V P"], edges: Float[Tensor, " E"], *, patch: tuple[int, int, int]) -> Float[Tensor, "B V S"]:
    """Per patch: square root of the share of voxels in each bin; mean and largest absolute step along x, y, z; mean and standard deviation.

    patches and edges in network units, voxels row-major x, y, z.  The square root makes a few bright voxels count (Hellinger's distance).
    """
    voxels, bins = patches.float(), len(edges) + 1
    row = torch.arange(voxels[..., 0].numel(), device=voxels.device).view(*voxels.shape[:2], 1) * bins
    counts = torch.bincount((torch.bucketize(voxels, edges, right=True) + row).flatten(), minlength=row.numel() * bins)
    share = counts.view(*voxels.shape[:2], bins) / voxels.shape[-1]
    cube = voxels.unflatten(-1, patch)
    steps = [cube.diff(dim=axis).abs().flatten(2) for axis in (-3, -2, -1)]
    rest = [value for step in steps for value in (step.mean(-1), step.amax(-1))] + [voxels.mean(-1), voxels.std(-1)]
    return torch.cat([share.sqrt(), torch.stack(rest, dim=-1)], dim=-1)
