"""Convolutional encoder: MONAI's 3-D ResNet-18 made so that Kinetics' published weights fill it, for recipes that hide no patches.

Source: the R3D-18 of Tran et al., "A closer look at spatiotemporal convolutions" (1711.11248), and torchvision's form of it; stage 1 of MPS-CT
(methods.md C). The network is MONAI's (`monai.networks.nets.resnet`, Apache-2.0). Axes: time, rows and columns of a video are z, y and x here, none
reversed. Differs: one channel; MPS-CT puts a fresh 2 x 2 x 2 convolution with stride 2 where this keeps the published stem.
Norms are over the volumes of one micro-batch of one process: several processes, or accumulation, give other losses than one large batch.
Cost (2026-11-23, LOG.md): at `base` three times the operations of the ViT that sees every patch, for 33 million parameters in place of 87.
"""

from __future__ import annotations

from math import prod

from jaxtyping import Float, Int
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.stages import on_grid, require_all, with_mean
from asapkit.types import Refused


class ResNet18(nn.Module):
    """Four stages of two blocks; the last has `width` features, each earlier one half of the next's. The published network: width 512.

    A place of the last map is 16 x 16 x 8 voxels, the patch at `base`; for other patches maps are read on the grid of the configuration. There is no
    class token: where one is asked for, it is the mean of the patch tokens. Positions enter at the borders alone, nothing comes after the last map.

    Raises: Refused where MONAI is not installed; ValueError for a width that is no multiple of 8.
    """

    def __init__(self, config: Config):
        super().__init__()
        try:
            from monai.networks.nets.resnet import ResNet
        except ImportError as error:
            raise Refused("encoder 'resnet18' needs MONAI: pip install monai") from error
        if config.width % 8:
            raise ValueError(f"width {config.width}: encoder 'resnet18' needs a multiple of 8")
        self.config = config
        self.grid, self.patch, self.width, self.contract = config.grid, config.patch, config.width, config.contract
        widths = [config.width // 8 * 2**n for n in range(4)]
        network = ResNet(
            "basic", [2, 2, 2, 2], widths, n_input_channels=1, conv1_t_size=(7, 7, 3), conv1_t_stride=(2, 2, 1), no_max_pool=True,
            feed_forward=False, bias_downsample=False,
        )  # fmt: skip
        self.stem = nn.Sequential(network.conv1, network.bn1, network.act)
        self.stages = nn.ModuleList((network.layer1, network.layer2, network.layer3, network.layer4))

    def maps(self, image: Float[Tensor, "B 1 X Y Z"]) -> list[Float[Tensor, "B _ _ _ _"]]:
        """What each stage gives, finest first."""
        x, found = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, image: Float[Tensor, "B 1 X Y Z"], visible: Int[Tensor, "B V"] | None = None) -> Float[Tensor, "B M D"]:
        """The mean of the patch tokens, and these.  Raises: Refused where some patches are to be left out."""
        require_all(visible, prod(self.grid), encoder="resnet18")
        return with_mean(self.tokens(image))

    def tokens(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Patch tokens: the last map, after its rectifier."""
        return on_grid(self.maps(image)[-1:], self.grid)[0]

    def hidden(self, image: Float[Tensor, "B 1 X Y Z"], layers: tuple[int, ...]) -> list[Float[Tensor, "B N _"]]:
        """The maps of the given stages (0-based; -1 is the last) on the grid, each with features of its own number."""
        maps = self.maps(image)
        return on_grid([maps[i] for i in layers], self.grid)
