"""Hidden patches and words: exact shares, only real words, air first."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_batch

from asapkit.config import Config
from asapkit.masking import hidden_indices, hidden_patches, hidden_words, streams, visible_of, visible_patches


@settings(max_examples=20, deadline=None)
@given(n=st.integers(4, 60), seed=st.integers(0, 99))
def test_exactly_the_lowest_draws_are_visible(n, seed):
    order = torch.rand(3, n, generator=torch.Generator().manual_seed(seed))
    visible = visible_patches(order, visible=n // 4)
    for b in range(3):
        assert visible[b].tolist() == sorted(sorted(range(n), key=lambda p: order[b, p].item())[: n // 4])
    hidden = hidden_patches(visible, n)
    assert (hidden.sum(1) == n - n // 4).all() and not hidden.gather(1, visible).any()
    assert [row.tolist() for row in hidden_indices(visible, n)] == [row.nonzero().flatten().tolist() for row in hidden]


def test_air_is_seen_only_when_the_body_runs_out():
    order = torch.rand(1, 10, generator=torch.Generator().manual_seed(0))
    air = torch.arange(10).expand(1, 10) >= 4
    assert visible_patches(order, visible=4, last=air).tolist() == [[0, 1, 2, 3]]
    assert set(range(4)) < set(visible_patches(order, visible=6, last=air)[0].tolist())


def test_what_is_seen_of_a_batch_is_as_its_configuration_says():
    plain, air_first = (Config.at("toy", hide_air_first=first) for first in (False, True))
    batch = made_batch(plain)
    assert torch.equal(visible_of(batch, plain), visible_patches(batch.patch_order, visible=plain.visible))
    assert not batch.in_body.gather(1, visible_of(batch, plain)).all() and batch.in_body.gather(1, visible_of(batch, air_first)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.125, 0.25, 0.5, 0.75]))
def test_whole_words_against_a_loop(seed, share):
    g = torch.Generator().manual_seed(seed)
    order, continues = torch.rand(1, 24, generator=g), torch.rand(1, 24, generator=g) < 0.4
    real = torch.arange(24).expand(1, 24) < int(torch.randint(3, 25, (1,), generator=g))
    special = torch.rand(1, 24, generator=g) < 0.1
    words = []
    for n in range(24):
        if real[0, n] and not special[0, n]:
            if continues[0, n] and words and words[-1][-1] == n - 1:
                words[-1].append(n)
            else:
                words.append([n])
    lowest = sorted(words, key=lambda word: order[0, word[0]].item())[: round(len(words) * share)]
    found = hidden_words(order, real, special, share=share, continues=continues)
    assert found[0].nonzero().flatten().tolist() == sorted(n for word in lowest for n in word)


def test_only_real_words_are_hidden_and_in_the_exact_share():
    order = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))
    real = torch.arange(20).expand(2, 20) < torch.tensor([[18], [9]])
    special = torch.zeros_like(real)
    special[:, 0] = True
    hidden = hidden_words(order, real, special, share=0.75)
    assert hidden.sum(1).tolist() == [13, 6]  # round(.75 x 17), round(.75 x 8)
    assert not (hidden & (~real | special)).any()


def test_a_volume_has_a_stream_of_its_own_whoever_else_is_in_the_batch():
    order = torch.rand(5, 20, generator=torch.Generator().manual_seed(0))
    drawn = torch.stack([torch.rand(4, generator=stream) for stream in streams(order)])
    assert len({tuple(row) for row in drawn.tolist()}) == 5
    for b in range(5):
        assert torch.equal(torch.rand(4, generator=streams(order[b : b + 1])[0]), drawn[b])
    for place in (0, -1):  # each of the two numbers that make the seed matters
        other = order.clone()
        other[:, place] = other[:, place].roll(1)
        assert all(not torch.equal(torch.rand(4, generator=s), row) for s, row in zip(streams(other), drawn, strict=True))
