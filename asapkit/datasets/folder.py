"""Your own data: one csv with a row per volume, paths relative to the csv.

    path, findings, impression      path: NIfTI, NRRD, MetaImage, DICOM folder or zip (`case.zip#B40f` names a series); at least one text
    id, patient, study, split       optional; id defaults to the file's name, patient and study to the id, split to "train"
    organs, lesions                 optional; masks (file or folder): organs by name, lesions wherever they are not 0
    slope, intercept                optional; rescale values for files that hold stored values
    any of the 18 finding names     optional; 1 present, 0 absent, -1 or empty unknown
    extra:<name>                    optional; further columns kept with the volume (extra:time_days, extra:event)

Licence: that of your data. Nothing is copied or sent anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from asapkit import formats
from asapkit.datasets import TOO_MANY, Unusable, further, number, table
from asapkit.types import FINDINGS, Refused, Scan

COLUMNS = ("path", "findings", "impression", "id", "patient", "study", "split", "organs", "lesions", "slope", "intercept")
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip", ".dcm")
EMPTY = ("", "nan", "none", "not given")
SPLITS = ("", "train", "valid", "test")
KNOWN = {"1": 1, "0": 0, "-1": -1, "": -1, "nan": -1}


def scans(root: Path) -> Iterator[Scan | Unusable]:
    """One `Scan` per row of the csv (or of `scans.csv` in the folder), `Unusable` for rows that make none.

    Raises: Refused when there is no csv, it cannot be read, lacks the column path, or has a column that is neither known nor a finding.
    """
    file = Path(root)
    file = file / "scans.csv" if file.is_dir() else file
    if not file.exists():
        raise Refused(f"{file.name}: no such csv; write one with the columns path, findings, impression")
    if file.name.lower().endswith(ENDINGS):
        raise Refused(f"{file.name}: is a scan; give a csv that names it, with the columns path, findings, impression")
    names, rows = table(file)
    _check_columns(file, names)
    rows = [{k: v.strip() if isinstance(v, str) else v for k, v in row.items()} for row in rows]
    return _rows(file.parent, rows)


def _check_columns(file: Path, names: list[str]) -> None:
    if "path" not in names or not {"findings", "impression"} & set(names):
        raise Refused(f"{file.name}: needs the columns path and findings (or impression); it has {', '.join(names) or 'none'}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise Refused(f"{file.name}: column {repeated[0]!r} is there twice; keep one")
    if unknown := [name for name in names if name not in COLUMNS + FINDINGS and not name.startswith("extra:")]:
        raise Refused(f"{file.name}: unknown column {unknown[0]!r}; labels are spelled as {', '.join(FINDINGS)}; other columns as extra:<name>")


def _rows(folder: Path, rows: list[dict[str, str]]) -> Iterator[Scan | Unusable]:
    seen: set[str] = set()
    for line, row in enumerate(rows, start=2):  # line 1 holds the names
        id = row.get("id") or _stem(row["path"])
        path = folder / row["path"]
        if problem := _problem(folder, row, id, seen):
            yield Unusable(id or f"line {line}", path if row["path"] else None, f"line {line}: {problem}")
            continue
        seen.add(id)
        yield _scan(folder, row, id, path)


def _stem(path: str) -> str:
    name = Path(path).name
    name, _, series = name.partition("#")
    stem = next((name[: -len(end)] for end in ENDINGS if name.endswith(end)), name)
    return f"{stem}_{series}" if series else stem


def _problem(folder: Path, row: dict[str, str], id: str, seen: set[str]) -> str:
    """Why a row makes no scan, in one line; '' when it does."""
    path = folder / row["path"]
    if TOO_MANY in row:
        return f"{TOO_MANY}; put texts with commas between quotes"
    if row.get("split", "") not in SPLITS:
        return f"split {row['split']!r}; there are train, valid, test"
    if not row["path"]:
        return "path is empty; every row needs a volume"
    if not id or id in (".", "..") or any(c in id for c in "/\\\0") or any(ord(c) < 32 for c in id):
        return f"id {id!r} holds a path separator or nothing; choose a plain name"
    if id in seen:
        return f"id {id!r} is there twice; every volume needs its own"
    if not formats.on_disk(path)[0].exists():
        return f"{row['path']}: no such volume (a report without a volume); fetch it or drop the row"
    if all(row.get(key, "").lower().rstrip(". ") in EMPTY for key in ("findings", "impression")):
        return f"{id}: the report is empty (a volume without a report); fill findings or impression, or drop the row"
    for key, words in (("organs", "organ masks"), ("lesions", "lesion masks")):
        if row.get(key) and not (folder / row[key]).exists():
            return f"{row[key]}: no such {words}; correct the path or leave the field empty"
    for name in FINDINGS:
        if row.get(name, "").lower().removesuffix(".0") not in KNOWN:
            return f"{name} is {row[name]!r}; labels are 1, 0, or -1 / empty for unknown"
    for key in ("slope", "intercept"):
        if row.get(key) and number(row[key]) is None:
            return f"{key} is {row[key]!r}, not a number"
    return ""


def _scan(folder: Path, row: dict[str, str], id: str, path: Path) -> Scan:
    def text(key: str) -> str:
        value = row.get(key, "")
        return "" if value.lower().rstrip(". ") in EMPTY else value

    patient = row.get("patient") or id
    extra = further({name.removeprefix("extra:"): text for name, text in row.items() if name.startswith("extra:")})
    return Scan(
        id, patient, row.get("study") or (id if not row.get("patient") else f"{patient}_{id}"), path,
        findings=text("findings"), impression=text("impression"), split=row.get("split") or "train",
        labels={name: KNOWN[row[name].lower().removesuffix(".0")] for name in FINDINGS if name in row},
        **{key: folder / row[key] for key in ("organs", "lesions") if row.get(key)},
        slope=number(row.get("slope", "")), intercept=number(row.get("intercept", "")), extra=extra,
    )  # fmt: skip
