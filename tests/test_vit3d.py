"""Patches, positions, and that a hidden voxel never reaches a visible feature."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made import made_batch

from asapkit.config import Config
from asapkit.masking import hidden_indices, hidden_patches, visible_patches
from asapkit.vit3d import Decoder, Encoder, load_mae_blocks, patches_at, patchify, sincos_positions, take, unpatchify


def test_patches_are_row_major_x_y_z_by_loop():
    image, patch = torch.randn(1, 1, 6, 4, 6), (3, 2, 2)
    patches = patchify(image, patch)
    n = 0
    for x in range(2):
        for y in range(2):
            for z in range(3):
                block = image[0, 0, 3 * x : 3 * x + 3, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
                assert torch.equal(patches[0, n], block.reshape(-1))
                n += 1
    assert torch.equal(unpatchify(patches, (2, 2, 3), patch), image)


def test_positions_by_their_formula_and_all_distinct():
    grid, width = (3, 2, 4), 50
    code = sincos_positions(grid, width)
    frequencies = 1.0 / 10000 ** (np.arange(8) / 8)
    for x, y, z in ((0, 0, 0), (2, 1, 3), (1, 0, 2)):
        expected = np.concatenate([f(axis * frequencies) for axis in (x, y, z) for f in (np.sin, np.cos)])
        assert np.allclose(code[(x * 2 + y) * 4 + z, :48], expected, atol=1e-6)
    assert (code[:, 48:] == 0).all()
    assert len({tuple(row.tolist()) for row in code}) == 24


@pytest.mark.parametrize("stem", ["linear", "statistics"])
def test_hidden_voxels_never_reach_visible_features(stem):
    config = Config.at("toy", stem=stem)
    batch = made_batch(config)
    torch.manual_seed(0)
    encoder = Encoder(config)
    visible = visible_patches(batch.patch_order, visible=config.visible)
    image = batch.image.clone().requires_grad_()
    encoder(image, visible).square().sum().backward()
    reached = patchify(image.grad, config.patch).abs().sum(-1) > 0
    assert torch.equal(reached, ~hidden_patches(visible, config.patches))


@pytest.mark.parametrize("stem", ["linear", "statistics"])
def test_other_values_in_hidden_patches_change_no_visible_feature(stem):
    config = Config.at("toy", stem=stem)
    batch = made_batch(config)
    encoder = Encoder(config).eval()
    visible = visible_patches(batch.patch_order, visible=config.visible)
    hidden = hidden_patches(visible, config.patches).unsqueeze(-1)
    patches = patchify(batch.image, config.patch)
    other = unpatchify(torch.where(hidden, -patches, patches), config.grid, config.patch)
    assert torch.equal(encoder(batch.image, visible), encoder(other, visible))


@pytest.mark.parametrize("stem", ["linear", "statistics"])
def test_the_visible_subset_is_the_whole_when_everything_is_visible(stem):
    config = Config.at("toy", stem=stem)
    batch = made_batch(config)
    encoder = Encoder(config).eval()
    everything = torch.arange(config.patches).expand(3, -1)
    assert torch.allclose(encoder(batch.image), encoder(batch.image, everything), atol=1e-6)
    assert torch.allclose(encoder.tokens(batch.image), encoder(batch.image)[:, 1:])
    assert torch.equal(encoder.hidden(batch.image, (-1,))[0], encoder.layers(batch.image)[-1][:, 1:])


def test_the_decoder_puts_visible_tokens_back_in_their_places():
    config = Config.at("toy")
    decoder = Decoder(config)
    for block in decoder.blocks:  # blocks that do nothing
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.mlp.fc2.weight)
    visible = torch.tensor([[3, 7, 11]])
    latent = torch.randn(1, 4, config.width)
    _, states = decoder(latent, visible)
    placed = states[-1] - decoder.positions
    assert torch.allclose(take(placed, visible), decoder.embed(latent)[:, 1:], atol=1e-5)
    others = [n for n in range(config.patches) if n not in (3, 7, 11)]
    assert torch.allclose(placed[0, others], decoder.mask_token[0].expand(len(others), -1), atol=1e-5)


def test_mae_blocks_are_copied_whole_or_not_at_all():
    config = Config.at("toy")
    encoder, other = Encoder(config), Encoder(config)
    state = {k: v for k, v in other.state_dict().items() if k.startswith(("blocks.", "norm."))} | {"patch_embed.proj.weight": torch.zeros(1)}
    assert load_mae_blocks(encoder, state) == ["patch_embed.proj.weight"]
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, other.blocks[1].mlp.fc2.weight)
    del state["blocks.0.attn.qkv.bias"]
    with pytest.raises(ValueError, match="lack blocks.0.attn.qkv.bias"):
        load_mae_blocks(Encoder(config), state)


def test_patches_at_are_rows_of_patchify():
    config = Config.at("toy")
    image = torch.randn(2, 1, *config.crop)
    index = torch.rand(2, config.patches).argsort(1)[:, :7]
    assert torch.equal(patches_at(image, config.patch, index), take(patchify(image, config.patch), index))


def test_a_decoder_asked_for_some_patches_gives_the_same_numbers_and_gradients():
    torch.manual_seed(0)
    config = Config.at("toy")
    decoder, latent = Decoder(config), torch.randn(2, config.visible + 1, config.width)
    visible = torch.rand(2, config.patches).argsort(1)[:, : config.visible].sort(1).values
    hidden = hidden_indices(visible, config.patches)
    gradients = []
    for only in (None, hidden):
        predicted, states = decoder(latent, visible, only=only)
        predicted, last = (take(x, hidden) if only is None else x for x in (predicted, states[-1]))
        predicted.square().sum().backward()
        gradients.append([predicted, last, states[0], *(p.grad.clone() for p in decoder.parameters())])
        decoder.zero_grad()
    for whole, some in zip(*gradients, strict=True):
        assert torch.allclose(some, whole, atol=1e-4, rtol=1e-4)


def test_attention_of_a_patch_by_its_formula():
    torch.manual_seed(0)
    config = Config.at("toy")
    encoder = Encoder(config).double()
    image = torch.randn(2, 1, *config.crop, dtype=torch.float64)
    block, x = encoder.blocks[1], encoder.layers(image)[1]
    q, k, v = block.attn.qkv(block.norm1(x)).split(config.width, dim=-1)
    size = config.width // config.heads
    added = torch.zeros(2, config.width, dtype=torch.float64)
    for head in range(config.heads):
        at = slice(head * size, (head + 1) * size)
        share = ((q[:, 8:9, at] * k[..., at]).sum(-1) / size**0.5).softmax(-1)
        torch.testing.assert_close(encoder.attention(image, patches=[3, 7])[:, 1, head, 1], share[:, 1:])
        added[:, at] = (share.unsqueeze(-1) * v[..., at]).sum(1)
    torch.testing.assert_close(block.attn.proj(added), encoder.attention_outputs(image)[1][:, 7])
    for wrong in (config.patches, -1):
        with pytest.raises(IndexError, match="there are"):
            encoder.attention(image, patches=[0, wrong])


def test_a_softened_decoder_starts_at_the_middle_of_the_window_and_lets_positions_through():
    torch.manual_seed(0)
    config = Config.at("toy", decoder_init=0.01)
    decoder, visible = Decoder(config), visible_patches(torch.rand(1, config.patches), visible=config.visible)
    predicted, states = decoder(torch.randn(1, 1 + config.visible, config.width), visible)
    assert predicted.abs().mean() < 0.02
    plain, _ = Decoder(Config.at("toy"))(torch.randn(1, 1 + config.visible, config.width), visible)
    assert plain.abs().mean() > 0.2
    hidden = hidden_indices(visible, config.patches)
    start = decoder.mask_token[0] + decoder.positions
    assert torch.allclose(states[-1][0, hidden[0]], start[hidden[0]], atol=0.1)


@pytest.mark.parametrize("stem", ["linear", "statistics"])
def test_an_encoder_that_averages_sees_the_crop_on_the_same_grid_at_half_its_resolution(stem):
    torch.manual_seed(0)
    config = Config.at("toy", stem=stem)
    encoder, image = Encoder(replace(config, pool=2)).eval(), torch.rand(2, 1, *config.crop)
    assert encoder.grid == config.grid and encoder.patch == config.patch and encoder.contract == config.contract
    assert encoder.embed.in_features * 8 == Encoder(config).embed.in_features
    coarse = torch.zeros(2, 1, *(n // 2 for n in config.crop))
    for x in range(2):
        for y in range(2):
            for z in range(2):
                coarse += image[:, :, x::2, y::2, z::2] / 8
    half = Encoder(replace(config, crop=tuple(n // 2 for n in config.crop), patch=tuple(n // 2 for n in config.patch))).eval()
    half.load_state_dict(encoder.state_dict())
    assert torch.allclose(encoder.tokens(image), half.tokens(coarse), atol=1e-5)
    visible = torch.tensor([[0, 7, 30], [2, 3, 79]])
    assert torch.allclose(encoder(image, visible), half(coarse, visible), atol=1e-5)
    assert torch.allclose(encoder.hidden(image, (0,))[0], half.hidden(coarse, (0,))[0], atol=1e-5)


def test_a_patch_that_cannot_be_averaged_is_named():
    with pytest.raises(ValueError, match=r"patch \(12, 12, 6\): give multiples of 4"):
        Encoder(Config.at("toy", pool=4))
    with pytest.raises(ValueError, match="at least 4: the encoder averages 2 voxels"):
        Encoder(Config.at("toy", patch=(12, 12, 2), stem="statistics", pool=2))


def test_a_decoder_reads_tokens_of_another_width():
    config = Config.at("toy")
    decoder, visible = Decoder(config, width=20), visible_patches(torch.rand(1, config.patches), visible=config.visible)
    predicted, _ = decoder(torch.randn(1, 1 + config.visible, 20), visible)
    assert predicted.shape == (1, config.patches, 12 * 12 * 6)
