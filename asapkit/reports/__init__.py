"""Report text: sentences, sections, cleaning, joining; and what one sentence says.

`sentences` splits, `layout` finds sections, cleans and joins, `meanings` reads a sentence by the words of `lexicon` (findings) and `places` (sides,
lobes, organs), and `words` tells which words say anything at all.
"""

from asapkit.reports.layout import clean, given, join, sections
from asapkit.reports.meanings import Statement, meaning, normalised, organs_named, polarity, statements
from asapkit.reports.sentences import split
from asapkit.reports.words import telling_words

__all__ = [
    "Statement", "clean", "given", "join", "meaning", "normalised", "organs_named", "polarity", "sections", "split", "statements", "telling_words",
]  # fmt: skip
