"""The parquet tables of a store, put together from its records: sorted, typed, the same bytes whatever the order of the work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException, parquet
from tqdm.auto import tqdm

from asapkit import preprocess
from asapkit.preprocess import LAYERS, Outcome
from asapkit.types import FINDINGS, Refused, Scan

TEXT = ("id", "patient", "study", "split", "findings", "impression", "path")
STATISTICS = ("hu_min", "hu_max", "hu_mean", "lung_share")
TRUTH = {"instances": ["id", "bit"], "sentences": ["id", "section", "index"]}  # and what they are sorted by


def assemble(root: Path, scans: Sequence[Scan], refused: Sequence[Outcome], *, progress: bool = True) -> None:
    """Writes all tables of the store at `root` from its records, from `refused`, and from the truth tables beside the masks of `scans`.

    Rows of scans that earlier runs saw and this one did not are kept. Raises: OSError when the disk is full.
    """
    files = tqdm(sorted((root / "records").glob("*.json")), desc="tables", unit="volume", delay=3, disable=not progress)
    volumes = _volumes([_readable(file) for file in files])
    _save(root, "volumes", volumes)
    seen = {scan.id for scan in scans} | {outcome.id for outcome in refused} | set(volumes["id"])
    _save(root, "refused", _refused(root, refused, seen))
    for name, order in TRUTH.items():
        rows = [_of_truth(folder, name) for folder in sorted({scan.truth.parent for scan in scans if scan.truth is not None})]
        old = read(root, name)
        rows += [] if old is None else [old[~old["id"].isin({scan.id for scan in scans})]]
        rows = [table[table["id"].isin(set(volumes["id"]))] for table in rows if table is not None]
        if rows:
            _save(root, name, pd.concat(rows, ignore_index=True).sort_values(order, kind="stable", ignore_index=True))


def _readable(file: Path) -> dict:
    try:
        return preprocess.remembered(file)
    except ValueError as error:
        raise Refused(f"{file}: no record of a volume ({preprocess.one_line(error)[:120]}); delete it and run preprocess again") from error


def read(root: Path, name: str) -> pd.DataFrame | None:
    """A table of the store, None where it has none.  Raises: Refused, naming the file, when it is damaged.

    Not with `pandas.read_parquet`: that gives Arrow's threads a Python file, and one that lets go of it while the interpreter ends aborts a process
    whose work is done (arrow issues 34314, 50482).
    """
    file = Path(root) / f"{name}.parquet"
    if not file.exists():
        return None
    try:
        with parquet.ParquetFile(file) as table:
            return table.read(use_threads=False).to_pandas(use_threads=False)
    except (ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        raise Refused(f"{file}: cannot be read ({preprocess.one_line(error)[:120]}); delete it and run preprocess again, voxels are kept") from error


def volumes(root: Path) -> pd.DataFrame:
    """The table of volumes by id. Of a store that was made before a layer was known, no volume has it."""
    table = read(root, "volumes").set_index("id")
    return table.assign(**{f"has_{name}": False for name in LAYERS if name != "ct" and f"has_{name}" not in table})


def split_patients(root: Path) -> list[str]:
    """A line on the patients of a store whose volumes lie in several splits, where there are any."""
    table = read(root, "volumes")
    splits = {} if table is None else table.groupby("patient")["split"].unique()
    torn = [f"{patient} in {' and '.join(sorted(found))}" for patient, found in splits.items() if len(found) > 1]
    more = f" and {len(torn) - 3} more" if len(torn) > 3 else ""
    said = f"patients in several splits: {', '.join(torn[:3])}{more}; split by patient, or scores on held-out volumes say too much"
    return [said] * bool(torn)


def _save(root: Path, name: str, table: pd.DataFrame) -> None:
    import io

    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    preprocess.write_atomic(root, root / f"{name}.parquet", buffer.getvalue())


def _volumes(records: list[dict]) -> pd.DataFrame:
    records = sorted(records, key=lambda r: r["scan"]["id"])
    scans = [r["scan"] for r in records]
    columns = {name: pd.Series([s[name] for s in scans], dtype=object) for name in TEXT}
    columns |= {name: pd.Series([s["labels"].get(name, -1) for s in scans], dtype=np.int8) for name in FINDINGS}
    for a, axis in enumerate("xyz"):
        columns[f"shape_{axis}"] = pd.Series([r["layers"]["ct"]["shape"][a] for r in records], dtype=np.int64)
    columns["affine"] = pd.Series([r["affine"] for r in records], dtype=object)
    for name in STATISTICS:
        columns[name] = pd.Series([r["statistics"][name] for r in records], dtype=np.float64)
    for name in LAYERS:
        if name != "ct":
            columns[f"has_{name}"] = pd.Series([name in r["layers"] for r in records], dtype=bool)
    columns["warnings"] = pd.Series(["; ".join(r["warnings"]) for r in records], dtype=object)
    columns["hash"] = pd.Series([r["layers"]["ct"]["sha256"] for r in records], dtype=object)
    return pd.DataFrame(columns | _extra(scans))


@cache
def columns() -> frozenset[str]:
    """The table of volumes' own columns; `Scan.extra` adds further ones under other names."""
    return frozenset(_volumes([]).columns)


def _extra(scans: list[dict]) -> dict[str, pd.Series]:
    """Columns of `Scan.extra`: numbers where every value is one, else text; missing ones are NaN or None."""
    columns = {}
    for name in sorted({name for s in scans for name in s["extra"]}):
        values = [s["extra"].get(name) for s in scans]
        if all(unknown(v) or is_number(v) for v in values):
            columns[name] = pd.Series([np.nan if unknown(v) else float(v) for v in values], dtype=np.float64)
        else:
            columns[name] = pd.Series([None if unknown(v) else str(v) for v in values], dtype=object)
    return columns


def unknown(value: object) -> bool:
    """Whether an extra column says nothing of a volume: None, NaN, pandas.NA."""
    return value is None or value is pd.NA or (is_number(value) and bool(value != value))


def is_number(value: object) -> bool:
    """Whether float64 holds it: not text, not 10**400."""
    try:
        return isinstance(value, Real | np.bool_) and isinstance(float(value), float)
    except OverflowError:
        return False


def _refused(root: Path, refused: Iterable[Outcome], seen: set[str]) -> pd.DataFrame:
    columns = ["id", "path", "reason"]
    said = [[text.encode(errors="backslashreplace").decode() for text in (o.id, o.path, o.reason)] for o in refused]  # names of files may be no UTF-8
    table = pd.DataFrame(said, columns=columns, dtype=object)
    old = read(root, "refused")
    if old is not None:
        table = pd.concat([table, old[~old["id"].isin(seen)]], ignore_index=True)
    return table.sort_values(columns, kind="stable", ignore_index=True)


def _of_truth(folder: Path, name: str) -> pd.DataFrame | None:
    """A truth table of a dataset, None where it has none. Words such as "none" stay words; an empty size is NaN."""
    file = folder / f"{name}.csv"
    if not file.exists():
        return None
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values={"size_mm": ["", "nan"]}, dtype={"id": str})
    except ValueError as error:
        raise Refused(f"{file}: cannot be read as a table ({' '.join(str(error).split())[:200]}); make the cohort again") from error
    if lacking := [c for c in TRUTH[name] if c not in table.columns]:
        raise Refused(f"{file}: column {lacking[0]!r} is missing; make the cohort again")
    return table
