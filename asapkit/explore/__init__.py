"""Widgets for JupyterLab: leaf through a store's scans, ask a trained method where it sees a sentence, see what an encoder sees, compare runs.

Every widget has a static twin, a function that returns the same picture: `scan_view` for `browse`, `sentence_view` for `sentence_explorer`,
`compare_view` for `compare`, `hidden_view`, `pca_view` and `attention_view` for `encoder_view`, `board_view` and `curves_view` for `board`; the
charts `ranks` and `spectra` carry theirs. Widgets hold no state that papermill would lose; notebooks draw the twins.
"""

from asapkit.explore.board import board, board_view, curves_view
from asapkit.explore.encoder import attention_view, encoder_view, hidden_view, pca_view
from asapkit.explore.scans import browse, scan_view
from asapkit.explore.sentences import compare, compare_view, sentence_explorer, sentence_view
from asapkit.explore.spectra import ranks, spectra

__all__ = [
    "attention_view", "board", "board_view", "browse", "compare", "compare_view", "curves_view", "encoder_view", "hidden_view",
    "pca_view", "ranks", "scan_view", "sentence_explorer", "sentence_view", "spectra",
]  # fmt: skip
