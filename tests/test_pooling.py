"""Organs in the middle: which patches and sentences are an organ's, what is pooled of them, and which volumes are right answers to one another."""

import math
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import checkpoint, objectives, pooling
from asapkit.config import Config
from asapkit.language import tokenizer
from asapkit.pooling import GROUPS, OrganPair, OrganPool, rows_inside
from asapkit.types import ORGANS

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy")
LUNG, HEART, ESOPHAGUS, AORTA = range(4)


def reported():
    """Four volumes of three sentences: about the left lung (positive), about the appendage (denied), about no organ (positive)."""
    batch = made_batch(TOY, volumes=4, sentences=3)
    batch.sentence_organs[:] = False
    batch.sentence_organs[:, 0, 0] = True
    batch.sentence_organs[:, 1, ORGANS.index("atrial_appendage_left")] = True
    batch.sentence_organs[:, 2] = True
    batch.sentence_positive[:, 1] = False
    return batch


def test_the_four_organs_are_the_nine():
    assert sorted(n for group in GROUPS.values() for n in group) == list(range(len(ORGANS)))
    for name, group in GROUPS.items():
        assert all(ORGANS[n].startswith((name, "atrial")) for n in group)


def test_what_sentences_are_about_and_which_organs_are_normal_by_loop():
    batch = made_batch(TOY, volumes=4)
    batch.sentence_organs[0, 1] = True  # names none
    batch.sentence_real[2, 2:] = False
    batch.sentence_positive = torch.rand(batch.sentence_real.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    named, normal = pooling.named(batch), pooling.normal(batch)
    for b in range(4):
        for g, group in enumerate(GROUPS.values()):
            stated = False
            for s in range(4):
                said = batch.sentence_organs[b, s].tolist()
                about = bool(batch.sentence_real[b, s]) and not all(said) and any(said[n] for n in group)
                assert bool(named[b, s, g]) == about
                stated |= about and bool(batch.sentence_positive[b, s])
            assert bool(normal[b, g]) != stated


def test_an_organs_text_is_its_sentences_or_the_default_one():
    batch, pair = reported(), OrganPair(TOY)
    batch.findings_sentence[3] = -1  # no token of any sentence was kept
    rows, words = pair.rows(batch), tokenizer(TOY.text_encoder)
    for b in range(3):
        tokens, of = batch.findings_tokens[b], batch.findings_sentence[b]
        assert rows[4 * b + LUNG] == tokens[of == 0].tolist() and rows[4 * b + HEART] == tokens[of == 1].tolist()
        assert words.decode(rows[4 * b + AORTA]) == "aorta shows no significant abnormalities."
    assert words.decode(rows[12 + LUNG]) == "lung shows no significant abnormalities."
    said = pair(batch)
    assert said.normal.int().tolist() == [[0, 1, 1, 1]] * 4
    for b in range(4):
        for g in range(4):
            alone = torch.tensor([[words.cls_token_id, *rows[4 * b + g], words.sep_token_id]])
            expected = objectives.unit(pair.report(pair.text(alone, torch.ones_like(alone, dtype=torch.bool))[:, 0]))
            assert torch.allclose(said.feature[b, g], expected[0], atol=1e-5)
            for c in range(4):
                assert bool(said.key[b, g] == said.key[c, g]) == (rows[4 * b + g] == rows[4 * c + g])


def test_an_organ_pools_its_own_tokens_alone_whatever_lies_outside_or_is_padded():
    torch.manual_seed(0)
    pool, tokens = OrganPool(48, 16).eval(), torch.randn(3, 20, 48)
    torch.nn.init.normal_(pool.query)
    organ = torch.rand(3, 20) > 0.6
    organ[2] = False
    organ[2, 7] = True

    def pooled(x, inside):
        index, real = rows_inside(inside)
        return pool(x.gather(1, index.unsqueeze(-1).expand(-1, -1, 48)), real, organ=HEART)

    outside = torch.where(organ.unsqueeze(-1), tokens, 100 * torch.randn(3, 20, 48))
    assert torch.equal(pooled(tokens, organ), pooled(outside, organ))
    assert not torch.allclose(pooled(tokens, organ), pooled(tokens + 1.0 * torch.randn(3, 20, 48), organ))
    for b in range(3):  # neighbours with more patches only pad
        assert torch.allclose(pooled(tokens, organ)[b], pooled(tokens[b : b + 1], organ[b : b + 1])[0], atol=1e-6)
    assert torch.isfinite(pooled(tokens, torch.zeros_like(organ))).all()


def test_pooling_by_its_formula_and_a_mean_at_the_start():
    torch.manual_seed(0)
    pool, tokens = OrganPool(48, 16, heads=3).eval(), torch.randn(1, 7, 48)
    real = torch.ones(1, 7, dtype=torch.bool)
    mean = pool.project[AORTA](pool.mix(pool.value(tokens.mean(1))))
    assert torch.allclose(pool(tokens, real, organ=AORTA), objectives.unit(mean), atol=1e-6)
    torch.nn.init.normal_(pool.query, std=3.0)
    heads = []
    for h in range(3):
        share = torch.stack([pool.query[AORTA, h] @ tokens[0, m] / math.sqrt(48) for m in range(7)]).softmax(0)
        value = [pool.value(tokens[0, m])[16 * h : 16 * h + 16] for m in range(7)]
        heads.append(sum(share[m] * value[m] for m in range(7)))
    expected = objectives.unit(pool.project[AORTA](pool.mix(torch.cat(heads))))
    assert torch.allclose(pool(tokens, real, organ=AORTA)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("depth", "after"), [(1, []), (2, [1]), (4, [1, 2, 3]), (12, [3, 6, 9])])
def test_levels_are_the_quarters_of_the_depth(depth, after):
    method = checkpoint.make_method("fvlm", Config.at("toy", depth=depth), {})
    image = made_batch(TOY).image
    found, states = pooling.levels(method.encoder, image), method.encoder.layers(image)
    assert len(found) == len(after) + 1 and torch.equal(found[-1], method.encoder.tokens(image))
    for level, n in zip(found, after, strict=False):
        assert torch.allclose(level, torch.nn.functional.layer_norm(states[n][:, 1:], (TOY.width,)))


def terms(pair, *, key, normal, present, seed=0):
    g = torch.Generator().manual_seed(seed)
    volume, report = (objectives.unit(torch.randn(len(key), 4, 48, generator=g)) for _ in range(2))
    return volume, report, pair.terms(volume, report, key=key, normal=normal, present=present)


def test_the_contrast_of_organs_against_a_loop_and_which_organs_have_one():
    pair = OrganPair(TOY)
    key = torch.tensor([[1, 1, 1, 5], [2, 2, 1, 5], [3, 1, 1, 6], [4, 3, 1, 6], [2, 9, 1, 6]])
    normal = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 0, 1]]).bool()
    present = torch.ones(5, 4, dtype=torch.bool)
    present[0, HEART] = False
    volume, report, found = terms(pair, key=key, normal=normal, present=present)
    assert set(found) == {"lung", "heart"}  # one text says everything of the esophagus; no aorta is abnormal
    for name, g in (("lung", LUNG), ("heart", HEART)):
        here = [b for b in range(5) if present[b, g]]
        total = 0.0
        for a, c in ((volume, report), (report, volume)):
            for i in here:
                right = [j for j in here if i == j or (normal[i, g] and normal[j, g]) or key[i, g] == key[j, g]]
                logits = {j: (a[i, g] @ c[j, g]).item() / 0.07 for j in here}
                norm = math.log(sum(math.exp(v) for v in logits.values()))
                total -= sum(logits[j] - norm for j in right) / len(right) / len(here) / 2
        assert found[name].item() == pytest.approx(total, rel=1e-4)


