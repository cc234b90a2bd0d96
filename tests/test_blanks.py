"""Reports with words left blank: what is shown, what is asked, and what the answer may rest on."""

import math
from dataclasses import replace

import pytest
import torch
from made import made_batch

from asapkit.blanks import Blanks, ReportDecoder
from asapkit.config import Config
from asapkit.language import TextEncoder, tokenizer

TOY = Config.at("toy")


def test_what_is_blank_is_what_is_asked_for_and_all_positions_where_the_release_did():
    batch, blanks = made_batch(TOY), Blanks("minilm", word_share=0.5)
    hidden, shown = blanks.hidden(batch), blanks.shown(batch)
    assert hidden.sum(1).tolist() == [12, 12, 12] and torch.equal(blanks.counted(batch), hidden)
    assert (shown[hidden] == tokenizer("minilm").mask_token_id).all() and torch.equal(shown[~hidden], batch.report_tokens[~hidden])
    assert Blanks("minilm", word_share=0.5, words_on="all").counted(batch).all()
    with pytest.raises(ValueError, match="words_on 'some': there are hidden, all"):
        Blanks("minilm", word_share=0.5, words_on="some")
    with pytest.raises(ValueError, match=r"word_share 1\.0: give a number above 0 and below 1"):
        Blanks("minilm", word_share=1.0)


def test_a_word_is_blank_with_all_its_pieces():
    words, batch = tokenizer("minilm"), made_batch(TOY, volumes=1)
    ids = words("atherosclerotic changes and bronchiectasis with peribronchovascular consolidation")["input_ids"]
    pieces = [piece.startswith("##") for piece in words.convert_ids_to_tokens(ids)]
    assert sum(pieces) >= 3
    batch = replace(
        batch, report_tokens=torch.tensor([ids]), report_real=torch.ones(1, len(ids), dtype=torch.bool),
        report_special=torch.tensor([[n in (0, len(ids) - 1) for n in range(len(ids))]]), report_order=torch.rand(1, len(ids)),
    )  # fmt: skip
    hidden = Blanks("minilm", word_share=0.5, whole_words=True).hidden(batch)[0]
    starts = [n for n in range(1, len(ids) - 1) if not pieces[n]]
    whole = [hidden[a:b].tolist() for a, b in zip(starts, [*starts[1:], len(ids) - 1], strict=True)]
    assert all(len(set(word)) == 1 for word in whole) and sum(word[0] for word in whole) == round(len(starts) / 2)


def test_the_loss_of_the_words_against_a_loop_and_what_it_rests_on():
    torch.manual_seed(0)
    batch, text = made_batch(TOY), TextEncoder("minilm")
    decoder = ReportDecoder(TOY, text_width=text.width, vocabulary=torch.arange(1996, 2500), dropout=0.0).eval()
    keys, mean = decoder.keys(torch.randn(3, 1 + TOY.visible, TOY.width))
    assert torch.equal(mean, keys.mean(1))
    hidden = decoder.blanks.hidden(batch)
    fused = decoder.fusion(decoder.text(text(decoder.blanks.shown(batch), batch.report_real)), batch.report_real, keys, global_image=mean)
    logits = decoder.words(fused, batch.report_real, hidden)
    terms = []
    for row, id in zip(logits.tolist(), batch.report_tokens[hidden].tolist(), strict=True):
        if id < 2500:  # a word that the vocabulary lacks is not asked for
            terms.append(math.log(sum(math.exp(x) for x in row)) - row[id - 1996])
    loss = decoder(text, batch, keys, mean=mean)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert int(decoder.counts(batch)["words"]) == len(terms) < int(hidden.sum())
    assert decoder(text, batch, keys.flip(0), mean=mean).item() != loss.item()
    assert decoder(text, batch, keys, mean=mean, first=torch.ones(3, 1, TOY.word_width)).item() != loss.item()
