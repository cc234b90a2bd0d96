"""How long the widgets take in the kernel, from a control's change to the new picture: medians and worst of 20.

    python -m benchmarks.widgets STORE RUN [--id VOLUME] [--count N]

Asked for: a slice change within 100 ms, a new sentence on remembered features within 500 ms, both at scale small on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

from asapkit import checkpoint, examples
from asapkit import store as stores
from asapkit.explore.scans import browse
from asapkit.explore.sentences import Explorer

ASKED = {"slice, scan browser": 0.1, "slice, sentence map": 0.1, "new sentence": 0.5}  # seconds


def timed(act: Callable[[int], None], *, count: int) -> list[float]:
    """Seconds of `count` calls, after one that does not count."""
    act(0)
    taken = []
    for n in range(1, count + 1):
        start = time.perf_counter()
        act(n)
        taken.append(time.perf_counter() - start)
    return taken


def controls(widget, name: str) -> list:
    """The controls of a widget that carry a class."""
    own = [widget] if f"asapkit-{name}" in getattr(widget, "_dom_classes", ()) else []
    return own + [found for child in getattr(widget, "children", ()) for found in controls(child, name)]


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Prints a table; returns the medians in seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("run")
    parser.add_argument("--id", default="", help="volume (default: the first held-out one with several findings)")
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args(arguments)
    held, method = stores.open(options.store), checkpoint.load_method(options.run)
    id = examples.example(held, id=options.id)
    start = time.perf_counter()
    browser = browse(held, id=id)
    opened = time.perf_counter()
    explorer = Explorer(method, held, id=id)
    print(f"first picture: scan browser {opened - start:.2f} s, sentence explorer {time.perf_counter() - opened:.2f} s")
    slider, (axial, *_) = controls(browser, "slice")[0], controls(explorer.box, "slice")
    slices = held.contract.crop[2]

    def turn(control, n: int) -> None:
        control.value = (control.value + 1) % slices

    taken = {
        "slice, scan browser": timed(lambda n: turn(slider, n), count=options.count),
        "slice, sentence map": timed(lambda n: turn(axial, n), count=options.count),
        "new sentence": timed(lambda n: explorer.ask(f"Nodule of {n + 2} mm in the right upper lobe."), count=options.count),
    }
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    for name, seconds in taken.items():
        holds = "holds" if medians[name] <= ASKED[name] else "TOO SLOW"
        print(f"{name:<20} median {medians[name] * 1e3:4.0f} ms, worst {max(seconds) * 1e3:4.0f} ms, asked for {ASKED[name] * 1e3:.0f} ms: {holds}")
    return medians


if __name__ == "__main__":
    main()
