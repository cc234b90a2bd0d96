"""What every test may use: `--shared DIR` and the fixture `shared`, shape checks on asapkit, one thread per process, no network for models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# Two test processes on two cores: more threads than one each only makes them wait. Set before numpy and torch are loaded.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_MAX_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SE_OFFLINE", "true")  # selenium drives the browser that is there and looks for no other
os.environ.setdefault("SE_AVOID_STATS", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("BLOSC_NTHREADS", "1")

import numpy as np
import pytest
from beartype import BeartypeConf, BeartypeHintOverrides, beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]

# What duck typing allows is no fault: numpy's numbers for Python's, an int for a float, an array for a sequence of numbers.
ALLOWED = {
    int: int | np.integer,
    float: float | int | np.integer | np.floating,
    Sequence[int]: Sequence[int] | np.ndarray,
    Sequence[float]: Sequence[float] | np.ndarray,
}
checked = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides(ALLOWED)))
install_import_hook("asapkit", "conftest.checked")


def pytest_addoption(parser):
    parser.addoption("--shared", metavar="DIR", default=None, help="folder with the shared real data (default: the sibling folder ../shared)")
    parser.addoption("--screenshots", metavar="DIR", default=None, help="folder that keeps the browser's screenshots (default: pytest's own)")


@pytest.fixture(scope="session")
def shared(request) -> Path:
    """The folder of shared real data. Tests that ask for it skip, with the reason, where it is absent."""
    given = request.config.getoption("--shared")
    folder = Path(given) if given else ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data in {folder} (pytest --shared DIR names another folder)")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory) -> Path:
    """Path of a store of twelve phantom volumes at scale toy, made once per test process. Read it, do not write it."""
    from asapkit import store
    from asapkit.config import Config
    from asapkit.datasets import ct_rate
    from asapkit.phantom import cohort

    place = tmp_path_factory.mktemp("toy")
    data = cohort.make(place / "phantom", volumes=12, seed=0, scale="toy", workers=1, progress=False)
    store.write(ct_rate.scans(data), place / "store", config=Config.at("toy"), progress=False)
    return place / "store"
