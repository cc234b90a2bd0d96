"""Several stores as one: whose volume is whose, each store's share of the steps, and a training that goes on as it would have."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from asapkit import checkpoint, sources, store, train
from asapkit.__main__ import main
from asapkit.config import Config
from asapkit.types import Refused

TOY = Config.at("toy", batch_size=2, steps=6)


@pytest.fixture(scope="module")
def places(toy_store, tmp_path_factory):
    """Two stores of the same volumes under other names: what is called the same in both must stay two."""
    folder = tmp_path_factory.mktemp("stores")
    for name in ("first", "second"):
        shutil.copytree(toy_store, folder / name)
    return [folder / "first", folder / "second"]


def test_volumes_studies_and_patients_of_two_stores_stay_apart(places):
    both, alone = sources.open(places), store.open(places[0])
    assert len(both.table) == 2 * len(alone.table) == both.table.index.nunique()
    for column in ("study", "patient"):
        assert both.table[column].nunique() == 2 * alone.table[column].nunique()
    id = alone.ids[0]
    assert np.array_equal(both.layer(f"second/{id}", "ct")[:], alone.layer(id, "ct")[:])
    assert set(train.training_ids(both)) == {f"{name}/{id}" for name in ("first", "second") for id in train.training_ids(alone)}
    assert isinstance(sources.open(places[:1]), store.Store)


def test_a_store_without_other_splits_holds_out_the_same_patients_as_alone(places, tmp_path):
    shutil.copytree(places[0], tmp_path / "whole")
    table = pd.read_parquet(tmp_path / "whole" / "volumes.parquet").assign(split="train")
    table.to_parquet(tmp_path / "whole" / "volumes.parquet")
    alone, both = store.open(tmp_path / "whole"), sources.open([places[0], tmp_path / "whole"])
    asked = {id.partition("/")[2] for id in train.training_ids(both) if sources.source(id) == "whole"}
    assert asked == set(train.training_ids(alone)) < set(alone.ids)


@pytest.mark.parametrize("shares", [None, {"first": 1, "second": 3}])
def test_every_step_is_of_one_store_and_each_store_has_its_share(places, shares):
    both, config = sources.open(places, shares=shares), replace(TOY, accumulate=2)
    stream = iter(train.KeyList(both, train.training_ids(both), config, start=0))
    steps = [[next(stream), next(stream)] for _ in range(400)]
    drawn = []
    for micro in steps:
        (name,) = {sources.source(id) for batch in micro for id, _ in batch}
        drawn.append(name)
    expected = 0.75 if shares else 0.5
    assert abs(np.mean([name == "second" for name in drawn]) - expected) < 4 * np.sqrt(expected * (1 - expected) / 400)
    epochs = {name: [e for micro, d in zip(steps, drawn, strict=True) if d == name for b in micro for _, e in b] for name in ("first", "second")}
    assert all(list(e) == sorted(e) and e[0] == 0 for e in epochs.values()), "each store counts its own epochs"
    again = iter(train.KeyList(both, train.training_ids(both), config, start=7))
    assert [next(again) for _ in range(20)] == [batch for micro in steps[7:17] for batch in micro]


def test_a_training_names_the_source_of_every_step_and_resumes_bit_for_bit(places, tmp_path):
    held = sources.open(places, shares={"first": 1, "second": 2})
    whole = train.pretrain(held, tmp_path / "whole", recipe="mae", config=TOY, progress=False)
    assert set(whole["source"]) == {"first", "second"}
    with pytest.raises(KeyboardInterrupt):
        interrupted(held, tmp_path / "cut", after=3)
    rest = train.pretrain(held, tmp_path / "cut", recipe="mae", config=TOY, resume=True, progress=False, save_every=1)
    pd.testing.assert_frame_equal(rest, whole)
    said = json.loads((tmp_path / "whole" / "data.json").read_text())
    assert set(said["stores"]) == {"first", "second"} and checkpoint.trained_on(tmp_path / "whole") == places[0]
    with pytest.raises(Refused, match="other settings .*shares"):
        train.pretrain(store.open(places[0]), tmp_path / "whole", recipe="mae", config=TOY, resume=True, progress=False)


def interrupted(held, run, *, after: int) -> None:
    """A training that ends at once when it would begin the step `after`."""
    step, real = [], train.train_step

    def stops(*args, **kwargs):
        step.append(1)
        if len(step) > after:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", stops)
        train.pretrain(held, run, recipe="mae", config=TOY, progress=False, save_every=1)


def test_bad_shares_and_stores_are_named(places, tmp_path):
    for shares, word in (({"frist": 1}, "frist.*first, second"), ({"first": 0, "second": 1}, "above 0"), ({"first": 1}, "no share of second")):
        with pytest.raises(ValueError, match=word):
            sources.open(places, shares=shares)
    with pytest.raises(ValueError, match="one is given"):
        sources.open(places[0], shares={"first": 1})
    shutil.copytree(places[1], tmp_path / "first")
    with pytest.raises(ValueError, match="two stores are called first"):
        sources.open([places[0], tmp_path / "first"])
    table = pd.read_parquet(tmp_path / "first" / "volumes.parquet")
    table.assign(split=["valid", "test"] * (len(table) // 2)).to_parquet(tmp_path / "first" / "volumes.parquet")
    with pytest.raises(Refused, match="no training volumes"):
        sources.open([places[1], tmp_path / "first"])


@pytest.mark.slow
def test_the_command_line_takes_several_stores(places, tmp_path, capsys):
    words = ["pretrain", *map(str, places), str(tmp_path / "run"), "--recipe", "mae", "--scale", "toy", "--steps", "2", "--set", "batch_size=2"]
    assert main([*words, "--share", "first=1", "--share", "second=1"]) == 0
    assert json.loads((tmp_path / "run" / "method.json").read_text())["shares"] == {"first": 0.5, "second": 0.5}
    assert main([*words, "--resume", "--share", "first"]) != 0
    assert "NAME=NUMBER" in capsys.readouterr().err
