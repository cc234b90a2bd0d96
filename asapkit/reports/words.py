"""Which words of a sentence say something."""

from __future__ import annotations

import re

_STOP = """
a an the this that these those there here it its he she his her they them their we our us i you your one
is are was were be been being am do does did has have had having can could may might must shall should will would
of in on at by to from with within without into onto over under between through for as than then so
and or but nor if while when where which who whom whose what how
no not none any some all both each every other another such same own only also very too just more most less least
seen noted observed present absent evident
"""
STOP_WORDS = frozenset(_STOP.split())
"""Words that every report is full of: alone they name nothing that could be looked for."""


def telling_words(sentence: str) -> list[str]:
    """The words that are left of a sentence without stop words, numbers and punctuation; lower case."""
    return [word for word in re.findall(r"[^\W\d_]+", sentence.lower()) if word not in STOP_WORDS]
