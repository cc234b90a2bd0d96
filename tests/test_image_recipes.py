"""Recipes that know images alone: what the decoder of `hi_end_mae` asks, and what the views of `pcrlv2` are and are compared with."""

import math
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import examples, objectives, store
from asapkit.config import Config
from asapkit.masking import hidden_indices, hidden_patches, streams, visible_patches
from asapkit.recipes import hi_end_mae, pcrlv2
from asapkit.vit3d import patches_at, patchify, take, unpatchify

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy")
DEEP = Config.at("toy", depth=4, width=24, heads=2, decoder_width=36, decoder_heads=3, decoder_depth=3, align_width=20)  # widths that differ


def made(module, config=DEEP, **options):
    torch.manual_seed(0)
    return module.Method(config, **options)


def seen(batch, config=DEEP):
    return visible_patches(batch.patch_order, visible=config.visible)


# ------------------------------------------------------------------------------------------------------------------ hi_end_mae


def test_the_depths_that_are_asked_are_three_quarters_half_and_a_quarter():
    assert {depth: hi_end_mae.asked(depth) for depth in (12, 8, 4, 2, 1)} == {12: (9, 6, 3), 8: (6, 4, 2), 4: (3, 2, 1), 2: (1,), 1: (1,)}
    assert made(hi_end_mae).ask == (3, 2, 1) and len(made(hi_end_mae, blocks=3).decoder.blocks) == 3


def test_every_asking_block_gets_the_layer_that_it_is_to_ask():
    method, batch = made(hi_end_mae, ask=(4, 1, 3)), made_batch(DEEP)
    asked = []
    for block in method.asking:
        block.register_forward_hook(lambda _m, given, _y: asked.append(given[1]))
    method(batch)
    states = method.encoder.layers(batch.image, seen(batch))
    assert len(asked) == 3 and all(torch.equal(memory, states[depth]) for memory, depth in zip(asked, (4, 1, 3), strict=True))


def test_attention_to_another_layer_by_loop():
    torch.manual_seed(0)
    cross, x, memory = hi_end_mae.Cross(6, 2, memory=5), torch.randn(1, 3, 6), torch.randn(1, 4, 5)
    q, (k, v) = cross.q(x)[0], cross.kv(memory)[0].split(6, dim=-1)
    answer = torch.zeros(3, 6)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for n in range(3):
            score = [math.exp((q[n, part] @ k[m, part]).item() / math.sqrt(3)) for m in range(4)]
            answer[n, part] = sum(score[m] / sum(score) * v[m, part] for m in range(4))
    assert torch.allclose(cross(x, memory)[0], cross.proj(answer), atol=1e-5)


def test_an_asking_block_adds_three_branches_in_turn():
    torch.manual_seed(0)
    one, x, memory = hi_end_mae.Asking(6, 2, memory=5), torch.randn(2, 3, 6), torch.randn(2, 4, 5)
    y = x + one.block.attn(one.block.norm1(x))
    y = y + one.cross(one.norm(y), one.norm_memory(memory))
    assert torch.allclose(one(x, memory), y + one.block.mlp(one.block.norm2(y)))
    rows = torch.tensor([[0, 2], [1, 2]])
    assert torch.allclose(one(x, memory, rows), take(one(x, memory), rows), atol=1e-6)


def test_the_loss_is_the_squared_error_of_standardised_hidden_patches_by_loop():
    method, batch = made(hi_end_mae), made_batch(DEEP)
    visible = seen(batch)
    predicted, target = method.restored(batch, visible), patchify(batch.image, DEEP.patch)
    total, count = 0.0, 0
    for b, row in enumerate(hidden_patches(visible, DEEP.patches)):
        for n in row.nonzero().flatten().tolist():
            wanted = (target[b, n] - target[b, n].mean()) / (target[b, n].var() + 1e-6).sqrt()
            total, count = total + (predicted[b, n] - wanted).square().mean().item(), count + 1
    assert count == 3 * (DEEP.patches - DEEP.visible)
    assert method(batch)["reconstruct"].item() == pytest.approx(total / count, rel=1e-5)
    hidden = hidden_indices(visible, DEEP.patches)
    raw = objectives.restored(take(predicted, hidden), patches_at(batch.image, DEEP.patch, hidden), patches=DEEP.patches)
    assert made(hi_end_mae, norm_pixels=False)(batch)["reconstruct"].item() == pytest.approx(raw.item(), rel=1e-5)


