"""Widgets for JupyterLab: leaf through a store's scans, and ask a trained method where it sees a sentence.

Every widget has a static twin, a function that returns the same picture as a figure: `plane` for `browse`, `sentence_view` for
`sentence_explorer`. Widgets hold no state that papermill would lose; notebooks draw the twins.
"""

from asapkit.explore.board import board, board_view, curves_view
from asapkit.explore.scans import browse, plane
from asapkit.explore.sentences import sentence_explorer, sentence_view

__all__ = ["board", "board_view", "browse", "curves_view", "plane", "sentence_explorer", "sentence_view"]
