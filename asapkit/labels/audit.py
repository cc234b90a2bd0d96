"""Silver labels held against labels that are known: per finding, and error by error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from asapkit.labels.rules import reasons
from asapkit.types import FINDINGS

Labels = Mapping[str, int]
NAN = float("nan")


def agreement(silver: Iterable[Labels], labels: Iterable[Labels], *, least: int = 1) -> dict[str, dict[str, float]]:
    """Per finding f1, precision, recall, accuracy, auroc, positives; "macro" f1 and auroc over the findings with at least `least` positives.

    Uncertain counts as absent, but half-way between for auroc; a finding without positives is nan. What is not known (-1 in `labels`) is left out.
    """
    pairs = list(zip(silver, labels, strict=True))
    table: dict[str, dict[str, float]] = {}
    for finding in FINDINGS:
        known = [(s[finding], y[finding]) for s, y in pairs if y[finding] in (0, 1)]
        hits = sum(s == 1 and y == 1 for s, y in known)
        said, true = sum(s == 1 for s, _ in known), sum(y == 1 for _, y in known)
        right = sum((s == 1) == (y == 1) for s, y in known)
        precision, recall = (hits / n if n else NAN for n in (said, true))
        f1 = 2 * hits / (said + true) if true else NAN
        row = {"f1": f1, "precision": precision, "recall": recall, "accuracy": right / max(len(known), 1), "auroc": _auroc(known), "positives": true}
        table[finding] = row
    enough = [row for row in table.values() if row["positives"] >= max(least, 1)]
    table["macro"] = {name: _mean([row[name] for row in enough]) for name in ("f1", "auroc")} | {"findings": len(enough)}
    return table


def _auroc(known: Sequence[tuple[int, int]]) -> float:
    """Of three-valued scores: 1 above -1 (open) above 0."""
    rank = {1: 2, -1: 1, 0: 0}
    count = {y: [sum(rank[s] == level and t == y for s, t in known) for level in range(3)] for y in (0, 1)}
    pairs = sum(count[0]) * sum(count[1])
    won = sum(n * (sum(count[0][:level]) + count[0][level] / 2) for level, n in enumerate(count[1]))
    return won / pairs if pairs else NAN


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if v == v]
    return sum(kept) / len(kept) if kept else NAN


def errors(reports: Iterable[tuple[str, str, str]], silver: Mapping[str, Labels], truth: Mapping[str, Labels]) -> pd.DataFrame:
    """Every label that is not the known one, worst first: id, finding, silver, truth, rule, section, place, sentence.

    Worst are contradictions (1 for 0, 0 for 1) by how many their finding has, then what was left open. The rule and the sentence are those of
    the rules, whoever labelled. The table holds sentences of reports: it belongs into a folder that is not shared.
    """
    rows = []
    for id, findings, impression in reports:
        why = reasons(findings, impression)
        for finding in FINDINGS:
            said, known = silver[id][finding], truth[id][finding]
            if known in (0, 1) and said != known:
                reason = why.get(finding)
                told = (reason.rule, reason.section, reason.place, reason.sentence) if reason else ("not mentioned", "", -1, "")
                rows.append((id, finding, said, known, *told))
    table = pd.DataFrame(rows, columns=["id", "finding", "silver", "truth", "rule", "section", "place", "sentence"])
    count = table.groupby("finding")["id"].transform("size") if len(table) else []
    order = table.assign(left_open=table["silver"] == -1, count=count)
    order = order.sort_values(["left_open", "count", "finding", "rule", "id"], ascending=[True, False, True, True, True], kind="stable")
    return table.loc[order.index].reset_index(drop=True)
