"""Which patches a sentence selects: top-K by loop, ties, the gate, and gradients of the selectors."""

import pytest
import torch

from asapkit.selection import SELECTORS, Selector, soft_top_k, top_k_weights


def test_weights_are_the_mean_over_the_k_most_similar_by_loop():
    similarity = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0))
    mixture = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 0]] * 3), 3).float()
    weights = top_k_weights(similarity, mixture, (1, 3, 8))
    for b in range(3):
        for s in range(4):
            k = (1, 3, 8)[int(mixture[b, s].argmax())]
            chosen = sorted(range(20), key=lambda v: (-similarity[b, s, v].item(), v))[:k]
            expected = torch.zeros(20)
            expected[chosen] = 1 / k
            assert torch.allclose(weights[b, s], expected)


def test_ties_go_to_the_lowest_index():
    weights = top_k_weights(torch.tensor([[0.5, 0.9, 0.5, 0.5, 0.1]]), torch.ones(1, 1), (3,))
    assert weights[0].nonzero().flatten().tolist() == [0, 1, 2]
    assert top_k_weights(torch.zeros(1, 6), torch.ones(1, 1), (2,))[0].nonzero().flatten().tolist() == [0, 1]


def test_k_is_clamped_to_what_is_visible_and_to_what_the_gate_allows():
    similarity = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(top_k_weights(similarity, torch.ones(1, 1), (64,)), torch.full((1, 5), 0.2))
    allowed = torch.tensor([[True, False, True, False, False]])
    assert torch.allclose(top_k_weights(similarity, torch.ones(1, 1), (4,), allowed=allowed), torch.tensor([[0.5, 0, 0.5, 0, 0]]))
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    assert torch.allclose(top_k_weights(similarity, torch.ones(1, 1), (64,), allowed=nothing), torch.full((1, 5), 0.2))


@pytest.mark.parametrize("kind", SELECTORS)
@pytest.mark.parametrize("z", [-20.0, 0.0, 20.0])
def test_every_selector_stays_within_its_candidates_for_any_logit(kind, z):
    selector = Selector(4, (16, 32, 64), kind=kind, fixed_k=48 if kind == "fixed" else None)
    sentence = torch.full((2, 4), z).to(torch.float16).float()
    mixture = selector(sentence)
    budget = selector.budget(mixture)
    allowed = (48,) if kind == "fixed" else (16, 32, 64)
    if kind == "soft_topk":
        assert ((budget >= 16 - 1e-3) & (budget <= 64 + 1e-3)).all()
    else:
        assert all(round(k) in allowed for k in budget.tolist())
    weights = selector.weights(torch.randn(2, 100), mixture)
    assert torch.allclose(weights.sum(-1), torch.ones(2), atol=1e-4)


def test_the_released_selector_registers_no_parameter_and_learned_ones_get_a_gradient():
    assert not list(Selector(4, (1, 2), kind="frozen").parameters())
    for kind in ("straight_through", "soft_topk"):
        torch.manual_seed(0)
        selector = Selector(4, (1, 2, 4), kind=kind)
        values = torch.randn(3, 10)
        weights = selector.weights(torch.randn(3, 10), selector(torch.randn(3, 4)))
        (weights * values).sum().backward()
        assert selector.head.weight.grad.norm() > 0, kind


def test_a_random_k_is_any_of_them_says_nothing_and_stays_with_its_feature():
    g = torch.Generator().manual_seed(0)
    selector = Selector(48, (2, 4, 8), kind="random")
    common = torch.randn(48, generator=g)
    alike = common + 0.2 * torch.randn(3000, 48, generator=g)  # cosine .96, as sentences of one encoder are
    budget = selector.budget(selector(alike))
    for k in (2, 4, 8):
        assert 0.28 < (budget == k).float().mean() < 0.39, k
    near = selector.budget(selector(alike + 0.05 * torch.randn(3000, 48, generator=g)))
    assert (near == budget).float().mean() < 0.5, "alike sentences have no K in common"
    assert torch.equal(Selector(48, (2, 4, 8), kind="random").budget(selector(alike)), budget) and not selector.state_dict()
    assert torch.equal(selector(alike.reshape(3, 1000, 48)).reshape(3000, 3), selector(alike))


def test_soft_top_k_has_the_gradients_of_finite_differences():
    torch.manual_seed(0)
    similarity, value = torch.randn(1, 12, dtype=torch.float64, requires_grad=True), torch.randn(12, dtype=torch.float64)
    k = torch.tensor([4.0], dtype=torch.float64, requires_grad=True)
    assert torch.allclose(soft_top_k(similarity, k, eta=0.1).sum(), torch.ones((), dtype=torch.float64), atol=1e-6)

    def loss(s, budget):
        return (soft_top_k(s, budget, eta=0.1) * value).sum()

    assert torch.autograd.gradcheck(loss, (similarity, k), eps=1e-6, atol=1e-4)


def test_bad_words_are_refused():
    with pytest.raises(ValueError, match="unknown selector"):
        Selector(4, (1, 2), kind="best")
    with pytest.raises(ValueError, match="fixed_k"):
        Selector(4, (1, 2), kind="fixed")
