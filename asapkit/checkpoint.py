"""Weights + configuration + contract of a run: safe to write under a kill, read back with nothing silently missing."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asapkit.config import Config
from asapkit.encoders import image_encoder
from asapkit.types import Refused
from asapkit.vit3d import load_mae_blocks


def make_method(recipe: str, config: Config, options: dict, *, store=None, vocabulary: Tensor | None = None) -> nn.Module:
    """The recipe's Method; a recipe with a word head gets the vocabulary of the store's training reports unless one is given.

    Raises: ValueError for an option that the recipe does not have.
    """
    try:
        module = import_module(f"asapkit.recipes.{recipe}")
    except ModuleNotFoundError as error:
        raise ValueError(f"unknown recipe {recipe!r}") from error
    try:
        has_words = "vocabulary" in inspect.signature(module.Method.__init__).parameters
        if has_words and vocabulary is None and store is not None and options.get("fidelity") != "official":
            vocabulary = corpus_vocabulary(store, config)
        return module.Method(config, **({} if vocabulary is None else {"vocabulary": vocabulary}), **options)
    except TypeError as error:
        raise ValueError(f"recipe {recipe}: {error}") from error


def corpus_vocabulary(store, config: Config) -> Tensor:
    """Sorted token ids that occur in the training reports."""
    from asapkit import reports
    from asapkit.language import tokenizer

    rows = store.table[store.table["split"] == "train"]
    texts = sorted({reports.join(f, i) for f, i in zip(rows["findings"], rows["impression"], strict=True)})
    if not texts:
        return torch.arange(len(tokenizer(config.text_encoder)))
    encoded = tokenizer(config.text_encoder)(texts, truncation=True, max_length=config.max_tokens)["input_ids"]
    return torch.tensor(sorted({i for ids in encoded for i in ids}))


def trained_state(method: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers but the frozen text encoder's."""
    frozen = getattr(method, "frozen", ())
    return {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items() if not k.startswith(tuple(frozen))}


def save(method: nn.Module, run: Path, *, optimizer: torch.optim.Optimizer, history: list[dict], rng: Tensor) -> None:
    """weights.safetensors, state.pt and history.csv; a kill between any two bytes leaves the last complete checkpoint readable.

    rng: of `distributed.random_states`.
    """
    run = Path(run)
    weights = trained_state(method)
    state = {"optimizer": optimizer.state_dict(), "rng": rng, "history": history, "weights": weights}
    _replace(run / "state.pt", lambda path: torch.save(state, path))
    _replace(run / "weights.safetensors", lambda path: save_file(weights, path, metadata={"format": "pt"}))
    import pandas as pd

    _replace(run / "history.csv", lambda path: pd.DataFrame(history).to_csv(path, index=False))


def _replace(path: Path, write) -> None:
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors say a full disk each in a way of their own
        part.unlink(missing_ok=True)
        why = " ".join(str(error).split())[:200]
        raise Refused(f"{path}: cannot be written ({why}); free some disk space, then resume: the last checkpoint is kept") from error


def steps_done(run: Path) -> int:
    """Optimiser steps of a run folder up to its last checkpoint; 0 where there is none."""
    import pandas as pd

    history = Path(run) / "history.csv"
    return len(pd.read_csv(history)) if history.exists() and (Path(run) / "weights.safetensors").exists() else 0


def load_state(run: Path) -> dict:
    """Optimiser, random state, history and weights of the last checkpoint."""
    try:
        return torch.load(Path(run) / "state.pt", weights_only=True)
    except Exception as error:
        raise Refused(f"{run}/state.pt: cannot be read ({type(error).__name__}); delete the run folder and start again") from error


def fill(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Loads every tensor or none.  Raises: Refused naming what is missing, left over or of another shape."""
    frozen = tuple(getattr(module, "frozen", ()))
    own = {k: v for k, v in module.state_dict().items() if not (frozen and k.startswith(frozen))}
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    for problem, names in (("lacks", missing), ("has keys that fit nothing:", extra), ("has other shapes for", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Refused(f"{source}: {problem} {', '.join(names[:3])}{more}; was it made by another version?")
    module.load_state_dict(state, strict=not frozen)


def read_weights(run: Path) -> dict[str, Tensor]:
    file = Path(run) / "weights.safetensors" if Path(run).is_dir() else Path(run)
    if not file.exists():
        raise Refused(f"{file}: no weights there; give a run folder that `pretrain` wrote")
    try:
        return load_file(file)
    except Exception as error:
        raise Refused(f"{file}: not a readable safetensors file ({type(error).__name__})") from error


def read_config(folder: Path) -> Config:
    """Raises: Refused, naming the file, for a damaged config.json or one of another version."""
    try:
        return Config.load(folder / "config.json")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused(f"{folder / 'config.json'}: damaged, or written by another version ({error}); take it from a copy, or train again") from error


def settings(run: Path) -> tuple[Config, dict]:
    """Configuration of a run, and what method.json says: recipe, options, weights of the losses. Raises: Refused for a damaged file."""
    config = read_config(run)
    try:
        said = json.loads((run / "method.json").read_text())
        return config, {name: said[name] for name in ("recipe", "options")} | said
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{run / 'method.json'}: damaged ({error}); take it from a copy, or train again") from error


def record_store(run: Path, store: Path, others: Mapping[str, Path] | None = None) -> None:
    """Writes data.json: where the store of a training lies, seen from the run's folder, so that both may move together.

    others: every store by name where there were several; `store` is the first of them.
    """
    seen = {name: os.path.relpath(Path(place).absolute(), Path(run).absolute()) for name, place in {"": store, **(others or {})}.items()}
    said = {"store": seen.pop("")} | ({"stores": seen} if seen else {})
    (Path(run) / "data.json").write_text(json.dumps(said) + "\n")


def trained_on(run: Path) -> Path | None:
    """Where a run says that its store lies; None where it does not say. Nothing is looked for there."""
    try:
        return Path(os.path.normpath(Path(run).absolute() / json.loads((Path(run) / "data.json").read_text())["store"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def load_method(run: Path) -> nn.Module:
    """The trained method of a run folder, or the released ASAP from its file of weights; in eval mode on the CPU."""
    run = Path(run)
    if run.is_file() and not is_run(run.parent):
        from asapkit import released

        return released.load(run)
    run = run.parent if run.is_file() else run
    require_one(run)
    for name in ("config.json", "method.json"):
        if not (run / name).exists():
            raise Refused(f"{run}: no {name}; give a run folder that `pretrain` wrote")
    config, said = settings(run)
    state = read_weights(run)
    vocabulary = next((value for name, value in state.items() if name.endswith("words.vocabulary")), None)
    method = make_method(said["recipe"], config, said["options"], vocabulary=vocabulary)
    fill(method, state, str(run))
    return method.eval()


def described(folder: Path) -> dict:
    """What config.json of a folder says; empty where there is none.  Raises: Refused, naming the file, where it says nothing by name."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{file}: damaged ({' '.join(str(error).split())[:160]}); take it from a copy") from error
    if not isinstance(said, dict):
        raise Refused(f"{file}: damaged (a {type(said).__name__}, where settings by name belong); take it from a copy")
    return said


