"""This machine in words: packages, torch build, cores, memory, display, GPU."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata

PACKAGES = (
    "numpy", "scipy", "torch", "transformers", "accelerate", "nibabel", "SimpleITK", "blosc2", "pandas", "matplotlib", "papermill", "jupyterlab",
    "napari",
)  # fmt: skip


def environment() -> dict[str, str]:
    """Name -> value: Python, packages, torch build, cores, memory, display, GL, GPU. Imports torch, nothing else that is heavy."""
    known = {"python": f"{platform.python_version()} ({sys.executable})", "system": platform.platform()}
    for name in PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "not installed"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known |= {"cores": str(cores), "memory": _memory(), "display": os.environ.get("DISPLAY") or "none (use xvfb-run for napari)", "GL": _gl()}
    try:
        import torch
    except ImportError:
        return known | {"gpu": "torch is not installed"}
    known["torch build"] = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        known["gpu"] = "; ".join(f"{d.name}, {d.total_memory / 2**30:.0f} GB" for d in devices)
    else:
        known["gpu"] = "none that torch can use"
    return known


def _memory() -> str:
    try:
        total, free = (os.sysconf(key) * os.sysconf("SC_PAGE_SIZE") / 2**30 for key in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return "unknown"
    return f"{total:.1f} GB, {free:.1f} GB unused"


def _gl() -> str:
    from ctypes.util import find_library

    found = [name for name in ("GL", "EGL") if find_library(name)]
    return f"lib{', lib'.join(found)} found" if found else "not found (apt-get install libgl1 libegl1)"
