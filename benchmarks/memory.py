"""Prints the peak resident memory in bytes of one step: `python -m benchmarks.memory reference|correct|official VOLUMES [--quick]`."""

from __future__ import annotations

import argparse
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

from asapkit import estimate
from benchmarks.models import Models

SELF = Path("/proc/self")
"""Of this process, on Linux."""


def forget_peak() -> None:
    """What was needed to make the models does not count, where the system can forget it."""
    with suppress(OSError):
        (SELF / "clear_refs").write_text("5")


def peak() -> int:
    """Bytes."""
    if (SELF / "status").exists():
        return int(re.search(r"VmHWM:\s+(\d+)", (SELF / "status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("reference", "correct", "official"))
    parser.add_argument("volumes", type=int)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    models = Models(quick=options.quick, volumes=options.volumes)
    model = getattr(models, options.model)
    if options.model != "reference":
        del models.reference  # its weights have been taken over
    batch = models.padded if options.model == "official" else models.batch
    forget_peak()
    estimate.count(model, batch)
    print(peak())


if __name__ == "__main__":
    main()
