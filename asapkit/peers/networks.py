"""Networks by the kind that an export names."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from asapkit.config import Config
from asapkit.encoders import image_encoder
from asapkit.peers.frame import Geometry
from asapkit.types import Refused

KINDS = {
    "vit": "vit.ViT",
    "hlip": "hlip.HLIP",
    "siglip": "siglip.SigLIP3D",
    "ctvit": "ctvit.CTViT",
    "i3d": "convolutional.I3D",
    "resnet": "convolutional.ResNet3D",
    "unet": "convolutional.Contracting",
    "bert": "text.Bert",
}


def make(kind: str, settings: dict) -> nn.Module:
    """An encoder with fresh weights.  Raises: Refused for an unknown kind, ValueError for settings that it does not have."""
    settings = dict(settings)
    if kind == "house":
        values = dict(settings["config"])
        return image_encoder(Config.at(values.pop("scale"), **values))
    if kind not in KINDS:
        raise Refused(f"unknown kind of encoder {kind!r}; there are house, {', '.join(KINDS)}")
    module, name = KINDS[kind].split(".")
    if "geometry" in settings:
        settings["geometry"] = Geometry.from_dict(settings["geometry"])
    try:
        return getattr(import_module(f"asapkit.peers.{module}"), name)(**settings)
    except TypeError as error:
        raise ValueError(f"encoder of kind {kind}: {error}") from error
