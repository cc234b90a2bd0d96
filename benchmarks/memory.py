"""Prints the peak resident memory in bytes of one step: `python -m benchmarks.memory reference|correct|official VOLUMES [--quick]`."""

from __future__ import annotations

import argparse
import resource
import sys

from asapkit import estimate
from benchmarks.models import Models


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
    estimate.count(model, models.padded if options.model == "official" else models.batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    main()
