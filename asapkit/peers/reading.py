"""Opens a file of weights without running what is in it, says whose it is, and loads its encoder whole or not at all."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from asapkit import checkpoint
from asapkit.peers import networks
from asapkit.peers.building import Built
from asapkit.peers.families import FAMILIES
from asapkit.peers.family import Family, says, shallower, unlike
from asapkit.peers.frame import Triple
from asapkit.peers.report import Report
from asapkit.types import Refused

CONTAINERS = ("state_dict", "model_state_dict", "model")
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.|trained_model\.)+")  # DataParallel, torch.compile, Lightning, CT-LiPro
DOWNLOADED = ("model.safetensors", "pytorch_model.bin")  # the names that model hubs give
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
REALS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
UNMATCHED = 10  # names of an unknown file that its refusal spells out
State = dict[str, Tensor]


@dataclass
class Loaded:
    """An encoder in eval mode on the CPU, what became of every tensor of its file, and how it can be made again."""

    encoder: nn.Module
    report: Report
    kind: str
    settings: dict


def load(file: Path | str, *, crop: Triple | None = None) -> Loaded:
    """The encoder of a released checkpoint.

    crop: voxels x, y, z of another crop than the published one; positions are computed or interpolated for its grid.
    Raises: Refused, in one line, for a file that cannot be read safely, an unknown family, missing tensors or odd shapes, and NaN.
    """
    file = Path(file)
    state, left = opened(file)
    if ("encoder.embed.weight" in state or file.name == "weights.safetensors") and checkpoint.is_run(file.parent):
        if crop is not None:
            raise Refused(f"{file.name}: weights of a run, which keep its own crop; leave the crop out")
        return _own(file, state)
    family = recognise(state, name=file.name)
    report = Report(family.name, family.source, family.licence, dropped=left, warnings=list(family.remarks))
    ours = translate(state, family, report, name=file.name)
    _widen(ours, report)
    built = _built(family, ours, crop, name=file.name)
    shallower(built.settings, family.sizes, name=f"{file.name}: {family.name}")
    device = next(iter(built.state.values())).device
    with torch.device(device):
        encoder = networks.make(built.kind, built.settings)
    _whole(encoder, built.state, report, name=file.name)
    checkpoint.fill(encoder, built.state, file.name)
    report.adapted |= built.adapted
    report.warnings += built.warnings + unlike(built.settings, family.sizes)
    report.contract = says(encoder)
    return Loaded(encoder.eval(), report, built.kind, built.settings)


def _own(file: Path, state: State) -> Loaded:
    """The weights of a run of this house, with its config.json beside them."""
    used = {n: n.removeprefix("encoder.") for n in state if n.startswith("encoder.")}
    for n in used:
        admit(n, state[n], file=file.name)
    encoder = checkpoint.run_encoder(file.parent, state, str(file))
    rest = {n: "decoder and heads of pre-training: checkpoint.load_method reads them with the run" for n in state if n not in used}
    report = Report("asapkit", f"a run of this library, scale {encoder.config.scale}", "the trainer's own", renamed=used, dropped=rest)
    report.contract = says(encoder)
    return Loaded(encoder, report, "house", {"config": asdict(encoder.config)})


def _built(family: Family, ours: State, crop: Triple | None, *, name: str) -> Built:
    asked = {} if crop is None or family.kind == "text" else {"crop": tuple(crop)}
    try:
        return family.build(ours, **asked)
    except KeyError as error:
        raise Refused(f"{name}: {family.name} without {error.args[0]}; the file is incomplete") from error
    except Refused as error:
        raise Refused(f"{name}: {family.name}: {error}") from error
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise Refused(f"{name}: {family.name} with tensors of other shapes ({' '.join(str(error).split())[:160]})") from error


def _whole(encoder: nn.Module, state: State, report: Report, *, name: str) -> None:
    """Raises: Refused in the file's own names where a tensor is missing or of another shape than the rest of the file asks for."""
    theirs = {ours: their for their, ours in report.renamed.items()}
    for key, wanted in encoder.state_dict().items():
        said = theirs.get(key, key)
        if key not in state:
            raise Refused(f"{name}: {report.family} without {said}; the file is incomplete")
        if state[key].shape != wanted.shape:
            shapes = f"{tuple(state[key].shape)}, where the rest of the file asks for {tuple(wanted.shape)}"
            raise Refused(f"{name}: {report.family} with {said} of shape {shapes}")


# -------------------------------------------------------------------------------------------------------------------- opening


