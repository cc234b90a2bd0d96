"""What the house asks of every image encoder that a configuration may name beside its own."""

import pytest
import torch
from made import made_batch

from asapkit import checkpoint, train
from asapkit.config import Config
from asapkit.encoders import image_encoder
from asapkit.resnet import ResNet18
from asapkit.swin import Swin
from asapkit.train import recipe_module
from asapkit.types import Refused
from asapkit.vit3d import Encoder

pytestmark = pytest.mark.slow  # importing MONAI takes longer than `make check` has for encoders beside the ViT

KINDS = {"swin": (Swin, (12, 24, 96)), "resnet18": (ResNet18, (6, 12, 48))}  # class, and the widths of the first, second and last map at toy
SEES_ALL = {"ct_clip", "m3d_clip", "merlin", "scale_vlp", "sup_clip", "supervised"}
REFUSED = "encoder {!r}: this recipe needs the patches, layers or slices of 'vit'; set encoder=vit"


def toy(kind, **changes):
    return Config.at("toy", encoder=kind, **changes)


def test_the_vit_is_what_none_names():
    assert isinstance(image_encoder(Config.at("toy")), Encoder)
    with pytest.raises(ValueError, match="unknown encoder 'resnet'; there are vit, swin"):
        toy("resnet")


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_fields_and_maps_are_those_of_every_encoder(kind):
    config, (made, widths) = toy(kind), KINDS[kind]
    torch.manual_seed(0)
    encoder, image = image_encoder(config).eval(), made_batch(config).image
    assert isinstance(encoder, made)
    assert (encoder.grid, encoder.patch, encoder.width, encoder.contract) == (config.grid, config.patch, config.width, config.contract)
    tokens = encoder.tokens(image)
    assert tokens.shape == (3, config.patches, config.width)
    whole = encoder(image)
    assert torch.equal(whole[:, 1:], tokens) and torch.allclose(whole[:, 0], tokens.mean(1))
    assert [x.shape for x in encoder.hidden(image, (0, 1, -1))] == [(3, config.patches, width) for width in widths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", train.recipes())
def test_a_recipe_trains_it_or_refuses_it_in_one_line(recipe, kind):
    torch.manual_seed(0)
    refused = ""
    try:
        method = recipe_module(recipe).Method(toy(kind))
    except ValueError as error:
        refused = str(error)
    assert refused in ("", REFUSED.format(kind)) or (recipe == "sigvlp" and "an encoder of its own" in refused)
    assert (recipe in SEES_ALL) == (not refused)
    if refused:
        return
    losses = method(made_batch(toy(kind)))
    assert set(losses) == set(recipe_module(recipe).WEIGHTS) and all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)] == []


@pytest.mark.parametrize(("kind", "width", "multiple"), [("swin", 50, 4), ("resnet18", 52, 8)])
def test_what_it_cannot_do_is_said(kind, width, multiple):
    with pytest.raises(Refused, match=f"'{kind}' computes every patch: let the recipe see all of them"):
        recipe_module("supervised").Method(toy(kind), see=0.5)(made_batch(toy(kind)))
    with pytest.raises(ValueError, match=f"width {width}: encoder '{kind}' needs a multiple of {multiple}"):
        image_encoder(toy(kind, width=width, heads=2))
    for setting in ({"pool": 2}, {"attend": "slices"}):
        with pytest.raises(ValueError, match=f"encoder '{kind}' has neither"):
            checkpoint.make_method("ct_clip", toy(kind, **setting), {})


def test_an_encoder_that_belongs_to_one_recipe_is_refused_by_the_others():
    with pytest.raises(ValueError, match="'rotary' is that of recipe sigvlp"):
        checkpoint.make_method("m3d_clip", toy("rotary"), {})
    with pytest.raises(ValueError, match="'rotary': this recipe needs the patches"):
        checkpoint.make_method("mae", toy("rotary"), {})
    with pytest.raises(ValueError, match="an encoder of its own"):
        checkpoint.make_method("sigvlp", toy("swin"), {})
