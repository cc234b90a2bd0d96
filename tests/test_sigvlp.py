"""SigVLP: which chunk is drawn, what text belongs to it, what is a negative of what; nothing is padded that need not be."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit import estimate
from asapkit.config import Config
from asapkit.language import chosen_sentences
from asapkit.recipes.sigvlp import Method, organs_inside
from asapkit.types import ORGANS

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy")
LAYERS = TOY.grid[2]


def make(**options):
    torch.manual_seed(0)
    return Method(TOY, **options)


def with_numbers(batch, *, length: float, start=0.0):
    """A batch whose chunk is `length` of what may be drawn, from `start` of where it may begin on."""
    order = batch.patch_order.clone()
    order[:, 0], order[:, 1:] = length, start
    return replace(batch, patch_order=order)


def repeated(batch, index):
    """Some volumes of a batch, in this order, also more than once."""
    rows = {n: v[index] for n, v in vars(batch).items() if torch.is_tensor(v)}
    return replace(batch, **rows, ids=tuple(f"{batch.ids[i]}_{n}" for n, i in enumerate(index)))


def test_lengths_are_drawn_evenly_and_chunks_lie_anywhere_in_the_scan():
    method, lengths, starts = make(), Counter(), Counter()
    batches = [made_batch(TOY, volumes=2, seed=seed) for seed in range(400)]
    for batch in batches:
        start, length = method.drawn(batch)
        lengths[length] += 1
        assert start.shape == (2, 1) and (start >= 0).all() and (start + length <= LAYERS).all()
        if length == 2:
            starts.update(start.flatten().tolist())
    assert set(lengths) == {1, 2, 3, 4} and min(lengths.values()) > 60
    assert set(starts) == {0, 1, 2} and min(starts.values()) > 30
    short, always, half = make(longest=2), make(whole=1.0), make(longest=1, whole=0.5)
    assert {short.drawn(batch)[1] for batch in batches} == {1, 2}
    assert {always.drawn(batch)[1] for batch in batches} == {LAYERS}
    assert Counter(half.drawn(batch)[1] for batch in batches)[LAYERS] in range(150, 250)
    last = torch.tensor(1.0).nextafter(torch.tensor(0.0)).item()
    assert method.drawn(with_numbers(made_batch(TOY), length=last, start=last))[1] == LAYERS
    assert method.drawn(with_numbers(made_batch(TOY), length=0.0, start=last))[0].unique().tolist() == [LAYERS - 1]


def test_a_draw_is_a_function_of_the_batch_and_one_length_holds_for_all_ranks():
    method, batch = make(chunks=2), made_batch(TOY, volumes=4)
    start, length = method.drawn(batch)
    torch.manual_seed(7)
    assert torch.equal(method.drawn(batch)[0], start)
    method.gather = lambda x: torch.cat([batch.patch_order[:2, 0], x])  # the second of two ranks
    there, same = method.drawn(batch[2:])
    assert same == length and torch.equal(there, start[2:])


def test_chunks_are_the_slices_of_their_layers_and_only_a_missing_slice_is_padded():
    image, start = torch.arange(24.0).expand(2, 1, 3, 2, 24), torch.tensor([[0, 2], [1, 1]])
    chunks = make().cut(image, start, 2)
    assert [c[0, 0, 0].tolist() for c in chunks] == [list(map(float, range(6 * s, 6 * s + 12))) for s in (0, 2, 1, 1)]
    assert make().cut(image[..., :23], start[:, 1:], 2)[0, 0, 0, 0].tolist() == [*map(float, range(12, 23)), 22.0]


def test_organs_inside_against_a_loop():
    g = torch.Generator().manual_seed(0)
    held = (torch.rand(5, 8, 4, generator=g) > 0.5).float()
    held[0, :, 0] = 0
    for length in (1, 3, 8):
        start = torch.randint(0, 9 - length, (5, 2), generator=g)
        for share in (0.25, 0.5, 1.0):
            inside = organs_inside(held, start, length=length, share=share)
            for b in range(5):
                for c in range(2):
                    for o in range(4):
                        layers = [z for z in range(8) if held[b, z, o]]
                        covered = [z for z in layers if start[b, c] <= z < start[b, c] + length]
                        assert inside[b, c, o].item() == (bool(covered) and len(covered) >= share * len(layers))


def said(method, batch, start: int, length: int) -> list[list[int]]:
    tokens, real = method.texts(batch, torch.full((len(batch), 1), start), length)
    return [row[keep].tolist() for row, keep in zip(tokens, real, strict=True)]


def test_a_chunk_s_text_is_what_the_report_says_of_the_organs_inside_it():
    """Organ 0 in the lowest two layers, organ 1 in the highest alone; four sentences: of 0, of 1, of both, of none."""
    method, batch = make(), made_batch(TOY)
    grid = torch.zeros(3, *TOY.grid, len(ORGANS))
    grid[:, 1, 2, :2, 0], grid[:, 4, 0, 3, 1] = 0.2, 1.0
    organs = torch.zeros(3, 4, len(ORGANS), dtype=torch.bool)
    organs[:, 0, 0] = organs[:, 1, 1] = organs[:, 2, 0] = organs[:, 2, 1] = True
    organs[:, 3] = True  # names none
    batch = replace(batch, organs=grid.flatten(1, 3), sentence_organs=organs)
    words = [batch.findings_tokens[0][batch.findings_sentence[0] == s].tolist() for s in range(4)]
    cls, sep, report = 101, 102, batch.report_tokens[0].tolist()
    assert said(method, batch, 0, 1)[0] == [cls, *words[0], *words[2], sep]  # half of organ 0
    assert said(make(inside=0.6), batch, 0, 1)[0] == report  # not enough of it
    assert said(method, batch, 3, 1)[0] == [cls, *words[1], *words[2], sep]
    assert said(method, batch, 1, 3)[0] == [cls, *words[0], *words[1], *words[2], sep]
    assert said(method, batch, 2, 1)[0] == report  # no organ
    assert said(method, batch, 0, 4)[0] == report  # the whole scan
    silent = replace(batch, sentence_organs=organs & torch.tensor([[[False], [True], [False], [True]]]))
    assert said(method, silent, 0, 1)[0] == report  # nothing is said of the organ
    batch.sentence_real[1, 2:] = False  # left out of the alignment
    assert said(method, batch, 0, 1)[1] == [cls, *batch.findings_tokens[1][1:6].tolist(), sep]


def test_chosen_sentences_are_cut_to_what_the_text_encoder_reads_and_need_no_neighbour():
    tokens, sentence = torch.tensor([[1, 11, 12, 21, 22], [1, 31, 32, 0, 0]]), torch.tensor([[-1, 0, 0, 1, 1], [-1, 0, 0, -1, -1]])
    chosen = torch.tensor([[True, True], [True, False]])
    rows, real = chosen_sentences(tokens, sentence, chosen, cls=1, sep=2, longest=5)
    assert rows.tolist() == [[1, 11, 12, 21, 2], [1, 31, 32, 2, 0]] and real.sum(1).tolist() == [5, 4]
    alone, _ = chosen_sentences(tokens[1:, :3], sentence[1:, :3], chosen[1:], cls=1, sep=2, longest=5)
    assert alone.tolist() == [[1, 31, 32, 2]]
    assert not chosen_sentences(tokens, sentence, ~chosen, cls=1, sep=2, longest=5)[1][0].any()
    assert not chosen_sentences(tokens, sentence, chosen[:, :0], cls=1, sep=2, longest=5)[1].any()


@pytest.mark.parametrize("options", [{}, {"chunks": 3}, {"whole": 1.0}])
def test_the_loss_against_a_loop_over_pairs(options):
    """-log sigma(+-(10 cos - 10)) of every pair that counts, over the number of chunks."""
    method, batch = make(**options).double(), made_batch(TOY, volumes=3)
    batch = repeated(batch, [0, 1, 2, 1])  # the last is another reconstruction of the second's study
    batch = replace(batch, image=batch.image.double() + torch.tensor([0, 0, 0, 0.1]).view(4, 1, 1, 1, 1))
    start, length = method.drawn(batch)
    tokens, real = method.texts(batch, start, length)
    c, depth, loss, embedded = method.chunks, TOY.patch[2], 0.0, []
    for i, s in enumerate(start.flatten().tolist()):
        volume = method.pool(method.encoder.tokens(batch.image[i // c : i // c + 1, ..., depth * s : depth * (s + length)]))
        embedded.append(method.pair(volume, tokens[i : i + 1], real[i : i + 1]))
    for i, (v, _) in enumerate(embedded):
        for j, (_, t) in enumerate(embedded):
            logit = 10 * (v @ t.T).item() - 10
            if i == j:
                loss += math.log1p(math.exp(-logit))
            elif {i // c, j // c} != {1, 3} and i // c != j // c:
                loss += math.log1p(math.exp(logit))
    assert method(batch)["contrast"].item() == pytest.approx(loss / (4 * c), rel=1e-4)


def test_volumes_of_one_report_and_chunks_of_one_scan_are_never_negatives():
    """Chunks of one layer each; organ z fills layer z and sentence z is about it, so that no two texts are alike."""
    batch = with_numbers(made_batch(TOY, volumes=1), length=0.0)
    height = torch.arange(TOY.patches) % LAYERS
    batch = replace(batch, organs=torch.nn.functional.one_hot(height, len(ORGANS)).float()[None])
    batch = replace(batch, sentence_organs=torch.eye(4, len(ORGANS), dtype=torch.bool)[None])
    for options, index, starts in (({}, [0, 0], [[0.1], [0.9]]), ({"chunks": 3}, [0], [[0.1, 0.4, 0.9]])):
        method, twins, held = make(**options), repeated(batch, index), {}
        twins.patch_order[:, 1 : 1 + method.chunks] = torch.tensor(starts)
        tokens, _ = method.texts(twins, *method.drawn(twins))
        assert len({tuple(row.tolist()) for row in tokens}) == len(tokens) > 1
        logits = method.pair.logits
        method.pair.logits = lambda v, t, logits=logits, held=held: held.setdefault("logits", logits(v, t))
        loss = method(twins)["contrast"]
        (push,) = torch.autograd.grad(loss, held["logits"])
        assert len(push) == len(index) * method.chunks
        assert (push.diagonal() < 0).all() and torch.equal(push, torch.diag(push.diagonal()))


def test_equal_texts_of_two_patients_are_no_negatives():
    method, batch = make(), with_numbers(made_batch(TOY, volumes=2), length=0.3)
    batch.organs[:] = 0.5
    batch.sentence_organs[:] = False
    batch.sentence_organs[:, 0, 5] = True
    length = method.drawn(batch)[1]
    apart = method(batch)["contrast"].item()
    batch.findings_tokens[1, 1:6] = batch.findings_tokens[0, 1:6]
    start, _ = method.drawn(batch)
    tokens, real = method.texts(batch, start, length)
    assert torch.equal(tokens[0], tokens[1]) and real.all() and length == 2
    v, t = method.pair(method.pool(method.encoder.tokens(method.cut(batch.image, start, length))), tokens, real)
    own = torch.nn.functional.softplus(10 - 10 * (v * t).sum(1)).mean().item()
    assert method(batch)["contrast"].item() == pytest.approx(own, rel=1e-5) and apart != pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("length", [0.0, 0.9])
def test_padding_of_a_neighbour_never_changes_the_loss(length):
    method, batch = make(chunks=2), with_numbers(made_batch(TOY), length=length, start=0.4)
    batch.organs[:, ::3] = 0
    pad = torch.nn.functional.pad
    padded = replace(
        batch,
        **{n: pad(getattr(batch, n), (0, 9)) for n in vars(batch) if n.startswith(("findings", "report")) and n != "findings_sentence"},
        findings_sentence=pad(batch.findings_sentence, (0, 9), value=-1),
        **{n: pad(getattr(batch, n), (0, 3)) for n in ("sentence_real", "sentence_meaning", "sentence_positive")},
        sentence_organs=pad(batch.sentence_organs, (0, 0, 0, 3), value=True),
    )
    assert method(padded)["contrast"].item() == pytest.approx(method(batch)["contrast"].item(), rel=2e-5)


def test_exchanging_images_changes_the_contrast_and_voxels_outside_the_chunk_do_not():
    method, batch = make(), with_numbers(made_batch(TOY), length=0.3, start=0.0)
    loss = method(batch)["contrast"].item()
    assert abs(method(replace(batch, image=batch.image.roll(1, 0)))["contrast"].item() - loss) > 1e-4
    other = batch.image.clone()
    other[..., 2 * TOY.patch[2] :] *= -1
    assert method(replace(batch, image=other))["contrast"].item() == loss
    volume, report = method.embed(batch)
    assert volume.shape == report.shape == (3, TOY.align_width)
    deep, _ = method.embed(replace(batch, image=batch.image.repeat(1, 1, 1, 1, 3)))  # three times the trained depth
    assert deep.shape == volume.shape and torch.isfinite(deep).all()


def test_no_slice_of_a_step_is_padding():
    """A chunk is whole layers, and all chunks of a step have as many: what the encoder computes is what it was asked for."""
    method, seen = make(chunks=2), []
    method.encoder.embed.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    for seed in range(12):
        batch = made_batch(TOY, seed=seed)
        _, length = method.drawn(batch)
        method(batch)
        assert seen[-1][:2] == (6, 20 * length)


def test_an_estimate_is_a_mean_over_the_lengths_that_are_drawn():
    method, batch = make(), estimate.example(TOY)
    whole = estimate.mean_count(method, batch, weights={}, precision="fp32")
    each = [estimate.count(method, with_numbers(batch, length=(n + 0.5) / 4)) for n in range(4)]
    assert whole.flops == pytest.approx(sum(c.flops for c in each) / 4) and whole.kept == max(c.kept for c in each)
    assert each[3].flops > each[0].flops


@pytest.mark.parametrize(
    ("option", "says"),
    [({"longest": 0}, "longest 0"), ({"chunks": 0}, "chunks 0"), ({"whole": 1.5}, "whole 1.5"), ({"inside": 0.0}, "inside 0.0"),
     ({"rope": "spiral"}, "rope 'spiral': there are axial, videorope"), ({"rope_base": 0.5}, "rope_base 0.5")],
)  # fmt: skip
def test_options_out_of_range_are_named(option, says):
    with pytest.raises(ValueError, match=says):
        make(**option)
