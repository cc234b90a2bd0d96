"""Rules against the labels that come with real reports: `python -m benchmarks.labels SHARED [--out runs/labels]`.

SHARED holds data/text with 150 findings sections in shuffled order and 200 whole reports, 18 labels each, which are scored apart, and 300 reports of
another hospital with labels of another kind. Prints F1, precision, recall and AUROC per finding, and writes every error with its rule and sentence
to --out, an ignored folder: no sentence is printed.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from asapkit import labels, reports
from asapkit.types import FINDINGS

LEAST = 10  # positives that a finding needs to count in the macro mean
CODES = {"0": "not named", "1": "present", "2": "absent", "3": "doubted"}
SHARED_FINDINGS = {
    "cardiomegaly": "Cardiomegaly", "consolidation": "Consolidation", "atelectasis": "Atelectasis", "pleural_effusion": "Pleural effusion",
}  # fmt: skip
Row = tuple[str, str, str, dict[str, int]]  # id, findings, impression, known labels


def shuffled(shared: Path) -> Iterator[Row]:
    """150 findings sections, sentences in shuffled order, without an impression."""
    folder = shared / "data" / "text" / "radgenome_150"
    known = {row["VolumeName"]: row for row in _rows(folder / "ct_rate_18_labels.csv")}
    for row in _rows(folder / "train_region_report.csv"):
        if not row["Anatomy"]:
            yield row["Volumename"], row["Sentence"], "", _known(known[row["Volumename"]])


def whole(shared: Path) -> Iterator[Row]:
    """200 reports as they were written, findings and impression."""
    for row in _rows(shared / "data" / "text" / "ctclip_reports_200.csv"):
        parts = reports.sections(row["report_text"])
        yield row["AccessionNo"], parts["findings"], parts["impression"], _known(row)


def elsewhere(shared: Path) -> pd.DataFrame:
    """300 reports of another hospital, whose labels share four findings with ours: how often each of ours meets each of theirs."""
    folder = shared / "data" / "text"
    known = {row["id"]: row for row in _rows(folder / "ctrg_300_labels.csv")}
    counts: Counter = Counter()
    for report in json.loads((folder / "ctrg_300.json").read_text(encoding="utf-8")):
        ours, theirs = labels.silver_labels(report["report"], report["result"]), known[report["id"].removesuffix(".nii.gz")]
        counts.update((finding, CODES[theirs[column]], ours[finding]) for column, finding in SHARED_FINDINGS.items())
    rows = [(*key, n) for key, n in sorted(counts.items())]
    table = pd.DataFrame(rows, columns=["finding", "theirs", "ours", "reports"])
    return table.pivot_table(index=["finding", "theirs"], columns="ours", values="reports", fill_value=0).astype(int)


def compared(rows: Sequence[Row], labeller: labels.Labeller) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Agreement per finding and "macro"; and the errors, with sentences."""
    texts = [row[:3] for row in rows]
    silver = labels.label(texts, labeller, progress=False).table.to_dict("index")
    truth = {id: known for id, _, _, known in rows}
    table = labels.agreement([silver[id] for id in truth], truth.values(), least=LEAST)
    return pd.DataFrame(table).T, labels.errors(texts, silver, truth)


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def _known(row: dict[str, str]) -> dict[str, int]:
    return {finding: int(float(row[finding])) for finding in FINDINGS}


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/labels"), help="default: runs/labels")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name, read in (("shuffled", shuffled), ("whole", whole)):
        rows = list(read(options.shared))
        tables[name], wrong = compared(rows, labels.Rules())
        wrong.to_csv(options.out / f"{name}_errors.csv", index=False)
        print(f"\n{name}: {len(rows)} reports, {len(wrong)} errors in {options.out / f'{name}_errors.csv'}")
        print(tables[name].round(3).to_string())
        print(wrong.groupby(["finding", "rule", "silver", "truth"]).size().sort_values(ascending=False).head(12).to_string())
    print(f"\nanother hospital, 300 reports\n{elsewhere(options.shared).to_string()}")
    return tables


if __name__ == "__main__":
    main()
