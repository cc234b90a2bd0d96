"""CT-RATE's own layout: volumes by patient and study, tables of reports, labels and acquisition beside them.

    [dataset/]train/train_1/train_1_a/train_1_a_1.nii.gz       patient, study, reconstruction; `train_fixed`, `valid`, `valid_fixed` alike,
                                                              or the patient folders directly in the root
    train_reports.csv, validation_reports.csv                 VolumeName, Findings_EN, Impressions_EN ...
    train_predicted_labels.csv, valid_predicted_labels.csv    VolumeName and 18 columns of 0 / 1
    train_metadata.csv, validation_metadata.csv               VolumeName, XYSpacing, ZSpacing, RescaleSlope, RescaleIntercept ...
    organs/<id>.nii.gz, lesions/<id>.nii.gz, outcomes.csv     optional: masks of organs and of lesions; survival
    truth/<id>.nii.gz                                         what a synthetic cohort knows

Tables are looked for in the root and one or two folders below it, whichever the download kept (`radiology_text_reports/` ...).
The `_fixed` volumes hold HU and a true header, so slope and intercept of the tables belong only to the others.

Source: Hugging Face `ibrahimhamamci/CT-RATE` (gated), CC BY-NC-SA 4.0, no redistribution.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from pathlib import Path

from asapkit.datasets import TOO_MANY, Unusable, further, number, table
from asapkit.types import FINDINGS, Refused, Scan

NAME = re.compile(r"^((train|valid)_\d+)_([a-z]+)_(\d+)$")
SPLITS = {"train": ("train",), "valid": ("validation", "valid")}  # file spellings
EXTRA = {"kernel": "ConvolutionKernel", "scanner": "ManufacturerModelName"}  # our column: the metadata table's
REPEATED = "repeated in"  # what a row is marked with whose volume has another row, that says otherwise, in the same table
SKIPPED = {"organs", "lesions", "truth", "qa"}  # layers, not volumes


def scans(root: Path) -> Iterator[Scan | Unusable]:
    """One `Scan` per volume in order of split, patient number, study and reconstruction; `Unusable` for what has no volume or report.

    A volume present both as stored and `_fixed` is taken once, from `_fixed`.

    Raises: Refused when the root holds no volumes of this layout, or a table cannot be read or lacks its columns.
    """
    root = Path(root)
    volumes, strange = _volumes(root)
    if not volumes:
        wanted = "give the folder that holds train/ or dataset/, or for a table of your own say --layout folder"
        raise Refused(f"{root.absolute().name}: no volumes called like train_1_a_1.nii.gz; {wanted}")
    tables = {kind: _table(root, kind) for kind in ("reports", "predicted_labels", "metadata")}
    outcomes = _outcomes(root)
    for path in strange:
        name = str(path.relative_to(root))
        yield Unusable(name, path, f"{name}: no volume of this layout is called so; names are like train_1_a_1.nii.gz")
    listed = set(tables["reports"]) | set(volumes)
    for id in sorted(listed, key=_order):
        if id not in volumes:
            yield Unusable(id, None, f"{id}: a report without a volume; fetch the volume or drop the row")
        elif not _has_report(tables["reports"].get(id)):
            yield Unusable(id, volumes[id], f"{id}: a volume without a report; add it to the report table or drop the file")
        elif problem := _problem(*(tables[kind].get(id, {}) for kind in ("reports", "predicted_labels"))):
            yield Unusable(id, volumes[id], f"{id}: {problem}")
        else:
            yield _scan(id, volumes[id], root, tables, outcomes)


def _order(id: str) -> tuple:
    split, number, study, reconstruction = id.split("_")
    return (split, int(number), len(study), study, int(reconstruction))


def _id(name: str) -> str:
    return name.strip().removesuffix(".gz").removesuffix(".nii")


def _volumes(root: Path) -> tuple[dict[str, Path], list[Path]]:
    """Volumes by id, wherever the layout's prefix folders put them; and the files whose names say no id."""
    found: dict[str, Path] = {}
    strange = []
    for path in sorted(root.rglob("*.nii*")):
        id = _id(path.name)
        if SKIPPED & set(path.relative_to(root).parts[:-1]):
            continue
        if not NAME.match(id):
            strange.append(path)
        elif id not in found or _is_fixed(path, root):
            found[id] = path
    return found, strange


def _is_fixed(path: Path, root: Path) -> bool:
    return any(part.endswith("_fixed") for part in (root.name, *path.relative_to(root).parts))


