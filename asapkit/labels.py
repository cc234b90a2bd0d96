"""Silver labels: the 18 findings read from report text by rules, for data sets that come without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asapkit.reports import clean, split, statements
from asapkit.types import FINDINGS

_RANK = {"absent": 0, "uncertain": -1, "present": 1}


def silver_labels(findings: str | float | None, impression: str | float | None = "", *, unmentioned: int = 0) -> dict[str, int]:
    """`FINDINGS` -> 1 present, 0 absent, -1 uncertain. A finding stated anywhere is present, whatever else is said of it.

    unmentioned: the label of a finding that the report does not speak of; 0, since reports list what they see (-1 to leave it open).
    """
    labels = dict.fromkeys(FINDINGS, unmentioned)
    seen: dict[str, set[str]] = {}
    for text in (findings, impression):
        for sentence in split(clean(text)):
            for said in statements(sentence):
                seen.setdefault(said.finding, set()).add(said.state)
    if "present" in seen.get("Lymph nodes", ()):  # CT-RATE's labels count every lymph node that is described
        seen.setdefault("Lymphadenopathy", set()).add("present")
    for finding, states in seen.items():
        if finding in labels:
            labels[finding] = next(_RANK[s] for s in ("present", "uncertain", "absent") if s in states)
    return labels


def agreement(silver: Iterable[Mapping[str, int]], labels: Iterable[Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Per finding and "macro": f1, precision, recall, accuracy of silver labels (uncertain counts as absent); a finding without positives is nan."""
    pairs = list(zip(silver, labels, strict=True))
    table: dict[str, dict[str, float]] = {}
    for finding in FINDINGS:
        hits = sum(s[finding] == 1 and y[finding] == 1 for s, y in pairs)
        said = sum(s[finding] == 1 for s, _ in pairs)
        true = sum(y[finding] == 1 for _, y in pairs)
        right = sum((s[finding] == 1) == (y[finding] == 1) for s, y in pairs)
        precision, recall = (hits / n if n else float("nan") for n in (said, true))
        f1 = 2 * hits / (said + true) if true else float("nan")
        table[finding] = {"f1": f1, "precision": precision, "recall": recall, "accuracy": right / max(len(pairs), 1), "positives": true}
    known = [row["f1"] for row in table.values() if row["f1"] == row["f1"]]
    table["macro"] = {"f1": sum(known) / len(known) if known else float("nan")}
    return table