def test_a_batch_without_an_abnormal_organ_has_no_term_of_it():
    pair, batch = OrganPair(TOY), reported()
    present = pooling.inside(batch).any(1)
    assert present.all()
    said = pair(batch)
    volume = objectives.unit(torch.randn(4, 4, 48))
    marks = {"key": said.key, "normal": said.normal}
    assert set(pair.terms(volume, said.feature, present=present, **marks)) == {"lung"}
    alone = torch.zeros_like(present)
    alone[0] = True  # one volume cannot be told from others
    assert pair.terms(volume, said.feature, present=alone, **marks) == {}


def test_volumes_without_organ_masks_or_without_the_organ_are_left_out():
    torch.manual_seed(0)
    method, batch = checkpoint.make_method("fvlm", TOY, {"dropout": 0.0}), made_batch(TOY, volumes=4)
    batch.has_organs[3] = False
    whole, some = method(batch)["contrast"], method(batch[:3])["contrast"]
    assert whole.item() == pytest.approx(some.item(), rel=1e-5) and some.item() > 0
    batch.organs[2, :, 7] = 0
    assert not pooling.inside(batch)[2, :, ESOPHAGUS].any()
    assert method(batch)["contrast"].item() != pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("recipe", ["fvlm", "visd_boost"])
def test_where_no_organ_has_a_term_the_graph_stays_whole(recipe):
    method, batch = checkpoint.make_method(recipe, TOY, {}), made_batch(TOY)
    batch.has_organs[:] = False
    losses = method(batch)
    assert all(value.item() == 0 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("recipe", ["fvlm", "visd_boost"])
def test_exchanged_images_change_the_contrast_and_one_report_is_no_negative_of_itself(recipe):
    torch.manual_seed(0)
    method, batch = checkpoint.make_method(recipe, TOY, {"dropout": 0.0}).eval(), made_batch(TOY)
    exchanged = replace(batch, **{name: getattr(batch, name).roll(1, 0) for name in ("image", "organs")})
    assert abs(method(batch)["contrast"].item() - method(exchanged)["contrast"].item()) > 1e-4
    volume, report = method.embed(batch)
    assert volume.shape == report.shape == (3, 4 * TOY.align_width) and torch.allclose(volume.norm(dim=1), torch.ones(3), atol=1e-5)
    twins = batch[:1]
    twins = replace(twins, **{name: torch.cat([getattr(twins, name)] * 2) for name in vars(twins) if torch.is_tensor(getattr(twins, name))})
    assert method(replace(twins, ids=("a", "b")))["contrast"].item() == 0


def test_options_out_of_range_are_named():
    for options, says in (({"temperature": 0.6}, "temperature 0.6"), ({"pool_heads": 5}, "pool_heads 5: give a divisor of the width 48")):
        with pytest.raises(ValueError, match=says):
            checkpoint.make_method("fvlm", TOY, options)
    pair = OrganPair(TOY)
    with torch.no_grad():
        pair.temperature.fill_(0.7)
    assert pair.cool().item() == pytest.approx(0.5)
    pair.cool().backward()
    assert pair.temperature.grad.item() == 1