def is_run(folder: Path) -> bool:
    """Whether `pretrain` wrote a folder: method.json is there, or its config.json has a scale."""
    return (Path(folder) / "method.json").is_file() or "scale" in described(folder)


def load_encoder(source: Path | str) -> nn.Module:
    """The encoder of a run, an exported or a downloaded folder, a weights file in one of these, or another method's released file; eval mode, CPU."""
    return _opened(Path(source))[0]


def require_one(folder: Path) -> None:
    """Raises: Refused for a folder that holds runs and is none, naming them."""
    inside = sorted(f.parent.name for f in folder.glob("*/method.json")) if folder.is_dir() and not is_run(folder) else []
    if inside:
        names = ", ".join(inside[:5]) + " ..." * (len(inside) > 5)
        raise Refused(f"{folder}: holds {len(inside)} run{'s' * (len(inside) > 1)}, {names}; give one of them")


def _opened(source: Path) -> tuple[nn.Module, str]:
    """`load_encoder`, and in one line what became of the names of a file that is not a run's folder or an export."""
    from asapkit import hub
    from asapkit.peers import reading

    if hub.exported(source):
        return hub.load(source if source.is_dir() else source.parent).encoder, ""
    require_one(source)
    if source.is_dir() and (is_run(source) or (source / "weights.safetensors").exists()):
        return run_encoder(source, read_weights(source), str(source)), ""
    found = reading.load(reading.weights_in(source) if source.is_dir() else source)
    return found.encoder, found.report.brief()


def run_encoder(run: Path, state: dict[str, Tensor], source: str) -> nn.Module:
    """The encoder among the tensors of a run, made as the run's config.json says."""
    if not (run / "config.json").exists():
        raise Refused(f"{source}: no config.json beside the weights; give a run folder that `pretrain` wrote")
    encoder = image_encoder(read_config(run))
    fill(encoder, {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}, source)
    return encoder.eval()


def start_from(encoder: nn.Module, source: Path | str) -> str:
    """Fills an encoder that is about to be trained from `load_encoder(source)`; one line that says what was taken.

    Everything where the two are alike; the blocks and the last norm alone where another patch, grid or stem stands before them, as ImageNet's MAE
    weights are taken (methods.md E1).

    Raises: Refused where not even the blocks fit.
    """
    (other, said), wanted = _opened(Path(source)), encoder.state_dict()
    state, said = other.state_dict(), f" ({said})" if said else ""
    turned = [k for k in ("frequencies",) if k in state and k in wanted and not torch.equal(state[k], wanted[k])]
    if turned:
        raise Refused(f"{source}: its places are turned by other frequencies; give the rope and rope_base that it was trained with")
    if state.keys() == wanted.keys() and all(state[k].shape == wanted[k].shape for k in wanted):
        encoder.load_state_dict(state)
        return f"encoder starts from {source}, whole{said}"
    if not hasattr(encoder, "blocks"):
        if state.keys() == wanted.keys() and other.width != encoder.width:
            raise Refused(f"{source}: its encoder has {other.width} features, this one {encoder.width}; set width={other.width}")
        raise Refused(f"{source}: its encoder is not of the kind that this recipe trains")
    try:
        load_mae_blocks(encoder, state)
    except ValueError as error:
        raise Refused(f"{source}: its blocks do not fit this encoder ({error}); choose a scale or settings of the same width and depth") from error
    taken = f"its {len(encoder.blocks)} blocks and last norm; patch embedding, class token and positions begin afresh"
    return f"encoder starts from {source}: {taken}{said}"


def random_encoder(config: Config, *, seed: int = 0) -> nn.Module:
    """The untrained encoder of a configuration: the floor of every comparison."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return image_encoder(config).eval()
