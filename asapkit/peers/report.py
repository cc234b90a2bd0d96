"""What became of every tensor of a file."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

SHOWN = 3  # names of a kind that the text spells out; the fields hold all


@dataclass
class Report:
    """Names as the file has them, wrappers of training (`module.`, `_orig_mod.`) taken off."""

    family: str
    source: str
    licence: str  # of the weights, as their source states it; empty where it states none
    contract: str = ""  # how a scan becomes this encoder's input
    matched: list[str] = field(default_factory=list)  # the same name here
    renamed: dict[str, str] = field(default_factory=dict)  # their name -> ours
    adapted: dict[str, str] = field(default_factory=dict)  # our name -> how its values were made of theirs
    dropped: dict[str, str] = field(default_factory=dict)  # their name -> why it has no place here
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.family} ({self.source})",
            f"licence of the weights: {self.licence or 'the source states none; ask before passing them on'}",
            f"input: {self.contract}",
            f"matched {len(self.matched)}{_some(self.matched)}",
            f"renamed {len(self.renamed)}{_some([f'{theirs} -> {ours}' for theirs, ours in self.renamed.items()])}",
        ]
        lines += [f"adapted: {name}: {how}" for name, how in self.adapted.items()]
        lines += [f"dropped {len(names)}: {why}{_some(names)}" for why, names in self.grouped().items()] or ["dropped 0"]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])

    def brief(self) -> str:
        """The same in one line, for the start of a training."""
        counts = f"{self.family}: {len(self.matched)} names matched, {len(self.renamed)} renamed, {len(self.dropped)} dropped"
        why = f" ({'; '.join(self.grouped())})" if self.dropped else ""
        return "; ".join([counts + why, *(f"{name}: {how}" for name, how in self.adapted.items()), *self.warnings])

    def grouped(self) -> dict[str, list[str]]:
        """Reason -> names that were dropped for it."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name, why in self.dropped.items():
            groups[why].append(name)
        return dict(groups)


def _some(names: list[str]) -> str:
    if not names:
        return ""
    return f": {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
