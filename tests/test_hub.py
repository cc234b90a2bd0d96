"""Exports for a model hub: every tensor comes back, the card says what must be said; and what the command line says of a file of weights."""

from __future__ import annotations

import json

import peer_states as states
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_peers import CROPS, MAKERS, written

from asapkit import checkpoint, hub
from asapkit.__main__ import main
from asapkit.config import Config
from asapkit.peers import reading
from asapkit.types import Refused
from asapkit.vit3d import Encoder

pytestmark = pytest.mark.slow  # networks of published sizes: a minute that `make check` has not


@pytest.mark.parametrize("name", CROPS)
def test_an_export_comes_back_tensor_for_tensor(name, tmp_path):
    found = reading.load(written(tmp_path, name), crop=CROPS[name])
    folder = hub.export(found, tmp_path / "out")
    assert {f.name for f in folder.iterdir()} == set(hub.FILES)
    back = hub.load(folder)
    ours, theirs = found.encoder.state_dict(), back.encoder.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert back.encoder.contract == found.encoder.contract and back.encoder.grid == found.encoder.grid
    image = torch.rand(1, 1, *CROPS[name])
    with torch.inference_mode():
        assert torch.equal(found.encoder.tokens(image), back(image))
    told = json.loads((folder / "contract.json").read_text())
    assert told["crop"] == list(CROPS[name]) and told["hash"] == found.encoder.contract.hash


def test_the_text_encoder_is_exported_too(tmp_path):
    file = tmp_path / "bert.bin"
    torch.save(MAKERS["CXR-BERT"](states.Maker()), file)
    found = reading.load(file)
    back = hub.load(hub.export(found, tmp_path / "out")).encoder
    tokens, real = torch.tensor([[1, 2]]), torch.ones(1, 2, dtype=torch.bool)
    assert torch.equal(found.encoder(tokens, real), back(tokens, real))


def test_the_card_names_source_licence_input_and_what_was_dropped(tmp_path):
    folder = hub.export(reading.load(written(tmp_path, "MAE"), crop=CROPS["MAE"]), tmp_path / "out")
    card = (folder / "README.md").read_text()
    for said in ("license: cc-by-nc-4.0", "facebookresearch/mae", "48 x 32 x 32 voxels", "dropped 17: the decoder", "not for diagnosis"):
        assert said in card
    unlicensed = hub.export(reading.load(written(tmp_path, "M3AE"), crop=CROPS["M3AE"]), tmp_path / "other")
    assert "license: unknown" in (unlicensed / "README.md").read_text()


def test_nothing_is_written_over_and_damage_is_refused(tmp_path):
    found = reading.load(written(tmp_path, "MAE"), crop=CROPS["MAE"])
    with pytest.raises(Refused, match="is not empty; give a new folder"):
        hub.export(found, tmp_path)
    folder = hub.export(found, tmp_path / "out")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if "norm1" not in k}, folder / "model.safetensors")
    with pytest.raises(Refused, match="damaged, or of another version"):
        hub.load(folder)
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(Refused, match="damaged"):
        hub.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refused, match=r"no model\.safetensors; give a folder"):
        hub.load(folder)


def test_every_place_that_takes_an_encoder_takes_a_released_file_or_an_export(tmp_path):
    file = written(tmp_path, "PCRLv2")
    assert checkpoint.load_encoder(file).grid == (8, 8, 4)
    folder = hub.export(reading.load(file), tmp_path / "out")
    assert checkpoint.load_encoder(folder).grid == checkpoint.load_encoder(folder / "model.safetensors").grid == (8, 8, 4)