def weights_in(folder: Path | str) -> Path:
    """The file of weights of a folder as a model hub gives it.  Raises: Refused, saying which there are, where there is not one."""
    folder = Path(folder)
    usual = [folder / name for name in DOWNLOADED if (folder / name).is_file()]
    if len(usual) == 1:
        return usual[0]
    others = usual or sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    if not others:
        raise Refused(f"{folder}: no {' or '.join(DOWNLOADED)} in it; give a run folder that `pretrain` wrote, or a file of weights")
    raise Refused(f"{folder}: say which file of weights is meant, by its whole path: {_listed([f.name for f in others])}")


def opened(file: Path | str) -> tuple[State, dict[str, str]]:
    """Tensors by name, containers and wrappers taken off; and what else the file holds, with the reason why it is left there.

    Raises: Refused for a missing, damaged or unsafe file, and for one without tensors.
    """
    file = Path(file)
    if not file.is_file():
        raise Refused(f"{file}: no such file")
    whole = _safetensors(file) if _is_safetensors(file) else _pickle(file)
    left: dict[str, str] = {}
    while isinstance(whole, Mapping) and (inner := next((c for c in CONTAINERS if isinstance(whole.get(c), Mapping)), None)):
        left |= {str(name): "beside the weights: not read" for name in whole if name != inner}
        whole = whole[inner]
    if not isinstance(whole, Mapping):
        raise Refused(f"{file.name}: holds a {type(whole).__name__}, no weights by name")
    state = unwrapped({str(name): value for name, value in whole.items() if isinstance(value, Tensor)}, name=file.name)
    left |= {str(name): "no tensor" for name, value in whole.items() if not isinstance(value, Tensor)}
    if not state:
        inside = [str(name) for name, value in whole.items() if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values())]
        raise Refused(f"{file.name}: holds no weights under {', '.join(CONTAINERS)}" + (f"; save {_listed(inside)} alone" if inside else ""))
    if bare := [name for name, value in state.items() if value.is_meta]:
        raise Refused(f"{file.name}: {bare[0]} has a shape but no numbers (a meta tensor); save it again from a model with its weights")
    return state, left


def unwrapped(state: State, *, name: str) -> State:
    """Names without what a trainer put before them.  Raises: Refused where two tensors that differ come to one name."""
    plain: State = {}
    for wrapped, value in state.items():
        short = WRAPPERS.sub("", wrapped)
        if short in plain and not _same(plain[short], value):
            raise Refused(f"{name}: {wrapped} and another tensor called {short} differ; save one set of weights alone")
        plain[short] = value
    return plain


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal numbers; a tensor without any (meta) may be any. What torch cannot compare is not the same."""
    try:
        return one.is_meta or other.is_meta or torch.equal(one, other)
    except (RuntimeError, NotImplementedError):  # kinds and layouts that weights do not have
        return False


def _is_safetensors(file: Path) -> bool:
    """By its suffix or its first bytes: the length of a header, then json."""
    with file.open("rb") as stream:
        return file.suffix.lower() == ".safetensors" or stream.read(9)[8:] == b"{"


def _safetensors(file: Path) -> State:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        raise Refused(f"{file.name}: truncated or damaged, not readable as safetensors; fetch it again") from error


def _pickle(file: Path) -> object:
    """A pickle's plain values and tensors. `argparse.Namespace`, in which several sources keep their settings, only holds values."""
    _look_into(file)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the pickle's protocol; what is wrong is said below
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        said = str(error)
        if found := re.search(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class|operand|type)\W+(?:GLOBAL )?(\S+)", said):
            what = (found[1] or found[2]).strip(".,'`")
            if not what.isdigit():  # a number is an instruction that no file of weights has, no name
                raise Refused(
                    f"{file.name}: not opened, it holds {what}, which could run code; ask its authors for safetensors or for tensors alone"
                ) from error
        raise Refused(f"{file.name}: not a file of weights, or damaged; fetch it again") from error
    except Exception as error:  # a damaged pickle may ask for anything
        raise Refused(f"{file.name}: truncated or damaged, torch cannot read it; fetch it again") from error


def _look_into(file: Path) -> None:
    """Raises: Refused for a zip that is cut short, and for a program (TorchScript)."""
    with file.open("rb") as stream:
        if stream.read(2) != b"PK":
            return
    try:
        if not zipfile.is_zipfile(file):
            raise zipfile.BadZipFile("no list of contents at its end")
        with zipfile.ZipFile(file) as whole:
            names = whole.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
        raise Refused(f"{file.name}: truncated or damaged; fetch it again") from error
    if any(Path(name).name == "constants.pkl" for name in names):
        raise Refused(f"{file.name}: not opened, it is a program (TorchScript); save its state_dict where you trust it")


