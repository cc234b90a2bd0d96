"""Places by rotation: only how far apart two tokens are counts; lengths are kept; any depth of scan is encoded."""

import math

import pytest
import torch
from made import made_batch

from asapkit import checkpoint, hub
from asapkit.config import Config
from asapkit.masking import hidden_patches, visible_patches
from asapkit.peers import reading
from asapkit.rotary import RotaryEncoder, filled, frequencies, turning
from asapkit.types import Refused
from asapkit.vit3d import Encoder, patchify, take

TOY = Config.at("toy")
GRID = (3, 2, 4)


def scores(q, k, turn):
    return turn(q) @ turn(k).mT


def test_the_axial_turn_by_a_loop():
    """Heads of 64: twelve pairs for x, twelve for y, eight for z; pair (r, r + 32) by its place times base^(-r' / n)."""
    q = torch.randn(1, 1, 24, 64, dtype=torch.float64)
    turned = turning(frequencies(64, base=1000.0), GRID)(q)
    for n, (x, y, z) in enumerate((x, y, z) for x in range(3) for y in range(2) for z in range(4)):
        for r in range(32):
            place, rank, count = (x, r, 12) if r < 12 else (y, r - 12, 12) if r < 24 else (z, r - 24, 8)
            angle = place * 1000.0 ** (-rank / count)
            a, b = q[0, 0, n, r].item(), q[0, 0, n, r + 32].item()
            assert turned[0, 0, n, r].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
            assert turned[0, 0, n, r + 32].item() == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


def test_videorope_has_one_ladder_x_and_y_in_turns_and_z_goes_along():
    angles = frequencies(64, base=10000.0, mode="videorope")
    for r in range(32):
        f = 10000.0 ** (-r / 32)
        axis = 2 if r >= 24 else r % 2
        assert angles[2, r].item() == pytest.approx(f, rel=1e-6)
        for other in (0, 1):
            assert angles[other, r].item() == pytest.approx(f if other == axis else 0.0, rel=1e-6)


@pytest.mark.parametrize("mode", ["axial", "videorope"])
@pytest.mark.parametrize("base", [1000.0, 10000.0])
@pytest.mark.parametrize("shift", [(0, 0, 10), (0, 0, 1000), (5, 7, 100)])
def test_scores_forget_a_common_shift_and_lengths_are_kept(mode, base, shift):
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 24, 64)
    angles = frequencies(64, base=base, mode=mode)
    here, there = turning(angles, GRID), turning(angles, GRID, start=shift)
    assert not torch.allclose(here(q), there(q), atol=0.1)
    plain = scores(q, k, here)
    assert (scores(q, k, there) - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.allclose(here(q).norm(dim=-1), q.norm(dim=-1), rtol=1e-5)
    assert not torch.allclose(plain, q @ k.mT, atol=0.1)


def test_every_axis_moves_scores():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 24)
    at = {axis: turning(frequencies(24), (1, 1, 1), start=tuple(int(a == axis) for a in range(3))) for axis in range(3)}
    origin = turning(frequencies(24), (1, 1, 1))
    moved = {(at[axis](q) @ origin(k).mT).item() for axis in range(3)} | {(q @ k.mT).item()}
    assert len({round(m, 4) for m in moved}) == 4


@pytest.mark.parametrize(("how", "says"), [({"mode": "released"}, "rope 'released': there are axial, videorope"), ({"base": 1.0}, "rope_base 1.0")])
def test_what_cannot_be_turned_is_named(how, says):
    with pytest.raises(ValueError, match=says):
        frequencies(24, **how)
    for head in (4, 7):
        with pytest.raises(ValueError, match=f"width / heads {head}"):
            frequencies(head)


