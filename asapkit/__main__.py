"""The thin command line: every command is one library call. `asapkit` and `python -m asapkit`.

Exit codes: 0 all good; 2 finished, but some volumes were refused (listed); 1 nothing usable or wrong usage, in one clear line.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import asapkit

GOOD, UNUSABLE, SOME_REFUSED = 0, 1, 2
CORES = os.cpu_count() or 1
HELD = ("weights.safetensors", "model.safetensors", "pytorch_model.bin")  # what a folder of a run, or of a model hub, calls its weights
WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
EXPECTED = (ValueError, OSError, ImportError, LookupError, FloatingPointError)  # said in one line; anything else is our fault and says where


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        """Wrong usage is exit code 1 here: 2 says that volumes were refused."""
        self.exit(UNUSABLE, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        return options.command(options)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept, run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `asapkit ... | head`
        sys.stderr.close()
        return GOOD
    except EXPECTED as error:
        if options.debug or (isinstance(error, ImportError) and str(error.name).startswith("asapkit")):
            raise
        from tqdm import tqdm

        tqdm.write(f"asapkit: {_one_line(error)}", file=sys.stderr)  # not on the line of a progress bar
        return UNUSABLE


def parser() -> Parser:
    top = Parser(prog="asapkit", description="Chest-CT vision-language pre-training: phantom or real scans in, encoders, scores and figures out.")
    top.add_argument("--version", action="version", version=f"asapkit {asapkit.version()}")
    top.add_argument("--debug", action="store_true", help="progress notes, and a full traceback for an error")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function, about: str, *arguments: tuple) -> None:
        sub = commands.add_parser(function.__name__, help=about, description=about)
        for names, settings in arguments:
            sub.add_argument(*names, **settings)
        sub.set_defaults(command=function)

    scale = _argument("--scale", default="small", help="toy, small or base (default: small)")
    _data_commands(command, scale)
    _model_commands(command, scale)
    return top


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, not {text!r}")
    return int(text)


def _argument(*names: str, **settings) -> tuple:
    return names, settings


def _data_commands(command, scale: tuple) -> None:
    workers = _argument("--workers", type=_count, default=CORES, metavar="N", help=f"processes (default: {CORES})")
    command(
        phantom, "make the embedded synthetic cohort", _argument("out", metavar="OUT", type=Path),
        _argument("--volumes", type=int, default=200, metavar="N", help="how many (default: 200)"),
        _argument("--seed", type=int, default=0, metavar="S"), scale, workers,
    )  # fmt: skip
    command(
        doctor, "look for faults in a dataset, a store, a run or a file of weights; without one, describe this environment",
        _argument("dataset", metavar="DATASET", type=Path, nargs="?", help="a dataset, one scan, a store, a run folder, or weights (.pt ...)"),
        _layout(), workers, _argument("--export", type=Path, metavar="DIR", help="write the encoder of a file of weights, ready for a model hub"),
        _argument("--crop", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of another crop: the positions of weights for its grid"),
    )  # fmt: skip
    command(
        preprocess, "volumes, organs and reports into a store", _argument("dataset", metavar="DATASET", type=Path),
        _argument("store", metavar="STORE", type=Path), _layout(), scale, workers,
        _argument("--scheduler", metavar="ADDRESS", help="an existing Dask cluster, tcp://host:port"),
        _argument("--labels", type=Path, metavar="FILE.csv", help="labels by id in place of the dataset's own, such as asapkit label wrote"),
    )  # fmt: skip
    command(
        label, "silver labels: the 18 findings read from report text",
        _argument("data", metavar="DATA", type=Path, help="a dataset, a store, or a csv of reports"),
        _argument("out", metavar="OUT.csv", type=Path), _layout(),
        _argument("--labeller", default="rules", help="rules, huggingface or endpoint (default: rules)"),
        _argument("--model", help="folder of a Hugging Face model, or what an endpoint calls its own"),
        _argument("--url", help="of an OpenAI-compatible endpoint on this machine, http://localhost:8000/v1"),
        _argument("--allow-remote", action="store_true", help="let reports leave this machine, to that url"),
        _argument("--key-file", type=Path, metavar="FILE", help="holds the endpoint's key"),
        _argument("--unmentioned", type=int, choices=(0, -1), help="label of what a report does not speak of (default: 0 by rules, -1 by models)"),
        _argument("--cache", type=Path, metavar="DIR", help="keeps answers, so that a stopped run goes on"),
        _argument("--workers", type=_count, default=1, metavar="N", help="requests at a time (default: 1)"),
    )  # fmt: skip
    command(
        view, "open a volume in napari, in three planes, with what a run makes of it",
        _argument("data", metavar="DATA", type=Path, help="a store, a run folder (the store that it was trained on) or a scan"),
        _argument("volume", metavar="VOLUME", nargs="?", default="", help="of a store (default: its first)"),
        _argument("--run", type=Path), _argument("--sentence", help="show its patches (needs --run)"),
    )  # fmt: skip


def _layout() -> tuple:
    known = sorted(p.stem for p in (Path(__file__).parent / "datasets").glob("[a-z]*.py"))
    return _argument("--layout", default="ct_rate", choices=known, help="how the dataset lies on disk (default: ct_rate)")


def _model_commands(command, scale: tuple) -> None:
    setting = _argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help="may be given several times")
    command(
        pretrain, "train a recipe on a store, or on several", _argument("stores", metavar="STORE", type=Path, nargs="+"),
        _argument("run", metavar="RUN", type=Path),
        _argument("--share", action="append", default=[], metavar="NAME=NUMBER", help="how often one of several stores is drawn"),
        _argument("--recipe", default="asap"), scale, _argument("--steps", type=int, metavar="N"),
        _argument("--resume", action="store_true", help="go on from the last checkpoint"),
        _argument("--save-every", type=_count, default=100, metavar="N", help="steps between two checkpoints (default: 100)"),
        _argument("--init", type=Path, metavar="ENCODER", help="run folder or weights file whose encoder is the start (MAE's of ImageNet, say)"),
        setting,
    )  # fmt: skip
    command(
        evaluate, "score an encoder on downstream tasks", _argument("encoder", metavar="ENCODER", help="run folder, weights file or name"),
        _argument("data", metavar="DATA", type=Path, help="a store, or a folder with one store per dataset"),
        _argument("--tasks", nargs="+", default=["classify"]), _argument("--out", type=Path, help="folder for scores.csv"),
        _argument("--prompts", metavar="SET", help="statements of the task zeroshot (default: ct-clip-v1)"),
    )  # fmt: skip
    command(parity, "ASAP in official mode beside stored outputs of the released model", _argument("folder", metavar="DIR", type=Path))
    command(
        estimate, "time, memory and disk of a training, before it is started", _argument("--recipe", default="asap"), scale,
        _argument("--volumes", type=int, required=True, metavar="N"), _argument("--epochs", type=int, required=True, metavar="N"),
        _argument("--gpus", type=int, default=1, metavar="N", help="devices (default: 1)"),
        _argument("--tflops", type=float, metavar="RATE", help="what one device sustains in training (default: measured here for a second)"), setting,
    )  # fmt: skip
    command(
        look, "where a method sees a sentence in a scan: PNG, map as NIfTI, list of patches", _argument("scan", metavar="SCAN", type=Path),
        _argument("--run", type=Path, required=True), _argument("--sentence", required=True), _argument("out", metavar="OUT", type=Path),
        _argument("--slope", type=float, metavar="X", help="of a file that holds stored values"), _argument("--intercept", type=float, metavar="X"),
    )  # fmt: skip
    command(
        run, "notebooks through papermill, names and types checked first", _argument("notebooks", metavar="NOTEBOOK", type=Path, nargs="+"),
        setting, _argument("--matrix", type=Path, metavar="FILE.yaml", help="name: [values] for every combination, or a list of cells"),
        _argument("--out", type=Path, default=Path("build"), help="default: build"),
    )  # fmt: skip
    command(
        gallery, "executed notebooks as a website in a folder", _argument("folder", metavar="FOLDER", type=Path, help="what asapkit run wrote"),
        _argument("out", metavar="OUT", type=Path),
    )  # fmt: skip
    command(demo, "the whole job on the phantom", _argument("--out", type=Path, default=Path("demo"), help="default: demo"))


# ------------------------------------------------------------------------------------------------------------------- the commands


def phantom(options) -> int:
    from asapkit.phantom import cohort

    root = cohort.make(options.out, volumes=options.volumes, seed=options.seed, scale=options.scale, workers=options.workers)
    print(f"{options.volumes} volumes in {root}")
    return GOOD


def doctor(options) -> int:
    from asapkit import doctor as library

    if options.dataset is None:
        print("\n".join(f"{name:<24} {value}" for name, value in library.environment().items()))
        return GOOD
    inside = [name for name in HELD if (options.dataset / name).is_file()] or HELD[:1] * (options.dataset / "method.json").is_file()
    options.dataset = options.dataset.joinpath(*inside[:1])  # of a run's folder, or of one as a model hub gives it
    if options.dataset.suffix.lower() in WEIGHTS and not options.dataset.is_dir():
        return _weights(options)
    if options.export or options.crop:
        raise ValueError(f"--{'export' if options.export else 'crop'} needs a file of weights")
    if (options.dataset / "preprocess.json").is_file():
        scans, found = library.stored(options.dataset)
    elif options.dataset.is_file() and options.dataset.suffix != ".csv":
        scans, found = 1, library.examine(options.dataset)
    else:
        listed = list(_scans(options))
        scans, found = len(listed), library.check(listed, workers=options.workers)
    _list((f.id, str(f)) for f in found)
    ill = {f.id for f in found if f.level == "error"}
    print(f"{scans} looked at, {len(ill)} with errors, {sum(f.level == 'warning' for f in found)} warnings")
    return UNUSABLE if len(ill) >= scans else SOME_REFUSED if ill else GOOD


def preprocess(options) -> int:
    from asapkit import store, tables
    from asapkit.config import Config

    config = Config.at(options.scale)
    scans = _scans(options)
    if options.labels:
        from asapkit import labels

        scans = labels.relabelled(scans, options.labels)
    report = store.write(scans, options.store, config=config, workers=options.workers, scheduler=options.scheduler)
    _list([*((r.id, r.reason) for r in report.refused), *(("warning", torn) for torn in tables.split_patients(options.store))])
    print(f"{report} in {options.store}")
    return UNUSABLE if not (report.written or report.skipped) else SOME_REFUSED if report.refused else GOOD


def label(options) -> int:
    from asapkit import labels

    key = options.key_file.read_text().strip() if options.key_file else None
    how = {"model": options.model, "url": options.url, "key": key, "allow_remote": options.allow_remote, "unmentioned": options.unmentioned}
    labeller = labels.labeller(options.labeller, **how)  # a wrong call is refused before anything is read
    found = labels.label(_reports(options), labeller, cache=options.cache, workers=options.workers)
    labels.write(found, options.out)
    _list(found.abstained.items())
    print(f"{found} in {options.out}")
    return UNUSABLE if len(found.abstained) == len(found.table) else SOME_REFUSED if found.abstained else GOOD


def pretrain(options) -> int:
    from asapkit import checkpoint, parameters, sources, train
    from asapkit import estimate as estimating

    steps = {} if options.steps is None else {"steps": options.steps}
    config, method = parameters.for_recipe(options.recipe, options.scale, _pairs("--set", options.settings) | steps)
    held = sources.open(options.stores, shares=_pairs("--share", options.share, read=float))
    done, began = checkpoint.steps_done(options.run), time.monotonic()
    how = {"resume": options.resume, "init": options.init, "save_every": options.save_every}
    history = train.pretrain(held, options.run, recipe=options.recipe, config=config, options=method, **how)
    seconds = time.monotonic() - began
    if int(os.environ.get("RANK", 0)) == 0:
        print(history.tail(1).to_string(index=False))
        if seen := (len(history) - done) * config.batch_size * config.accumulate:
            ours = {"volumes": seen, "epochs": 1, "gpus": int(os.environ.get("WORLD_SIZE", 1)), "options": method}
            predicted = estimating.training(options.recipe, config, **ours)
            print(estimating.against(predicted, volumes=seen, seconds=seconds))
    return GOOD


def evaluate(options) -> int:
    from asapkit import scores

    if options.prompts and "zeroshot" not in options.tasks:
        raise ValueError("--prompts needs --tasks zeroshot")
    settings = {"zeroshot": {"prompts": options.prompts}} if options.prompts else {}
    table = scores.evaluate(options.encoder, options.data, tasks=options.tasks, settings=settings, out=options.out)
    print(table.to_string(index=False))
    return GOOD


def parity(options) -> int:
    from asapkit import parity as library

    print(library.report(rows := library.compare(options.folder)))
    return GOOD if all(row.good for row in rows) else UNUSABLE


def estimate(options) -> int:
    from asapkit import estimate as library
    from asapkit import parameters

    config, method = parameters.for_recipe(options.recipe, options.scale, _pairs("--set", options.settings))
    how = {"volumes": options.volumes, "epochs": options.epochs, "gpus": options.gpus, "tflops": options.tflops}
    print(library.training(options.recipe, config, options=method, **how))
    return GOOD


def look(options) -> int:
    from asapkit import look as library

    seen = library.look(options.scan, run=options.run, sentence=options.sentence, out=options.out, slope=options.slope, intercept=options.intercept)
    for warning in seen.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(seen.patches.to_string(index=False))
    print(f"{seen.picture} and {seen.similarity_map}")
    return GOOD


def run(options) -> int:
    from asapkit import workflow

    results = workflow.run(options.notebooks, settings=_pairs("--set", options.settings), matrix=options.matrix, out=options.out)
    failed = [r for r in results if r.status == "failed"]
    print(f"{len(results) - len(failed)} of {len(results)} notebooks in {options.out}")
    _list((" ".join(filter(None, (r.notebook, r.cell))), r.error) for r in failed)
    return UNUSABLE if failed else GOOD


def gallery(options) -> int:
    from asapkit import gallery as library

    print(library.make(options.folder, out=options.out))
    return GOOD


def view(options) -> int:
    if options.sentence and not options.run and not (options.data / "method.json").is_file():
        raise ValueError("--sentence needs --run, the run folder of the method that matches it")
    from asapkit import viewer

    viewer.show(options.data, options.volume, run=options.run, sentence=options.sentence)
    return GOOD


def demo(options) -> int:
    from asapkit import evidence

    print(evidence.demo(options.out))
    return GOOD


# ---------------------------------------------------------------------------------------------------------------------- small print


def _weights(options) -> int:
    """What `doctor` says of a file of weights: its family, and what became of every tensor."""
    from asapkit import hub
    from asapkit.peers import reading

    if hub.exported(options.dataset):
        if options.export or options.crop:
            raise ValueError(f"{options.dataset}: is an export already, with a crop of its own; copy its folder")
        print(hub.report(options.dataset.parent))
        return GOOD
    found = reading.load(options.dataset, crop=options.crop and tuple(options.crop))
    print(found.report)
    if options.export:
        print(f"exported to {hub.export(found, options.export)}")
    return GOOD


def _scans(options) -> Iterable:
    if not options.dataset.exists():
        raise FileNotFoundError(f"{options.dataset}: no such dataset")
    scans = iter(importlib.import_module(f"asapkit.datasets.{options.layout}").scans(options.dataset))
    first = next(scans, None)  # a dataset of another layout is refused here, before a store is begun
    if first is None:
        raise ValueError(f"{options.dataset}: no volumes of layout {options.layout}")
    return itertools.chain([first], scans)


def _reports(options) -> list[tuple[str, str, str]]:
    """(id, findings, impression) of a store, a csv of reports, or a dataset, whose unusable rows are listed."""
    from asapkit import labels
    from asapkit.types import Scan

    if options.layout != "folder" and (options.data.suffix == ".csv" or (options.data / "preprocess.json").is_file()):
        return list(labels.reports_of(options.data))
    options.dataset = options.data
    scans = list(_scans(options))
    _list((s.id, s.reason) for s in scans if not isinstance(s, Scan))
    return [(s.id, s.findings, s.impression) for s in scans if isinstance(s, Scan)]


def _pairs(option: str, written: Iterable[str], *, read: Callable = str) -> dict:
    """["lr=1e-3"] as {"lr": "1e-3"}, or as {"lr": 0.001} with `read=float`. Raises: ValueError for anything else, or a name given twice."""
    pairs = {}
    for item in written:
        name, equals, value = item.partition("=")
        try:
            read_value = read(value)
        except ValueError:
            name = ""
        if not (name and equals):
            raise ValueError(f"{option} {item!r} is not of the form NAME={'VALUE' if read is str else 'NUMBER'}")
        if name in pairs:
            raise ValueError(f"{option} {name} is given twice")
        pairs[name] = read_value
    return pairs


def _list(refused: Iterable[tuple[str, str]]) -> None:
    for id, reason in refused:
        print(reason if not id or id in reason else f"{id}: {reason}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    if isinstance(error, ModuleNotFoundError):
        return f"needs {error.name}, which is not installed; run make setup, or pip install asapkit[lab,view]"
    return " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