def test_an_export_answers_for_itself_alone(tmp_path):
    """Another file in its folder is read as what it is."""
    folder = hub.export(reading.load(written(tmp_path, "PCRLv2")), tmp_path / "out")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "other.pt").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("nothere.pt", "other.pt", "cut.safetensors"):
        assert not hub.exported(folder / name)
        with pytest.raises(Refused, match=name):
            checkpoint.load_encoder(folder / name)
    assert checkpoint.load_encoder(written(folder, "M3D-CLIP")).grid == (16, 16, 8), "someone else's model in it"
    (folder / "model.safetensors").unlink()
    with pytest.raises(Refused, match="no such file"):
        checkpoint.load_encoder(folder / "model.safetensors")


@pytest.mark.parametrize("content", ['["kind"]', "{", "null", '"kind"'])
def test_a_damaged_configuration_is_named(content, tmp_path):
    folder = hub.export(reading.load(written(tmp_path, "PCRLv2")), tmp_path / "out")
    (folder / "config.json").write_text(content)
    for take in (checkpoint.load_encoder, hub.load, hub.exported):
        with pytest.raises(Refused, match=r"config\.json: damaged"):
            take(folder)


def downloaded(folder, name, file="pytorch_model.bin"):
    """A folder as a model hub gives it: another library's config.json beside the weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": [name], "hidden_size": 768}))
    whole = MAKERS[name](states.Maker())
    state = whole.get("state_dict", whole)
    torch.save(state, folder / file) if file.endswith("bin") else save_file(state, folder / file)
    return folder


@pytest.mark.parametrize(("name", "file"), [("M3D-CLIP", "pytorch_model.bin"), ("HLIP", "model.safetensors")])
def test_a_downloaded_model_is_read_from_its_folder_or_file(name, file, tmp_path):
    folder = downloaded(tmp_path / "model", name, file)
    grid = reading.load(folder / file).encoder.grid
    assert checkpoint.load_encoder(folder).grid == checkpoint.load_encoder(folder / file).grid == grid


def test_of_several_files_of_weights_one_must_be_named(tmp_path):
    folder = downloaded(tmp_path / "model", "HLIP")
    downloaded(folder, "HLIP", "model.safetensors")
    with pytest.raises(Refused, match=r"say which .*: model\.safetensors, pytorch_model\.bin"):
        checkpoint.load_encoder(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").rename(folder / "open_clip.bin")
    with pytest.raises(Refused, match=r"say which .*: open_clip\.bin"):
        checkpoint.load_encoder(folder)
    (folder / "open_clip.bin").unlink()
    with pytest.raises(Refused, match=r"no model\.safetensors or pytorch_model\.bin"):
        checkpoint.load_encoder(folder)


# ---------------------------------------------------------------------------------------------------------------- the command line


def test_the_doctor_does_not_take_another_file_for_an_export(tmp_path, capsys):
    folder = hub.export(reading.load(written(tmp_path, "PCRLv2")), tmp_path / "out")
    (folder / "cut.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:999])
    for name in ("nothere.pt", "cut.safetensors"):
        assert main(["doctor", str(folder / name)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
    assert main(["doctor", str(folder / "model.safetensors"), "--export", str(tmp_path / "again")]) == 1
    assert "is an export already" in capsys.readouterr().err


@pytest.mark.parametrize("said", [None, [1], {}, {"report": 3}])
def test_an_export_that_does_not_say_where_it_is_from_is_named(said, tmp_path, capsys):
    folder = hub.export(reading.load(written(tmp_path, "PCRLv2")), tmp_path / "out")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"said": said}))
    assert main(["doctor", str(folder / "model.safetensors")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json: has no report under `said`" in line


def test_a_text_encoder_is_scored_on_no_store(tmp_path, toy_store, capsys):
    folder = downloaded(tmp_path / "model", "CXR-BERT")
    exported = hub.export(reading.load(folder / "pytorch_model.bin"), tmp_path / "out")
    for source in (folder, folder / "pytorch_model.bin", exported):
        assert main(["evaluate", str(source), str(toy_store)]) == 1
        assert "encodes text, not volumes" in capsys.readouterr().err


def test_the_doctor_tells_of_weights_and_exports_them(tmp_path, capsys):
    file = written(tmp_path, "PCRLv2")
    assert main(["doctor", str(file), "--export", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("PCRLv2 (arXiv 2301.00772") and "dropped 6: the expanding half" in shown.out and not shown.err
    assert f"exported to {tmp_path / 'out'}" in shown.out
    assert main(["doctor", str(tmp_path / "out" / "model.safetensors")]) == 0
    assert capsys.readouterr().out.startswith("PCRLv2")


@pytest.mark.parametrize("make", ["absent", "empty", "unknown", "cut"])
def test_bad_weights_are_one_line_and_exit_code_1(make, tmp_path, capsys):
    file = tmp_path / "bad.pt"
    if make == "empty":
        file.write_bytes(b"")
    elif make == "unknown":
        torch.save({"backbone.weight": torch.ones(2)}, file)
    elif make == "cut":
        torch.save({"backbone.weight": torch.ones(2)}, file)
        file.write_bytes(file.read_bytes()[:200])
    assert main(["doctor", str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.pt" in line


def test_export_is_for_weights_only(tmp_path, capsys):
    assert main(["doctor", str(tmp_path), "--export", str(tmp_path / "out")]) == 1
    assert "--export needs a file of weights" in capsys.readouterr().err


def test_a_run_folder_that_lacks_weights_is_named(tmp_path, capsys):
    config = Config.at("toy")
    config.save(tmp_path / "config.json")
    (tmp_path / "method.json").write_text("{}")
    assert main(["doctor", str(tmp_path)]) == 1
    assert "weights.safetensors" in capsys.readouterr().err
    state = {f"encoder.{k}": v for k, v in Encoder(config).state_dict().items()}
    gone = sorted(k for k in state if k.endswith("bias"))[0]
    save_file({k: v for k, v in state.items() if k != gone}, tmp_path / "weights.safetensors")
    assert main(["doctor", str(tmp_path)]) == 1
    assert f"lacks {gone.removeprefix('encoder.')}" in capsys.readouterr().err


def test_the_weights_of_a_run_of_this_house_are_known(tmp_path, capsys):
    config = Config.at("toy")
    encoder = Encoder(config)
    save_file(
        {f"encoder.{k}": v for k, v in encoder.state_dict().items()} | {"decoder.mask_token": torch.ones(1, 1, 48)}, tmp_path / "weights.safetensors"
    )
    config.save(tmp_path / "config.json")
    assert main(["doctor", str(tmp_path / "weights.safetensors")]) == 0
    assert "a run of this library, scale toy" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path)]) == 0
    assert "a run of this library, scale toy" in capsys.readouterr().out, "its folder is checked as its weights are"
    found = reading.load(tmp_path / "weights.safetensors")
    assert list(found.report.dropped) == ["decoder.mask_token"]
    with pytest.raises(Refused, match="keep its own crop"):
        reading.load(tmp_path / "weights.safetensors", crop=(48, 48, 24))
    assert all(torch.equal(v, checkpoint.load_encoder(tmp_path / "weights.safetensors").state_dict()[k]) for k, v in encoder.state_dict().items())
    back = hub.load(hub.export(found, tmp_path / "out")).encoder
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in encoder.state_dict().items())


def test_the_encoder_of_a_recipe_that_has_its_own_comes_back(tmp_path):
    config = Config.at("toy", pool=2)
    encoder = Encoder(config).eval()
    save_file({f"encoder.{k}": v for k, v in encoder.state_dict().items()}, tmp_path / "weights.safetensors")
    config.save(tmp_path / "config.json")
    (tmp_path / "method.json").write_text('{"recipe": "mrm", "options": {}, "weights": {}}')
    image = torch.rand(1, 1, *config.crop)
    for found in (checkpoint.load_encoder(tmp_path), hub.load(hub.export(reading.load(tmp_path / "weights.safetensors"), tmp_path / "out")).encoder):
        assert torch.equal(found.tokens(image), encoder.tokens(image))