@pytest.mark.parametrize(
    ("slices", "expected"), [(6, "012345"), (7, "012345623456"), (4, "012323"), (2, "010101"), (1, "000000"), (11, "0123456789aa")]
)
def test_repeat_padding_shows_the_last_slices_again(slices, expected):
    image = torch.arange(float(slices)).expand(2, 1, 3, 2, slices)
    assert filled(image, 6)[1, 0, 2, 1].tolist() == [int(c, 16) for c in expected]
    zero = filled(image, 6, padding="zero")[0, 0, 0, 0]
    assert zero.tolist() == list(range(slices)) + [0] * (-slices % 6)
    with pytest.raises(ValueError, match="padding 'mirror': there are repeat, zero"):
        filled(image, 6, padding="mirror")


def test_one_slice_again_is_the_same_slice_everywhere_and_zeros_are_not():
    torch.manual_seed(0)
    image = made_batch(TOY).image[..., :1]
    thick = image.expand(-1, -1, -1, -1, TOY.patch[2])
    repeat, zero = (RotaryEncoder(TOY, padding=padding).eval() for padding in ("repeat", "zero"))
    zero.load_state_dict(repeat.state_dict())
    assert torch.equal(repeat.tokens(image), repeat.tokens(thick))
    assert not torch.allclose(zero.tokens(image), repeat.tokens(image), atol=1e-3)
    assert torch.equal(zero.tokens(thick), repeat.tokens(thick))


@pytest.mark.parametrize("depth", [1, 5, 6, 24, 72, 75])
def test_any_depth_is_encoded_up_to_three_times_the_trained_one_and_beyond(depth):
    torch.manual_seed(0)
    encoder = RotaryEncoder(TOY)
    image = torch.rand(1, 1, *TOY.crop[:2], depth) * 2 - 1
    tokens = encoder.tokens(image)
    layers = math.ceil(depth / TOY.patch[2])
    assert tokens.shape == (1, 20 * layers, TOY.width) and torch.isfinite(tokens).all()
    tokens.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    with pytest.raises(ValueError, match="its depth is free"):
        encoder.tokens(image[:, :, :-1])


def test_a_chunk_has_the_same_tokens_wherever_it_lies():
    torch.manual_seed(0)
    encoder = RotaryEncoder(TOY).double().eval()
    image = torch.rand(1, 1, *TOY.crop, dtype=torch.float64)
    here = encoder.turn((5, 4, 4))
    later = turning(encoder.frequencies, (5, 4, 4), start=(0, 0, 700))
    x = encoder.stem_tokens(image)
    assert torch.allclose(encoder.deepen(x, turn=here)[-1], encoder.deepen(x, turn=later)[-1], atol=1e-5)
    other = turning(encoder.frequencies * 2, (5, 4, 4))
    assert not torch.allclose(encoder.deepen(x, turn=here)[-1], encoder.deepen(x, turn=other)[-1], atol=1e-3)


def test_the_encoder_keeps_the_contract_of_the_house():
    torch.manual_seed(0)
    encoder, batch = RotaryEncoder(TOY).eval(), made_batch(TOY)
    states = encoder.layers(batch.image)
    assert len(states) == TOY.depth + 1 and (encoder.grid, encoder.patch, encoder.width) == (TOY.grid, TOY.patch, TOY.width)
    assert torch.equal(encoder.tokens(batch.image), encoder.norm(states[-1]))
    assert torch.equal(encoder.hidden(batch.image, (0, -1))[0], states[1]) and torch.equal(encoder.hidden(batch.image, (-1,))[0], states[-1])
    assert all(torch.equal(a, b) for a, b in zip(states, encoder.deepen(encoder.stem_tokens(batch.image)), strict=True))
    for block, x, after, added in zip(encoder.blocks, states, states[1:], encoder.attention_outputs(batch.image), strict=False):
        assert torch.allclose(x + added + block.mlp(block.norm2(x + added)), after, atol=1e-5)
    everything = torch.arange(TOY.patches).expand(3, -1)
    assert torch.allclose(encoder(batch.image, everything), encoder.tokens(batch.image), atol=1e-5)
    visible = visible_patches(batch.patch_order, visible=TOY.visible)
    image = batch.image.clone().requires_grad_()
    encoder(image, visible).square().sum().backward()
    assert torch.equal(patchify(image.grad, TOY.patch).abs().sum(-1) > 0, ~hidden_patches(visible, TOY.patches))


