"""The image encoder that a configuration names: one place, so that a run's config.json is enough to make its encoder again.

A recipe whose encoder is its own settles it in its `config` (`encoder`, `pool`, `attend`), which training saves.
"""

from __future__ import annotations

from torch import nn

from asapkit.config import Config
from asapkit.resnet import ResNet18
from asapkit.rotary import RotaryEncoder
from asapkit.swin import Swin
from asapkit.vit3d import Encoder

KINDS = {"vit": Encoder, "swin": Swin, "resnet18": ResNet18, "rotary": RotaryEncoder}


def image_encoder(config: Config) -> nn.Module:
    """A fresh encoder.  Raises: ValueError for a setting that only the ViT has."""
    if config.encoder != "vit" and (config.pool != 1 or config.attend != "volume"):
        raise ValueError(f"pool {config.pool}, attend {config.attend!r}: encoder {config.encoder!r} has neither; leave them at 1 and 'volume'")
    return KINDS[config.encoder](config)


def chosen_encoder(config: Config) -> nn.Module:
    """The same for a recipe that hides nothing and takes any encoder with a class token. One that hides patches makes an `Encoder` itself.

    Raises: ValueError for one that belongs to a recipe.
    """
    if config.encoder == "rotary":
        raise ValueError("encoder 'rotary' is that of recipe sigvlp; there are vit, swin, resnet18")
    return image_encoder(config)