def test_no_hidden_voxel_reaches_what_is_restored():
    method, batch = made(hi_end_mae), made_batch(DEEP)
    visible = seen(batch)
    patches = patchify(batch.image, DEEP.patch)
    other = torch.where(hidden_patches(visible, DEEP.patches).unsqueeze(-1), -patches, patches)
    shown = replace(batch, image=unpatchify(other, DEEP.grid, DEEP.patch))
    assert torch.equal(method.restored(batch, visible), method.restored(shown, visible))
    assert not torch.equal(method.restored(batch, visible), method.restored(replace(batch, image=-batch.image), visible))


def test_what_is_shown_of_a_volume_is_what_all_blocks_restore(toy_store):
    held, method = store.open(toy_store), made(hi_end_mae, TOY)
    shown = examples.reconstruct(method, held, held.ids[0])
    assert shown["error_hidden"] > 0
    method.asking[-1].block.mlp.fc2.bias.data.add_(torch.linspace(-1, 1, TOY.decoder_width))
    assert examples.reconstruct(method, held, held.ids[0])["error_hidden"] != shown["error_hidden"]


@pytest.mark.parametrize("wrong", [{"ask": (5,)}, {"ask": (0, 1)}, {"ask": ()}, {"blocks": 0}])
def test_depths_that_are_not_there_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one block, and depths from 1 to 4"):
        made(hi_end_mae, **wrong)


# ---------------------------------------------------------------------------------------------------------------------- pcrlv2


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def standard(rows):
    """Each feature of some rows with mean 0 and variance 1, by loop."""
    out = [[0.0] * len(rows[0]) for _ in rows]
    for feature in range(len(rows[0])):
        values = [row[feature] for row in rows]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)
        for n, value in enumerate(values):
            out[n][feature] = (value - mean) / spread
    return out


def perceptron(layers, rows):
    inner = standard([(layers.fc1.weight @ torch.tensor(row)).tolist() for row in rows])
    return [layers.fc2((torch.tensor(row) * layers.weight + layers.bias).clamp(min=0)).tolist() for row in inner]


def said(scale, states):
    """Predictions and features of some views, each its own patch states."""
    features = standard(perceptron(scale.project, [scale.norm(state).mean(0).tolist() for state in states]))
    return perceptron(scale.predict, features), features


