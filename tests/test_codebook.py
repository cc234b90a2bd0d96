"""The book of what normal organs look like: who writes it, what it says, and that nothing else reaches it."""

import pytest
import torch
from made import made_batch

from asapkit import checkpoint, pooling
from asapkit.codebook import Codebook, stretched
from asapkit.config import Config
from asapkit.pairing import alone

pytestmark = pytest.mark.slow  # `make check` keeps to the generic tests of every recipe

TOY = Config.at("toy")


def book(**options) -> Codebook:
    torch.manual_seed(0)
    return Codebook(24, organs=3, heads=4, **({"codes": 5} | options))


def tokens(*, volumes: int = 3, length: int = 8):
    g = torch.Generator().manual_seed(1)
    real = torch.arange(length) < torch.tensor([[length], [4], [0]])[:volumes]
    return torch.randn(volumes, length, 24, generator=g), real


def call(made: Codebook, x, real, *, learn, organ=1):
    return made(x, real, organ=organ, learn=torch.tensor(learn), gather=alone)


def test_stretched_tokens_span_0_to_1_and_come_back():
    x, real = tokens()
    scaled, low, span = stretched(x, real)
    for b in range(2):
        assert scaled[b][real[b]].min() == 0 and scaled[b][real[b]].max().item() == pytest.approx(1)
        assert torch.allclose((scaled * span + low)[b][real[b]], x[b][real[b]], atol=1e-6)
    assert (scaled[~real] == 0).all() and torch.isfinite(scaled).all()


def test_the_error_and_the_moved_codes_against_a_loop():
    made, (x, real) = book(), tokens()
    made.count[1], made.total[1] = 2.0, 2 * made.codes[1]
    before = made.codes.clone()
    scaled = stretched(x, real)[0]
    padded = ~real
    padded[:, 0] = False
    z = made.encoder(scaled, src_key_padding_mask=padded).detach()
    chosen, chose = z.clone(), {k: [] for k in range(5)}
    for b in range(2):
        for m in range(int(real[b].sum())):
            k = min(range(5), key=lambda k: (z[b, m] - before[1, k]).square().sum().item())
            chosen[b, m] = before[1, k]
            if b == 0:  # volume 1 is not learned from
                chose[k].append(z[b, m])
    out = made.back(made.decoder(chosen, src_key_padding_mask=padded))
    _, error = call(made, x, real, learn=[True, False, True])
    expected = sum(((out[0, m] - scaled[0, m]) ** 2).mean() + 0.25 * ((z[0, m] - chosen[0, m]) ** 2).mean() for m in range(8)) / 8
    assert error.tolist() == pytest.approx([expected.item(), 0, 0], rel=1e-4)
    for k, own in chose.items():
        moved = before[1, k] if not own else (0.99 * 2 * before[1, k] + 0.01 * sum(own)) / (0.99 * 2 + 0.01 * len(own))
        assert torch.allclose(made.codes[1, k], moved, atol=1e-5)
    assert any(chose.values()) and torch.equal(made.codes[[0, 2]], before[[0, 2]])


def test_codes_start_as_tokens_of_the_first_normal_organ_once():
    made, (x, real) = book(), tokens()
    call(made, x, real, learn=[False, False, False])
    assert not made.count.any()
    assert torch.equal(call(made, x, real, learn=[False, False, False])[0], x)  # nothing is known of this organ
    noise = made.codes[1].clone()
    made.decay = 0.999999
    call(made, x, real, learn=[False, True, True])
    padded = ~real
    padded[:, 0] = False
    z = made.encoder(stretched(x, real)[0], src_key_padding_mask=padded)[1, [0, 1, 2, 2, 3]]
    assert torch.allclose(made.codes[1], z + 0.01 * noise, atol=1e-3)
    start = made.codes.clone()
    call(made, x, real, learn=[True, False, False])
    assert torch.allclose(made.codes, start, atol=1e-3) and not torch.equal(made.codes, start)
    made.eval()
    held = made.codes.clone()
    call(made, x, real, learn=[True, True, False])
    assert torch.equal(made.codes, held)


def test_no_gradient_reaches_the_tokens_and_padding_of_a_neighbour_changes_nothing():
    made, (x, real) = book(), tokens()
    call(made, x, real, learn=[True, True, True])
    made.eval()
    x.requires_grad_()
    usual, error = call(made, x, real, learn=[True, True, True])
    assert not usual.requires_grad
    error.sum().backward()
    assert x.grad is None and all(p.grad.abs().sum() > 0 for p in made.parameters())
    alone_usual, alone_error = call(made, x[1:2, :4], real[1:2, :4], learn=[True])
    assert torch.allclose(usual[1, :4], alone_usual[0], atol=1e-5) and error[1].item() == pytest.approx(alone_error.item(), rel=1e-5)
    assert error[2] == 0 and torch.isfinite(usual).all()
    for options, says in (({"codes": 0}, "codes 0"), ({"decay": 1.0}, "decay 1.0")):
        with pytest.raises(ValueError, match=says):
            book(**options)


def test_two_ranks_write_the_book_that_one_would():
    one, two, (x, real) = book(), book(), tokens()
    for step in range(3):
        y = x + step
        one(torch.cat([y, y]), torch.cat([real, real]), organ=1, learn=torch.tensor([True, True, False] * 2), gather=alone)
        two(y, real, organ=1, learn=torch.tensor([True, True, False]), gather=lambda z: torch.cat([z, z]))
        for name, buffer in one.named_buffers():
            assert torch.allclose(buffer, two.get_buffer(name), atol=1e-5), name


def test_the_recipes_codes_learn_from_normal_organs_alone():
    torch.manual_seed(0)
    method, batch = checkpoint.make_method("visd_boost", TOY, {"dropout": 0.0}), made_batch(TOY)
    batch.sentence_organs[:] = False
    batch.sentence_organs[:, :, :7] = True  # lung and heart are abnormal everywhere, esophagus and aorta normal
    losses = method(batch)
    assert method.book.count.any(1).tolist() == [False, False, True, True]
    assert losses["normal"].item() == 0 and method.counts(batch)["codes"] == 6
    errors = method.organs(batch)[1]
    assert (errors[:, :2] == 0).all() and (errors[:, 2:] > 0).all()
    losses["contrast"].backward()
    assert all(p.grad is None for p in method.book.parameters())


def test_normal_and_abnormal_organs_are_told_apart_by_images_alone():
    torch.manual_seed(0)
    method, batch = checkpoint.make_method("visd_boost", TOY, {"dropout": 0.0}).eval(), made_batch(TOY, volumes=4)
    batch.sentence_organs[:] = False
    batch.sentence_organs[:2, :, 5] = True  # the hearts of the first two
    organs, present = method.organs(batch)[0], pooling.inside(batch).any(1)
    logits = organs[:, 1] @ organs[:, 1].T / 0.07
    total = 0.0
    for i, mate in ((0, 1), (1, 0), (2, 3), (3, 2)):
        total += (torch.stack([logits[i, j] for j in range(4) if j != i]).logsumexp(0) - logits[i, mate]) / 4
    found = method.parted(organs, pooling.normal(batch), present)
    assert found.item() == pytest.approx(total.item(), rel=1e-4) and method(batch)["normal"].item() == pytest.approx(total.item(), rel=1e-4)
