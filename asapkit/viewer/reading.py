"""What napari calls through the manifest: the reader of dropped files and folders, and the sample volume."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from asapkit.viewer import sources
from asapkit.viewer.layers import Layer

NOTHING: list = [(None,)]  # npe2: the path was dealt with, there is nothing to add
SAMPLE = {"volumes": 1, "seed": 5, "scale": "small"}


def reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """npe2: reads a store's folder (its first volume), one <store>/ct/<id>.b2nd, a run's folder, a scan; None for anything else."""
    paths = [Path(p) for p in ([path] if isinstance(path, str) else path)]
    return read if paths and all(_known(p) for p in paths) else None


def _known(path: Path) -> bool:
    return sources.is_store(path) or sources.is_stored(path) or sources.is_run(path) or sources.is_scan(path)


def read(path: str | list[str]) -> list[Layer]:
    """The layers behind the paths that `reader` accepted. A run goes to the open panel, if there is one, which chooses it.

    Raises: Refused, one line, for what cannot be read.
    """
    made: list[Layer] = []
    for one in [Path(p) for p in ([path] if isinstance(path, str) else path)]:
        if sources.is_run(one) and (panel := _panel()):
            panel.take_run(one)
            continue
        described = sources.opened(one).layers()
        if sources.is_run(one):
            described[0][1]["metadata"]["run"] = str(one)
        made += described
    return made or NOTHING


def _panel():
    """The panel of the window in front, if both are there."""
    if "napari" not in sys.modules or "asapkit.viewer.panel" not in sys.modules:
        return None
    import napari

    from asapkit.viewer import panel

    viewer = napari.current_viewer()
    return None if viewer is None else panel.of(viewer)


def sample() -> list[Layer]:
    """npe2: a phantom chest of scale small with organs, truth and report, made in a few seconds and kept until the program ends."""
    return sources.stored(sample_store()).layers()


@lru_cache(maxsize=1)
def sample_store() -> Path:
    """A store that holds one phantom volume, in a temporary folder that goes when the program ends."""
    from asapkit import store
    from asapkit.config import Config
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    folder = Path(tempfile.mkdtemp(prefix="asapkit_sample_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    root = cohort.make(folder / "cohort", **SAMPLE, progress=False)
    store.write(ct_rate.scans(root), folder / "store", config=Config.at(SAMPLE["scale"]), progress=False)
    return folder / "store"