def test_visible_tokens_keep_their_places():
    encoder, grid = RotaryEncoder(TOY), TOY.grid
    visible = torch.tensor([[3, 40, 79], [0, 1, 2]])
    turn, some = encoder.turn(grid), encoder.turn(grid, visible)
    q = torch.randn(2, 4, 80, 12)
    wanted = turn(q).gather(2, visible[:, None, :, None].expand(-1, 4, -1, 12))
    assert torch.equal(some(q.gather(2, visible[:, None, :, None].expand(-1, 4, -1, 12))), wanted)
    assert torch.equal(turn(q.gather(2, visible[:, None, :, None].expand(-1, 4, -1, 12)), visible), wanted)
    block, x = encoder.blocks[0], torch.randn(2, 80, 48)
    assert torch.allclose(block(x, visible, turn), take(block(x, None, turn), visible), atol=1e-5)


def test_attention_of_a_patch_is_what_its_module_mixes():
    torch.manual_seed(0)
    encoder = RotaryEncoder(TOY).double().eval()
    image = torch.randn(2, 1, *TOY.crop, dtype=torch.float64)
    shares = encoder.attention(image, patches=[3, 7])
    assert shares.shape == (2, 2, 4, 2, TOY.patches) and torch.allclose(shares.sum(-1), torch.ones((), dtype=torch.float64))
    block, x = encoder.blocks[1], encoder.layers(image)[1]
    v = block.attn.qkv(block.norm1(x))[..., 2 * TOY.width :].unflatten(-1, (4, 12)).transpose(1, 2)
    mixed = (shares[:, 1] @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn.proj(mixed), encoder.attention_outputs(image)[1][:, [3, 7]], atol=1e-5, rtol=1e-5)
    with pytest.raises(IndexError, match="there are 80"):
        encoder.attention(image, patches=[80])


def test_weights_know_that_they_are_turned_and_how(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = Config.at("toy", encoder="rotary")
    encoder = RotaryEncoder(config, base=10000.0, mode="videorope").eval()
    config.save(tmp_path / "config.json")
    save_file({f"encoder.{name}": value for name, value in encoder.state_dict().items()}, tmp_path / "weights.safetensors")
    image = made_batch(TOY).image
    back = checkpoint.load_encoder(tmp_path)
    assert torch.equal(back.tokens(image), encoder.tokens(image))
    found = reading.load(tmp_path / "weights.safetensors")
    assert torch.equal(hub.load(hub.export(found, tmp_path / "exported")).encoder.tokens(image), encoder.tokens(image))


def test_a_rotary_encoder_starts_from_another_s_blocks(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    other = Encoder(TOY)
    TOY.save(tmp_path / "config.json")
    save_file({f"encoder.{name}": value for name, value in other.state_dict().items()}, tmp_path / "weights.safetensors")
    encoder = RotaryEncoder(TOY)
    assert "2 blocks and last norm" in checkpoint.start_from(encoder, tmp_path)
    assert torch.equal(encoder.blocks[1].mlp.fc2.weight, other.blocks[1].mlp.fc2.weight)
    with pytest.raises(Refused, match="do not fit this encoder"):
        checkpoint.start_from(RotaryEncoder(Config.at("toy", width=96)), tmp_path)


def test_a_start_with_other_frequencies_is_refused(tmp_path):
    from safetensors.torch import save_file

    config = Config.at("toy", encoder="rotary")
    other = RotaryEncoder(config, base=10000.0)
    config.save(tmp_path / "config.json")
    save_file({f"encoder.{name}": value for name, value in other.state_dict().items()}, tmp_path / "weights.safetensors")
    with pytest.raises(Refused, match="turned by other frequencies"):
        checkpoint.start_from(RotaryEncoder(config, base=1000.0), tmp_path)
    assert "whole" in checkpoint.start_from(RotaryEncoder(config, base=10000.0), tmp_path)