# ---------------------------------------------------------------------------------------------------------------- recognising


def recognise(state: Mapping[str, Tensor], *, name: str) -> Family:
    """The family whose fingerprint the names and ranks of tensors are.

    Raises: Refused naming the family that comes nearest, and the first ten names that are none of its own.
    """
    for family in FAMILIES:
        if family.fits(state):
            return family
    nearest = max(FAMILIES, key=lambda f: _likeness(f, state))
    if not any(_likeness(nearest, state)):
        known = ", ".join(f.name for f in FAMILIES)
        raise Refused(f"{name}: weights of no known family, and nothing in it is like any of {known}; its names: {_listed(list(state))}")
    strange = [n for n in state if nearest.place(n) is None]
    lacks = nearest.missing(state)
    why = f"which has {lacks}" if lacks else "but something of another is in it"
    names = f"; names unknown there: {_listed(strange)}" if strange else ""
    raise Refused(f"{name}: weights of no known family; nearest is {nearest.name}, {why}{names}")


def _likeness(family: Family, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many names the family's encoder has, then how many it knows at all."""
    places = [place for n in state if (place := family.place(n)) is not None]
    return sum(bool(ours) for ours, _ in places), len(places)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:UNMATCHED]) + (f" and {len(names) - UNMATCHED} more" if len(names) > UNMATCHED else "")


def translate(state: State, family: Family, report: Report, *, name: str) -> State:
    """Tensors under our names; fills the report.  Raises: Refused for names that the family does not have, or two tensors for one place."""
    strange = [n for n in state if family.place(n) is None]
    if strange:
        raise Refused(f"{name}: looks like {family.name}, but that has no {_listed(strange)}; nothing is loaded in part")
    ours: State = {}
    came: dict[str, str] = {}
    for theirs, value in state.items():
        target, why = family.place(theirs)
        if target:
            admit(theirs, value, file=name)
        if target in ours and not _same(ours[target], value):
            raise Refused(f"{name}: {theirs} and {came[target]} differ, and both are {target}")
        if not target or target in ours:
            report.dropped[theirs] = why or f"the same as {came[target]}"
            continue
        ours[target], came[target] = value, theirs
        if target == theirs:
            report.matched.append(theirs)
        else:
            report.renamed[theirs] = target
    return _joined(ours, name=name)


def admit(theirs: str, value: Tensor, *, file: str) -> None:
    """Raises: Refused, by name, for a tensor that is no plain table of finite real numbers; a count without axes may be whole."""
    if value.is_nested or value.layout is not torch.strided:
        why = "is not stored densely"
    elif 0 in value.shape:
        raise Refused(f"{file}: {theirs} of shape {tuple(value.shape)} holds no numbers; fetch the file again")
    elif value.dtype not in REALS and not (value.ndim == 0 and value.dtype in WHOLE):
        why = f"holds {str(value.dtype).removeprefix('torch.')}"
    elif not value.is_meta and not torch.isfinite(value.float()).all():
        raise Refused(f"{file}: {theirs} holds NaN or infinity; a training that diverged, or a damaged file")
    else:
        return
    raise Refused(f"{file}: {theirs} {why}; weights are read as dense float32, float16, bfloat16 or float64: save it so")


def _joined(state: State, *, name: str) -> State:
    """Query, key and value that a source keeps apart ("x:q", "x:k", "x:v") as one tensor.  Raises: Refused where one of them is missing."""
    for whole in dict.fromkeys(n.rpartition(":")[0] for n in state if ":" in n):
        thirds = [state.pop(f"{whole}:{third}", None) for third in "qkv"]
        if any(third is None for third in thirds):
            raise Refused(f"{name}: {whole} lacks its query, key or value; the file is incomplete")
        if len({tuple(third.shape) for third in thirds}) > 1:
            raise Refused(f"{name}: query, key and value of {whole} have the shapes {', '.join(str(tuple(third.shape)) for third in thirds)}")
        state[whole] = torch.cat(thirds)
    return state


def _widen(state: State, report: Report) -> None:
    """Widens to float32 in place; says so."""
    kinds = {str(v.dtype).removeprefix("torch.") for v in state.values() if v.is_floating_point() and v.dtype != torch.float32}
    state |= {key: value.float() for key, value in state.items() if value.is_floating_point()}
    if kinds:
        report.warnings.append(f"stored as {' and '.join(sorted(kinds))}, computed in float32")
