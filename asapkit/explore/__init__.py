"""Widgets for JupyterLab: leaf through a store's scans, and ask a trained method where it sees a sentence.

Every widget has a static twin, a function that returns the same picture: `scan_view` for `browse`, `sentence_view` for `sentence_explorer`,
`compare_view` for `compare`. Widgets hold no state that papermill would lose; notebooks draw the twins.
"""

from asapkit.explore.scans import browse, scan_view
from asapkit.explore.sentences import compare, compare_view, sentence_explorer, sentence_view

__all__ = ["browse", "compare", "compare_view", "scan_view", "sentence_explorer", "sentence_view"]
