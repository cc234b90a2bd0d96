"""Text side: frozen, independent of padding and neighbours, sentence means by loop."""

import pytest
import torch

from asapkit.language import CoAttention, Fusion, TextEncoder, WordDecoder, one_sentence_per_row, sentence_features, tokenizer


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder("minilm")


def test_the_encoder_is_frozen_and_in_eval_mode_even_when_training(encoder):
    encoder.train()
    assert not encoder.bert.training and not any(p.requires_grad for p in encoder.parameters())


def test_padding_and_memory_do_not_change_a_row(encoder):
    ids = tokenizer("minilm")("There is a nodule in the left lung.", return_tensors="pt")["input_ids"]
    alone = encoder(ids, torch.ones_like(ids, dtype=torch.bool))
    padded = torch.cat([ids, torch.zeros(1, 7, dtype=torch.long)], dim=1)
    real = torch.arange(padded.shape[1])[None] < ids.shape[1]
    assert torch.allclose(encoder(padded, real)[:, : ids.shape[1]], alone, atol=1e-5)
    remembering = TextEncoder("minilm", remember=True)
    for _ in range(2):
        assert torch.allclose(remembering(padded, real)[:, : ids.shape[1]], alone, atol=1e-5)
    assert len(remembering.memory) == 1


def test_sentence_features_by_loop_and_zero_where_there_is_none():
    tokens, sentence = torch.randn(1, 6, 3), torch.tensor([[-1, 0, 0, 1, 1, -1]])
    features = sentence_features(tokens, sentence, 3)
    assert torch.allclose(features[0, 0], (tokens[0, 1] + tokens[0, 2]) / 2)
    assert torch.allclose(features[0, 1], (tokens[0, 3] + tokens[0, 4]) / 2)
    assert (features[0, 2] == 0).all()


def test_one_sentence_per_row():
    tokens, sentence = torch.tensor([[101, 5, 6, 7, 0]]), torch.tensor([[-1, 0, 0, 1, -1]])
    rows, real, index = one_sentence_per_row(tokens, sentence, 3, cls=101, sep=102)
    assert rows.tolist() == [[101, 5, 6, 102], [101, 7, 102, 0], [0, 0, 0, 0]]
    assert real.sum(1).tolist() == [4, 3, 0] and index.tolist() == [[-1, 0, 0, -1], [-1, 0, -1, -1], [-1] * 4]


@pytest.mark.parametrize("form", ["official", "paper"])
def test_fusion_does_not_let_padded_words_speak(form):
    torch.manual_seed(0)
    fusion = Fusion(12, 2, form=form).eval()
    text, image, real = torch.randn(1, 6, 12), torch.randn(1, 4, 12), torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()
    other = text.clone()
    other[:, 4:] = 9.0
    a, b = (fusion(t, real, image, global_image=image.mean(1)) for t in (text, other))
    assert torch.allclose(a[:, :4], b[:, :4], atol=1e-6)


def test_text_and_image_look_at_one_another_and_never_at_padding():
    torch.manual_seed(0)
    both = CoAttention(12, 2, depth=2).eval()
    text, image, real = torch.randn(1, 6, 12), torch.randn(1, 4, 12), torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()

    def shifts(**changed):
        before, after = both(text, real, image), both(changed.get("text", text), real, changed.get("image", image))
        return [(b[:, :4] - a[:, :4]).abs().amax().item() for a, b in zip(before, after, strict=True)]

    padding, word, patch = text.clone(), text.clone(), image.clone()
    padding[:, 4:], word[:, 1], patch[:, 2] = 9.0, 9.0, 9.0
    assert max(shifts(text=padding)) < 1e-6
    assert min(shifts(text=word)) > 1e-3 and min(shifts(image=patch)) > 1e-3
    first = CoAttention(12, 2, depth=1).eval()
    first.load_state_dict({name: value for name, value in both.state_dict().items() if ".1." not in name[:8]})
    assert torch.equal(first(text, real, image)[1], both(text, real, image, depth=1)[1])


def test_a_word_head_without_layers_reads_each_position_alone():
    torch.manual_seed(0)
    head = WordDecoder(12, depth=0, heads=2, vocabulary=torch.tensor([3, 5]), size=8)
    x, real, counted = torch.randn(1, 4, 12), torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0, 1, 0, 1]]).bool()
    logits = head(x, real, counted)
    assert logits.shape == (2, 2) and torch.allclose(logits[0], head(x[:, 1:2], real[:, :1], real[:, :1])[0], atol=1e-6)


def test_a_text_encoder_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="text_encoder './nowhere'"):
        tokenizer("./nowhere")
