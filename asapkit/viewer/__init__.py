"""napari: a volume with its organs, its truth, what a method makes of it, in three linked planes. The only room that knows napari and Qt.

`layers` describes what is drawn, `sources` reads what can be opened, `bench` is what the panel does, `triple` links three planes: none of them
needs a display. `panel` and `window` are Qt. `reading` is what the plugin's manifest names. Importing this loads neither napari nor Qt.
"""

from asapkit.viewer.bench import Bench, Found
from asapkit.viewer.layers import attention_layers, colour_layers, frames, layers, placed, sentence_layers, volume_layers
from asapkit.viewer.reading import read, reader, sample
from asapkit.viewer.triple import Triple
from asapkit.viewer.window import screenshot, show, three_planes

__all__ = [
    "Bench", "Found", "Triple", "attention_layers", "colour_layers", "frames", "layers", "placed", "read", "reader", "sample",
    "screenshot", "sentence_layers", "show", "three_planes", "volume_layers",
]  # fmt: skip