def _table(root: Path, kind: str) -> dict[str, dict[str, str]]:
    """Rows of both splits' tables of one kind, by volume id."""
    rows: dict[str, dict[str, str]] = {}
    for split, spellings in SPLITS.items():
        for file in (f for s in spellings for pattern in (f"{s}_{kind}.csv", f"*/{s}_{kind}.csv", f"*/*/{s}_{kind}.csv") for f in root.glob(pattern)):
            names, listed = table(file)
            if "VolumeName" not in names:
                raise Refused(f"{file.name}: no column VolumeName; this is no CT-RATE table")
            if kind == "reports" and "Findings_EN" not in names:
                raise Refused(f"{file.name}: no column Findings_EN; this is no CT-RATE report table")
            if kind == "predicted_labels" and (unknown := [name for name in names if name not in ("VolumeName", *FINDINGS)]):
                raise Refused(f"{file.name}: unknown label {unknown[0]!r}; labels are spelled as {', '.join(FINDINGS)}")
            here: dict[str, dict[str, str]] = {}
            for row in listed:
                id = _id(row["VolumeName"])
                if NAME.match(id) and id.startswith(split):
                    here[id] = row if here.get(id, row) == row else row | {REPEATED: file.name}
            rows = here | rows
    return rows


def _has_report(row: dict[str, str] | None) -> bool:
    """Whether findings or impression say anything; "Not given" is CT-RATE's word for an empty field."""
    return row is not None and any(_text(row.get(key)) for key in ("Findings_EN", "Impressions_EN"))


def _text(value: str | None) -> str:
    value = (value or "").strip()
    return "" if value.lower().rstrip(". ") in ("", "nan", "not given") else value


def _outcomes(root: Path) -> dict[str, dict[str, float | str]]:
    """Survival columns by study, and by patient where a row names no study."""
    file = root / "outcomes.csv"
    if not file.exists():
        return {}
    names, rows = table(file)
    if "patient" not in names:
        raise Refused(f"{file.name}: no column patient; name the patient of every row, and the study where an outcome is that of a study")
    if long := [number for number, row in enumerate(rows, start=2) if TOO_MANY in row]:
        raise Refused(f"{file.name}: line {long[0]}: {TOO_MANY}; put texts with commas between quotes")
    kept: dict[str, dict[str, float | str]] = {}
    for row in rows:
        kept[row.get("study") or row["patient"]] = further({k: v for k, v in row.items() if k not in ("study", "patient")})
    return kept


def _spacing(row: dict[str, str]) -> tuple[float, float, float] | None:
    """In-plane spacing is written as a list ("[0.8, 0.8]") in one table, as one number in others."""
    try:
        in_plane = ast.literal_eval(row["XYSpacing"])
        x, y = (in_plane[0], in_plane[1]) if isinstance(in_plane, list | tuple) else (in_plane, in_plane)
        spacing = (float(x), float(y), float(row["ZSpacing"]))
    except (KeyError, ValueError, SyntaxError, TypeError, IndexError):
        return None
    return spacing if all(math.isfinite(s) and s > 0 for s in spacing) else None


def _number(row: dict[str, str], key: str) -> float | None:
    value = number(row.get(key) or "")
    return value if value is not None and math.isfinite(value) else None


def _problem(report: dict[str, str], labels: dict[str, str]) -> str:
    """Why the rows of a volume cannot be used, in one line; '' when they can."""
    for row in (report, labels):
        if TOO_MANY in row:
            return f"{TOO_MANY} in the table of its {'report' if row is report else 'labels'}; put texts with commas between quotes"
        if REPEATED in row:
            return f"is there twice in {row[REPEATED]}, with different rows; keep one"
    for name in FINDINGS:
        if _text(labels.get(name)) and _number(labels, name) not in (1.0, 0.0, -1.0):
            return f"{name} is {labels[name]!r} in the label table; labels are 1, 0, or -1 / empty for unknown"
    return ""


def _labels(row: dict[str, str]) -> dict[str, int]:
    """1 present, 0 absent, -1 unknown, for the findings that the table has."""
    return {name: int(value) if (value := _number(row, name)) is not None else -1 for name in FINDINGS if name in row}


def _scan(id: str, path: Path, root: Path, tables: dict, outcomes: dict) -> Scan:
    patient, split, letter, _ = NAME.match(id).groups()
    study = f"{patient}_{letter}"
    report, meta = tables["reports"][id], tables["metadata"].get(id, {})
    fixed = _is_fixed(path, root)
    extra = further({key: meta.get(column) or "" for key, column in EXTRA.items()})
    layers = {layer: file if (file := root / layer / f"{id}.nii.gz").exists() else None for layer in ("organs", "lesions", "truth")}
    return Scan(
        id, patient, study, path,
        findings=_text(report.get("Findings_EN")), impression=_text(report.get("Impressions_EN")), split=split,
        labels=_labels(tables["predicted_labels"].get(id, {})), **layers,
        slope=None if fixed else _number(meta, "RescaleSlope"), intercept=None if fixed else _number(meta, "RescaleIntercept"),
        spacing_mm=_spacing(meta), extra=extra | outcomes.get(patient, {}) | outcomes.get(study, {}),
    )  # fmt: skip