@torch.no_grad()
@pytest.mark.parametrize("local", [0, 4])
def test_the_losses_by_loop_over_volumes_views_and_parts(local):
    method, batch = made(pcrlv2, local=local, beta=0.3), made_batch(DEEP)
    for scale in method.scales:  # no weight of 1 and bias of 0 that could be left out unseen
        for layers in (scale.project, scale.predict):
            layers.weight.uniform_(0.5, 1.5)
            layers.bias.uniform_(-0.5, 0.5)
    depths, wholes, parts, restored = [], ([], []), ([], []), 0.0
    for b in range(3):
        one = batch[b : b + 1]
        own = streams(one.patch_order)
        views = [method.disturbed(one.image, own) for _ in range(2)]
        depths.append(int(torch.randint(3, (1,), generator=own[0])))
        boxes = pcrlv2.boxes(DEEP.grid, own, count=local)[0]
        for side, view in enumerate(views):
            wholes[side].append([state[0] for state in method.restorer(method.encoder(view))])
            for index in boxes[side * local // 2 : (side + 1) * local // 2]:
                parts[side].append([state[0] for state in method.restorer(method.encoder(view, index[None]), index[None])])
        target, decoded = patchify(one.image, DEEP.patch)[0], wholes[0][b]
        for depth, weight in ((2, 1.0), (depths[b], 0.3)):
            restored += weight * (method.scales[depth].restored(decoded[depth][None])[0] - target).square().mean().item() / 3
    every = [[said(scale, [view[d] for view in views]) for d, scale in enumerate(method.scales)] for views in wholes]
    small = [[said(scale, [part[d] for part in group]) for d, scale in enumerate(method.scales)] for group in parts if group]
    contrast = 0.0
    for b, d in enumerate(depths):
        (pa, za), (pb, zb) = ((one[d][0][b], one[d][1][b]) for one in every)
        contrast -= (cosine(pa, zb) + cosine(pb, za)) / 2 / 3
        for group in small:
            for n in range(b * local // 2, (b + 1) * local // 2):
                p, z = group[d][0][n], group[d][1][n]
                contrast -= sum(cosine(p, zg) + cosine(pg, z) for pg, zg in ((pa, za), (pb, zb))) / 2 / (2 * local) / 3
    assert len(set(depths)) > 1
    losses = method(batch)
    assert losses["reconstruct"].item() == pytest.approx(restored, rel=1e-5)
    assert losses["contrast"].item() == pytest.approx(contrast, rel=1e-3, abs=1e-5)


def test_a_batch_has_one_loss_whatever_was_drawn_before_and_draws_nothing_itself():
    method, batch = made(pcrlv2), made_batch(DEEP)
    torch.manual_seed(1)
    first = method(batch)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = method(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    other = method(replace(batch, patch_order=batch.patch_order.roll(1, 1)))
    assert all(not torch.equal(first[name], other[name]) for name in first)


def test_what_is_restored_depends_on_no_other_volume_and_the_contrast_does():
    method, batch = made(pcrlv2), made_batch(DEEP, volumes=4)
    whole, halves = method(batch), [method(batch[n : n + 2]) for n in (0, 2)]
    halved = {name: sum(half[name].item() for half in halves) / 2 for name in whole}
    assert whole["reconstruct"].item() == pytest.approx(halved["reconstruct"], rel=1e-5)
    assert abs(whole["contrast"].item() - halved["contrast"]) > 1e-4  # standardised over the batch, as by a batch norm


def test_one_volume_alone_agrees_with_nothing_and_is_restored():
    losses = made(pcrlv2)(made_batch(DEEP, volumes=1))
    assert losses["reconstruct"].item() > 0
    sum(losses.values()).backward()
    assert made(pcrlv2, local=0)(made_batch(DEEP, volumes=1))["contrast"].item() == 0


def test_equal_volumes_of_a_batch_have_one_feature_and_others_spread():
    rows = torch.tensor([[1.0, 2.0, 5.0], [1.0, 4.0, 5.0], [1.0, 9.0, 5.0]])
    found = pcrlv2.standardised(rows, lambda x: x)
    assert torch.equal(found[:, 0], torch.zeros(3)) and found[:, 1].mean().abs() < 1e-6
    joined = pcrlv2.standardised(rows[:1], lambda _: rows)  # a rank that holds one of the rows
    assert torch.allclose(joined, found[:1])


def test_what_is_predicted_has_no_gradient():
    pairs = [tuple(torch.randn(3, 5, requires_grad=True) for _ in range(2)) for _ in range(2)]
    objectives.agreement(*pairs).sum().backward()
    assert all(feature.grad is None for _, feature in pairs) and all((predicted.grad != 0).any() for predicted, _ in pairs)


def test_a_view_without_strength_is_the_volume_and_none_is_turned_over():
    coarse = torch.rand(1, 1, *TOY.grid, generator=torch.Generator().manual_seed(0)) * 2 - 1
    volume = torch.nn.functional.interpolate(coarse, size=TOY.crop)[0]
    plain = {"blur": 0.0, "gamma": 0.0, "noise": 0.0, "swap": 0.0}

    def view(seed=0, **changes):
        return pcrlv2.disturbed(volume, torch.Generator().manual_seed(seed), block=(6, 6, 3), **(plain | changes))

    assert torch.allclose(view(), volume, atol=1e-6)
    for name, strength in (("blur", 2 / 3), ("gamma", 0.3), ("noise", 0.05), ("swap", 0.1)):
        assert not torch.allclose(view(**{name: strength}), volume, atol=1e-4), name
        assert not torch.equal(view(**{name: strength}), view(1, **{name: strength})), name
    for seed in range(5):
        whole = view(seed, blur=2 / 3, gamma=0.3, noise=0.05, swap=0.1)
        assert whole.shape == volume.shape and whole.abs().max() <= 1
        assert torch.corrcoef(torch.stack([whole.flatten(), volume.flatten()]))[0, 1] > 0.8
        for axis in (1, 2, 3):
            assert torch.corrcoef(torch.stack([whole.flip(axis).flatten(), volume.flatten()]))[0, 1] < 0.5
    order = volume.flatten().argsort()
    assert (view(gamma=0.3).flatten()[order].diff() >= 0).all()  # a gamma keeps which voxel is brighter


def test_a_blur_has_the_variance_that_was_asked_for_and_keeps_the_sum():
    point = torch.full((1, 11, 9, 7), -1.0)
    point[0, 5, 4, 3] = 1.0
    stream = torch.Generator().manual_seed(3)
    spread = (pcrlv2.disturbed(point, stream, block=(1, 1, 1), blur=0.6, gamma=0.0, noise=0.0, swap=0.0)[0] + 1) / 2
    strength = torch.rand(3, generator=torch.Generator().manual_seed(3))[1].item()
    assert spread.sum().item() == pytest.approx(1, rel=1e-4)
    for axis, length in enumerate(spread.shape):
        share = spread.sum([other for other in range(3) if other != axis])
        place = torch.arange(length) - length // 2
        assert (share * place).sum().item() == pytest.approx(0, abs=1e-5)
        assert (share * place.square()).sum().item() == pytest.approx(0.6 * strength, rel=1e-4)


def test_blocks_change_places_and_nothing_else():
    volume = torch.arange(60.0 * 48 * 24).reshape(1, 60, 48, 24)
    moved = pcrlv2.swapped(volume, torch.Generator().manual_seed(0), block=(6, 6, 3), share=0.1)
    assert torch.equal(moved.flatten().sort().values, volume.flatten())
    before, after = (patchify(x[None], (6, 6, 3))[0] for x in (volume, moved))
    changed = (before != after).any(1)
    assert changed.sum() == 64 and (before != after)[changed].all()  # a tenth of 10 x 8 x 8 blocks, none of them where it was


def test_parts_are_boxes_inside_the_grid_that_reach_every_patch():
    own = streams(torch.rand(40, 80, generator=torch.Generator().manual_seed(0)))
    found = pcrlv2.boxes((5, 4, 4), own, count=3)
    assert found.shape == (40, 3, 3 * 2 * 2) and (found.diff(dim=-1) > 0).all()
    for box in found.flatten(0, 1).tolist():
        places = [(n // 16, n // 4 % 4, n % 4) for n in box]
        axes = [sorted({place[axis] for place in places}) for axis in range(3)]
        assert [len(axis) for axis in axes] == [3, 2, 2] and all(axis[-1] - axis[0] + 1 == len(axis) for axis in axes)
        assert len(set(places)) == 12
    assert set(found.flatten().tolist()) == set(range(80))
    assert len({tuple(row) for row in found[:, 0].tolist()}) > 10


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"local": 3}, "local 3: give an even"), ({"local": -2}, "local -2"), ({"blur": 0.9}, "from 0 to 0.667"), ({"swap": 1.5}, "swap 1.5"),
     ({"noise": -0.1}, "noise -0.1"), ({"beta": -1.0}, "beta -1.0")],
)  # fmt: skip
def test_strengths_out_of_range_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        made(pcrlv2, **wrong)
