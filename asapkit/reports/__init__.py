"""Report text: sentences, sections, cleaning, joining; and what one sentence says.

`sentences` splits, `layout` finds sections, cleans and joins, `meanings` reads a sentence by the words of `lexicon` (findings) and `places` (sides,
lobes, organs).
"""

from asapkit.reports.layout import clean, given, join, sections
from asapkit.reports.meanings import Statement, meaning, normalised, organs_named, polarity, statements
from asapkit.reports.sentences import split

__all__ = ["Statement", "clean", "given", "join", "meaning", "normalised", "organs_named", "polarity", "sections", "split", "statements"]
