"""Every loss against a loop written from its equation, and the invariances that the equations imply."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asapkit import objectives


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_reconstruction_is_the_mean_over_hidden_voxels():
    predicted, target, hidden = rand(2, 5, 3), rand(2, 5, 3, seed=1), torch.tensor([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    total, count = 0.0, 0
    for b in range(2):
        for n in range(5):
            if hidden[b, n]:
                total += sum((predicted[b, n, p] - target[b, n, p]).item() ** 2 for p in range(3)) / 3
                count += 1
    assert objectives.reconstruction(predicted, target, hidden).item() == pytest.approx(total / count, rel=1e-6)


def test_the_released_reconstruction_is_the_hidden_share_of_ours():
    predicted, target = rand(2, 8, 3), rand(2, 8, 3, seed=1)
    hidden = torch.arange(8).expand(2, 8) < 6
    ours, released = objectives.reconstruction(predicted, target, hidden), objectives.reconstruction(predicted, target, hidden, on="all")
    assert released.item() == pytest.approx(0.75 * ours.item(), rel=1e-6)


@pytest.mark.parametrize("on", ["hidden", "all"])
def test_restored_needs_the_hidden_patches_alone(on):
    predicted, target = rand(2, 8, 3), rand(2, 8, 3, seed=1)
    hidden = torch.arange(8).expand(2, 8) < 6
    found = objectives.restored(predicted[:, :6], target[:, :6], patches=8, on=on)
    assert found.item() == pytest.approx(objectives.reconstruction(predicted, target, hidden, on=on).item(), rel=1e-6)


def test_normalised_pixels_do_not_depend_on_a_patch_offset_or_gain():
    predicted, target, hidden = rand(1, 4, 16), rand(1, 4, 16, seed=1), torch.ones(1, 4, dtype=torch.bool)
    a = objectives.reconstruction(predicted, target, hidden, norm_pixels=True)
    b = objectives.reconstruction(predicted, 3 * target + 7, hidden, norm_pixels=True)
    assert a.item() == pytest.approx(b.item(), rel=1e-3)


def test_organ_proportions_against_a_loop_over_volumes_patches_and_organs():
    logits, share = rand(3, 4, 9), torch.rand(3, 4, 9, generator=torch.Generator().manual_seed(2))
    has = torch.tensor([True, False, True])[:, None]
    total = 0.0
    for b in (0, 2):
        for n in range(4):
            for o in range(9):
                p = 1 / (1 + math.exp(-logits[b, n, o].item()))
                y = share[b, n, o].item()
                total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    assert objectives.organ_proportions(logits, share, has).item() == pytest.approx(total / (2 * 4), rel=1e-5)
    mean = objectives.organ_proportions(logits, share, has, reduction="mean").item()
    assert mean == pytest.approx(total / (2 * 4 * 9), rel=1e-5)


def test_a_class_counts_only_where_its_masks_are_known():
    logits, share = rand(3, 4, 2), torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(2))
    known = torch.tensor([[True, True], [False, True], [False, False]])
    each = torch.nn.functional.binary_cross_entropy(logits.sigmoid(), share, reduction="none").mean(1)
    assert objectives.organ_proportions(logits, share, known).item() == pytest.approx(float(each[0].sum() + each[1, 1]) / 2, rel=1e-5)
    mean = objectives.organ_proportions(logits, share, known, reduction="mean").item()
    assert mean == pytest.approx(float(each[0].mean() + each[1, 1]) / 2, rel=1e-5)
    assert objectives.organ_proportions(logits, share, torch.zeros(3, 1, dtype=bool)).item() == 0


def align_by_loop(sentence, evidence, real, meaning, tau, *, pad_columns, mean):
    def cos(a, b):
        return (a @ b / (a.norm() * b.norm())).item()

    per_report, every = [], []
    for b in range(len(real)):
        terms = []
        for s in range(real.shape[1]):
            if not real[b, s]:
                continue
            row, column = [], []
            for t in range(real.shape[1]):
                negative = t == s or pad_columns or (real[b, t] and meaning[b, t] != meaning[b, s])
                if negative:
                    row.append(cos(sentence[b, s], evidence[b, t]) / tau)
                    column.append(cos(sentence[b, t], evidence[b, s]) / tau)
            own = cos(sentence[b, s], evidence[b, s]) / tau
            terms.append(math.log(sum(map(math.exp, row))) + math.log(sum(map(math.exp, column))) - 2 * own)
        if terms:
            per_report.append(sum(terms) / len(terms))
            every += terms
    return sum(per_report) / len(per_report) if mean == "report" else sum(every) / len(every)


@pytest.mark.parametrize("mean", ["report", "batch"])
@pytest.mark.parametrize("pad_columns", [False, True])
def test_align_in_report_against_a_loop(mean, pad_columns):
    sentence, evidence = rand(3, 4, 6), rand(3, 4, 6, seed=1)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    meaning = torch.tensor([[0, 1, 0, 2], [3, 4, -1, -1], [-1, -1, -1, -1]])
    ours = objectives.align_in_report(sentence, evidence, real, meaning=meaning, temperature=0.2, pad_columns=pad_columns, mean=mean)
    assert ours.item() == pytest.approx(align_by_loop(sentence, evidence, real, meaning, 0.2, pad_columns=pad_columns, mean=mean), rel=1e-5)


def test_another_image_is_one_more_negative_of_the_sentence_alone():
    sentence, evidence, other = rand(2, 3, 6), rand(2, 3, 6, seed=1), rand(2, 3, 6, seed=2)
    real, wrong = torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(), torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    found = objectives.report_terms(sentence, evidence, real, temperature=0.2, other=other, wrong=wrong)
    cos = torch.nn.CosineSimilarity(dim=0)
    for b in range(2):
        for s in range(int(real[b].sum())):
            there = [t for t in range(3) if real[b, t]]
            own = (cos(sentence[b, s], evidence[b, s]) / 0.2).item()
            row = [math.exp(cos(sentence[b, s], evidence[b, t]) / 0.2) for t in there]
            row += [math.exp(cos(sentence[b, s], other[b, s]) / 0.2)] * int(wrong[b, s])
            column = [math.exp(cos(sentence[b, t], evidence[b, s]) / 0.2) for t in there]
            assert found[b, s].item() == pytest.approx(math.log(sum(row)) + math.log(sum(column)) - 2 * own, rel=1e-5), (b, s)
    plain = objectives.align_in_report(sentence, evidence, real)
    nobody = objectives.align_in_report(sentence, evidence, real, other=other, wrong=torch.zeros_like(wrong))
    assert nobody.item() == plain.item() < objectives.align_in_report(sentence, evidence, real, other=other, wrong=wrong).item()


@pytest.mark.parametrize("mean", ["report", "batch"])
def test_a_sentence_worth_three_counts_as_three_of_it(mean):
    loss, real = rand(3, 4), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    worth = torch.tensor([[1.0, 3, 1, 3], [3, 1, 0, 0], [0, 0, 0, 0]])
    terms = [[loss[b, s].item() for s in range(4) for _ in range(int(worth[b, s])) if real[b, s]] for b in range(3)]
    per_report = [sum(t) / len(t) for t in terms if t]
    expected = sum(per_report) / len(per_report) if mean == "report" else sum(map(sum, terms)) / sum(map(len, terms))
    assert objectives.sentence_mean(loss, real, mean=mean, worth=worth).item() == pytest.approx(expected, rel=1e-5)
    plain = objectives.sentence_mean(loss, real, mean=mean)
    assert objectives.sentence_mean(loss, real, mean=mean, worth=7 * real.float()).item() == pytest.approx(plain.item(), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(extra=st.integers(1, 5), seed=st.integers(0, 1000))
def test_empty_sentence_slots_change_the_released_alignment_but_not_ours(extra, seed):
    sentence, evidence, real = rand(2, 3, 6, seed=seed), rand(2, 3, 6, seed=seed + 1), torch.ones(2, 3, dtype=torch.bool)
    grown = [torch.cat([x, torch.zeros(2, extra, 6)], dim=1) for x in (sentence, evidence)]
    more = torch.cat([real, torch.zeros(2, extra, dtype=torch.bool)], dim=1)
    assert objectives.align_in_report(*grown, more).item() == pytest.approx(objectives.align_in_report(sentence, evidence, real).item(), rel=1e-5)
    released = [objectives.align_in_report(*x, pad_columns=True).item() for x in ((sentence, evidence, real), (*grown, more))]
    assert abs(released[0] - released[1]) > 1e-6


def test_sentences_that_mean_the_same_are_no_negatives():
    sentence = rand(1, 2, 6).expand(1, 2, 6).clone()
    sentence[0, 1] = sentence[0, 0]
    loss = objectives.align_in_report(sentence, sentence, torch.ones(1, 2, dtype=torch.bool), meaning=torch.zeros(1, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_contrast_over_images_against_a_loop():
    own, meaning = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([7, 8, 7, 9, 10])
    logits, weight = rand(5, 3), torch.tensor([0.5, 0.5, 1.0, 0.5, 0.5])
    total = 0.0
    for s in range(5):
        free = [b for b in range(3) if b == own[s] or not any(own[t] == b and meaning[t] == meaning[s] for t in range(5))]
        over_images = math.log(sum(math.exp(logits[s, b]) for b in free))
        image = int(own[s])
        stated = {int(meaning[t]) for t in range(5) if own[t] == image}
        others = [t for t in range(5) if int(meaning[t]) not in stated]
        over_sentences = math.log(sum(math.exp(logits[t, image]) for t in [s, *others]))
        total += weight[s].item() * (over_images + over_sentences - 2 * logits[s, image].item())
    ours = objectives.align_over_images(logits, own, meaning, weight=weight)
    assert ours.item() == pytest.approx(total / weight.sum().item(), rel=1e-5)


def test_contrast_over_one_image_is_zero():
    loss = objectives.align_over_images(rand(3, 1), torch.zeros(3, dtype=torch.long), torch.arange(3), weight=torch.ones(3))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_words_against_a_loop_and_targets_outside_the_vocabulary():
    logits, target = rand(4, 5), torch.tensor([2, -1, 0, 4])
    rows = [math.log(sum(math.exp(x) for x in logits[n])) - logits[n, target[n]].item() for n in (0, 2, 3)]
    assert objectives.words(logits, target).item() == pytest.approx(sum(rows) / 3, rel=1e-5)
    assert objectives.words(logits, torch.full((4,), -1)).item() == 0.0


def test_unknown_labels_have_no_gradient():
    logits = rand(2, 3).requires_grad_()
    labels = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -1.0, 1.0]])
    loss = objectives.labels_bce(logits, labels)
    loss.backward()
    assert (logits.grad[labels < 0] == 0).all() and (logits.grad[labels >= 0] != 0).all()
    known = [(logits[b, f].item(), labels[b, f].item()) for b, f in ((0, 0), (0, 1), (1, 2))]
    expected = sum(math.log(1 + math.exp(-x)) if y else math.log(1 + math.exp(x)) for x, y in known) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_zero_vector_has_a_bounded_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    objectives.cosine(x, torch.ones(1, 4)).sum().backward()
    assert x.grad.abs().max() <= 1e6


SAME = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()  # volumes 0 and 2 share a report


def test_contrast_against_a_loop_over_pairs_and_directions():
    logits = 3 * rand(4, 4)
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or not SAME[i, j]]
        for score in (lambda j, i=i: logits[i, j].item(), lambda j, i=i: logits[j, i].item()):
            total -= 0.5 * (score(i) - math.log(sum(math.exp(score(j)) for j in others))) / 4
    assert objectives.contrast(logits, SAME).item() == pytest.approx(total, rel=1e-5)


def test_contrast_pulls_towards_a_target_and_is_lowest_there():
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    logits, none = 2 * rand(3, 3), torch.eye(3, dtype=torch.bool)
    total = 0.0
    for scores in (logits, logits.T):
        for i in range(3):
            spread = scores[i].log_softmax(0)
            total -= 0.5 * sum((target[i, j] / target[i].sum() * spread[j]).item() for j in range(3)) / 3
    assert objectives.contrast(logits, none, target=target).item() == pytest.approx(total, rel=1e-5)
    assert objectives.contrast(logits, none, target=torch.eye(3)).item() == pytest.approx(objectives.contrast(logits, none).item(), rel=1e-6)
    best = torch.where(target > 0, 30.0, -30.0).requires_grad_()
    objectives.contrast(best, none, target=target).backward()
    assert best.grad.abs().max() < 1e-6


@pytest.mark.parametrize("loss", [objectives.contrast, objectives.sigmoid_contrast])
def test_what_two_volumes_of_one_report_score_with_one_another_never_matters(loss):
    logits = rand(4, 4).requires_grad_()
    loss(logits, SAME).backward()
    assert logits.grad[0, 2] == 0 and logits.grad[2, 0] == 0
    assert (logits.grad[~SAME | torch.eye(4, dtype=torch.bool)] != 0).all()
    assert loss(logits, SAME).item() == pytest.approx(loss(logits.T, SAME).item(), rel=1e-6)


def test_targets_of_an_organ_are_itself_other_normal_ones_and_identical_texts():
    normal, text = torch.tensor([1, 0, 1, 0, 0]).bool(), torch.tensor([7, 8, 9, 8, 5])
    target = objectives.alike_targets(normal, text)
    for i in range(5):
        right = [j for j in range(5) if i == j or (normal[i] and normal[j]) or text[i] == text[j]]
        assert target[i].tolist() == pytest.approx([1 / len(right) if j in right else 0 for j in range(5)])
    assert torch.allclose(target.sum(1), torch.ones(5)) and target[0, 2] == target[2, 0] == 0.5 and target[1, 3] == 0.5 and target[4, 4] == 1


def test_class_contrast_against_a_loop():
    feature, of = objectives.unit(rand(6, 5)), torch.tensor([0, 1, 0, 1, 1, 2])
    losses = []
    for i in range(5):  # the sixth has no other of its class
        e = {j: math.exp((feature[i] @ feature[j]).item() / 0.1) for j in range(6) if j != i}
        losses.append(-math.log(sum(e[j] for j in e if of[j] == of[i]) / sum(e.values())))
    assert objectives.class_contrast(feature, of, temperature=0.1).item() == pytest.approx(sum(losses) / 5, rel=1e-4)
    lone = rand(3, 5).requires_grad_()
    objectives.class_contrast(lone, torch.arange(3)).backward()
    assert (lone.grad == 0).all()
    assert objectives.class_contrast(feature, torch.zeros(6, dtype=torch.long)).item() == 0


def test_sigmoid_contrast_against_a_loop_over_pairs():
    logits, weight, target = rand(4, 4), rand(4, 4, seed=1).exp(), rand(4, 4, seed=2).sigmoid()
    for settings_ in ({}, {"weight": weight}, {"target": target}, {"weight": weight, "target": target}):
        total = 0.0
        for i in range(4):
            for j in range(4):
                if i == j or not SAME[i, j]:
                    y = settings_["target"][i, j].item() if "target" in settings_ else float(i == j)
                    p = 1 / (1 + math.exp(-logits[i, j].item()))
                    total -= (settings_["weight"][i, j].item() if "weight" in settings_ else 1.0) * (y * math.log(p) + (1 - y) * math.log(1 - p)) / 4
        assert objectives.sigmoid_contrast(logits, SAME, **settings_).item() == pytest.approx(total, rel=1e-5)


def test_hard_targets_repel_similar_pairs_more_and_soft_ones_less():
    """As weights, similarities are hard-negative weighting: the push on a pair at logit 0 is half its weight. As targets they pull."""
    likeness = torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, 0.5], [0.9, 0.5, 1.0]])
    none = torch.eye(3, dtype=torch.bool)
    pushes = {}
    for name, options in (("weight", {"weight": likeness}), ("target", {"target": torch.where(none, 1.0, 0.5 * likeness)})):
        logits = torch.zeros(3, 3, requires_grad=True)
        objectives.sigmoid_contrast(logits, none, **options).backward()
        pushes[name] = 3 * logits.grad
    assert pushes["weight"][0, 2].item() == pytest.approx(0.45) and pushes["weight"][0, 1].item() == pytest.approx(0.05)
    assert pushes["target"][0, 2].item() == pytest.approx(0.05) and pushes["target"][0, 1].item() == pytest.approx(0.45)


def test_agreement_against_a_loop_and_its_bounds():
    def cos(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    (pa, za), (pb, zb) = first, second = (rand(4, 6), rand(4, 6, seed=1)), (rand(4, 6, seed=2), rand(4, 6, seed=3))
    found = objectives.agreement(first, second)
    for n in range(4):
        assert found[n].item() == pytest.approx(-(cos(pa[n].tolist(), zb[n].tolist()) + cos(pb[n].tolist(), za[n].tolist())) / 2, rel=1e-4)
    assert torch.allclose(objectives.agreement(second, first), found)
    assert torch.allclose(objectives.agreement((zb, za), (5 * za, zb)), torch.full((4,), -1.0))


def test_matching_against_a_loop_over_pairs():
    logits, matched = 3 * rand(5), torch.tensor([1, 0, 0, 1, 0]).bool()
    total = 0.0
    for b in range(5):
        p = 1 / (1 + math.exp(-logits[b].item()))
        total -= math.log(p if matched[b] else 1 - p) / 5
    assert objectives.matching(logits, matched).item() == pytest.approx(total, rel=1e-5)


def test_words_without_any_counted_position_cost_nothing():
    logits = torch.randn(3, 5, requires_grad=True)
    loss = objectives.words(logits, torch.full((3,), -1))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0 and not gradient.any()
    assert objectives.words(torch.zeros(0, 5, requires_grad=True), torch.zeros(0, dtype=torch.long)).item() == 0.0
