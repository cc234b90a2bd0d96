"""Attention within slices: which patches a block mixes, what becomes of the class token, and what is seen of a slice."""

import pytest
import torch
from made import made_batch

from asapkit.config import Config
from asapkit.masking import visible_in_slices, visible_patches
from asapkit.slices import apart, in_turn, slices_by_block, together
from asapkit.vit3d import Encoder, patchify, unpatchify

CONFIG = Config.at("toy", attend="slices", depth=4)
SLICES = CONFIG.grid[2]


def made_encoder(config: Config = CONFIG) -> Encoder:
    torch.manual_seed(0)
    return Encoder(config).eval()


def other_slice(image: torch.Tensor, config: Config, *, number: int) -> torch.Tensor:
    """The image with every voxel of one slice of patches turned over."""
    here = (torch.arange(config.patches) % config.grid[2] == number).unsqueeze(-1)
    patches = patchify(image, config.patch)
    return unpatchify(torch.where(here, -patches, patches), config.grid, config.patch)


@pytest.mark.parametrize(("depth", "whole"), [(1, [0]), (2, [1]), (4, [0, 3]), (6, [2, 5]), (12, [2, 5, 8, 11])])
def test_every_third_block_sees_the_volume_and_the_last_always_does(depth, whole):
    assert [n for n, slices in enumerate(slices_by_block(depth, 7)) if slices == 1] == whole
    assert set(slices_by_block(depth, 7)) <= {1, 7}


@pytest.mark.parametrize("first", [False, True])
def test_rows_hold_one_slice_each_and_come_together_again(first):
    x = torch.randn(2, 1 + 12, 5)
    rows = apart(x, 4, first=first)
    for b in range(2):
        for s in range(4):
            own = x[b, 1 + 3 * s : 4 + 3 * s] if first else x[b, 1 + s :: 4]
            assert torch.equal(rows[4 * b + s], torch.cat([x[b, :1], own]))
    assert torch.allclose(together(rows, 4, first=first), x)
    rows[:, 0] = torch.arange(8.0).unsqueeze(1)
    assert together(rows, 4, first=first)[:, 0, 0].tolist() == [1.5, 5.5]


def test_the_encoder_beside_a_loop_over_slices_with_a_class_token_each():
    encoder, image = made_encoder(), made_batch(CONFIG, volumes=1).image
    with torch.inference_mode():
        x, cls = encoder.stem_tokens(image)[0], [encoder.cls_token[0, 0]] * SLICES
        for number, block in enumerate(encoder.blocks):
            if number in (0, 3):
                out = block(torch.cat([torch.stack(cls).mean(0)[None], x])[None])[0]
                cls, x = [out[0]] * SLICES, out[1:]
                continue
            rows = [block(torch.cat([cls[s][None], x[s::SLICES]])[None])[0] for s in range(SLICES)]
            cls, x = [row[0] for row in rows], torch.stack([row[1:] for row in rows], dim=1).flatten(0, 1)
        found = encoder.layers(image)[-1][0]
        assert torch.allclose(found, torch.cat([torch.stack(cls).mean(0)[None], x]), atol=1e-5)
        assert torch.equal(encoder.tokens(image), encoder.norm(encoder.layers(image)[-1])[:, 1:])


@pytest.mark.parametrize("number", range(SLICES))
def test_a_block_within_slices_mixes_none_and_the_next_whole_one_does(number):
    config = Config.at("toy", attend="slices")  # two blocks: within slices, then whole
    encoder, image = made_encoder(config), made_batch(config).image
    with torch.inference_mode():
        one, two = (encoder.hidden(x, (0, 1)) for x in (image, other_slice(image, config, number=number)))
    within = torch.arange(config.patches) % SLICES == number
    assert torch.equal(one[0][:, ~within], two[0][:, ~within]) and not torch.equal(one[0][:, within], two[0][:, within])
    assert (one[1] - two[1]).abs().amax(-1).min() > 1e-6


def test_attention_within_slices_is_what_the_block_adds_and_zero_elsewhere():
    encoder, image = made_encoder().double(), made_batch(CONFIG, volumes=2).image.double()
    patches = [0, 6, 41, CONFIG.patches - 1]
    share, added = encoder.attention(image, patches=patches), encoder.attention_outputs(image)
    assert share.shape == (2, CONFIG.depth, CONFIG.heads, len(patches), CONFIG.patches)
    for number, (block, (rows, slices)) in enumerate(zip(encoder.blocks, encoder.steps(encoder.stem_tokens(image)), strict=False)):
        value = block.attn.qkv(block.norm1(rows)).chunk(3, dim=-1)[2].unflatten(-1, (CONFIG.heads, -1))
        for n, patch in enumerate(patches):
            of = patch % slices
            own = torch.arange(CONFIG.patches) % slices == of
            seen = share[:, number, :, n]
            assert (seen[..., ~own] == 0).all() and (seen[..., own] > 0).all() and (seen.sum(-1) < 1).all()
            here = value[of::slices]  # the rows of this slice, one a volume
            out = torch.einsum("bhn,bnhe->bhe", seen[..., own], here[:, 1:]) + (1 - seen.sum(-1)).unsqueeze(-1) * here[:, 0]
            torch.testing.assert_close(block.attn.proj(out.flatten(1)), added[number][:, patch])


def test_the_patches_seen_are_the_lowest_draws_of_every_slice_in_turn():
    order = torch.rand(2, CONFIG.patches, generator=torch.Generator().manual_seed(0))
    visible = visible_in_slices(order, slices=SLICES, visible=3)
    for b in range(2):
        lowest = [sorted(sorted(range(s, CONFIG.patches, SLICES), key=lambda p: order[b, p].item())[:3]) for s in range(SLICES)]
        assert visible[b].tolist() == [lowest[s][k] for k in range(3) for s in range(SLICES)]
    last = torch.rand(2, CONFIG.patches) < 0.8
    kept = visible_in_slices(order, slices=SLICES, visible=3, last=last)
    for b in range(2):
        for s in range(SLICES):
            first = [p for p in range(s, CONFIG.patches, SLICES) if not last[b, p]]
            assert set(sorted(first, key=lambda p: order[b, p].item())[:3]) <= set(kept[b].tolist())
    assert in_turn(visible, SLICES) and not in_turn(visible.sort(1).values, SLICES) and not in_turn(visible[:, :-1], SLICES)


def test_seeing_every_patch_of_every_slice_is_seeing_the_volume_and_uneven_slices_are_refused():
    encoder, batch = made_encoder(), made_batch(CONFIG)
    everything = visible_in_slices(batch.patch_order, slices=SLICES, visible=CONFIG.patches // SLICES)
    with torch.inference_mode():
        assert torch.allclose(encoder(batch.image), encoder(batch.image, everything), atol=1e-6)
        with pytest.raises(ValueError, match="attend 'slices' needs as many visible patches in every slice"):
            encoder(batch.image, visible_patches(batch.patch_order, visible=CONFIG.visible))
    with pytest.raises(ValueError, match="unknown attend 'planes'; there are volume, slices"):
        Config.at("toy", attend="planes")
