"""Writes a cohort to disk in CT-RATE's layout, so that the `ct_rate` reader reads it unchanged, with the truth beside the data.

    train/train_1/train_1_a/train_1_a_1.nii.gz   stored int16 values; the metadata table holds slope and intercept, as in CT-RATE
    valid/...                                    other patients
    train_reports.csv  validation_reports.csv    train_predicted_labels.csv  valid_predicted_labels.csv    *_metadata.csv
    organs/<id>.nii.gz  organs/labels.json       nine organs, values in `ORGANS` order, names in the header and in labels.json
    truth/<id>.nii.gz   uint32, bit i marks the voxels of the instance with bit i
    truth/instances.csv truth/sentences.csv      truth/hazard.csv (log hazard of each study: the ceiling of any survival model)
    outcomes.csv  qa/*.csv  phantom.json  README.txt

Same seed, scale, share and `VERSION`: same bytes, with any number of workers. Interrupted runs go on where they stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..types import FINDINGS, ORGANS, Refused
from ..workers import Lost, each
from . import VERSION, questions
from .disk import write_bytes, write_table
from .patients import Course, plan
from .studies import SPACINGS, Rows, make_patient, volume_ids, volume_path

REPORT_COLUMNS = ("VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN")
METADATA_COLUMNS = (
    "VolumeName", "Manufacturer", "ManufacturerModelName", "PatientSex", "PatientAge", "ConvolutionKernel", "ImagePositionPatient",
    "ImageOrientationPatient", "Rows", "Columns", "XYSpacing", "RescaleIntercept", "RescaleSlope", "NumberofSlices", "ZSpacing", "StudyDate",
)  # fmt: skip
TABLES: dict[str, tuple[str, ...]] = {
    "truth/instances.csv": ("id", "bit", "finding", "side", "lobe", "place", "severity", "count", "size_mm", "voxels"),
    "truth/sentences.csv": ("id", "section", "index", "sentence", "polarity", "finding", "bits", "side", "lobe"),
    "truth/hazard.csv": ("study", "log_hazard"),
    "outcomes.csv": ("study", "patient", "time_days", "event", "severity"),
}
for _split, _reports, _labels in (("train", "train", "train"), ("valid", "validation", "valid")):
    TABLES[f"{_reports}_reports.csv"] = REPORT_COLUMNS
    TABLES[f"{_labels}_predicted_labels.csv"] = ("VolumeName", *FINDINGS)
    TABLES[f"{_reports}_metadata.csv"] = METADATA_COLUMNS
    TABLES |= {f"qa/{_reports}_{kind}.csv": columns for kind, columns in questions.TABLES.items()}
_PARTS = ".parts"  # rows of finished patients of an unfinished cohort


@dataclass(frozen=True)
class _Job:
    out: Path
    seed: int
    scale: str
    course: Course


def make(
    out: str | Path, *, volumes: int, seed: int = 0, scale: str = "small", workers: int = 1, valid_share: float = 0.25, progress: bool = True
) -> Path:
    """Writes a cohort of exactly `volumes` volumes into the folder `out` and returns it; what an interrupted run finished is kept.

    scale: native spacing, "toy" about 6 x 6 x 11 mm, "small" 3-4 x 3-4 x 5-8 mm, "base" 1.5 x 1.5 x 3 mm; patients and reports are the same at
    every scale but for lesions that a coarse grid cannot hold. valid_share: share of the patients in the split "valid".

    Raises: ValueError for a count, seed, scale or share that makes no sense; Refused when `out` holds something else, or cannot be written.
    """
    _check(volumes, seed, scale, workers, valid_share)
    out = Path(out)
    wanted = {"version": VERSION, "seed": seed, "scale": scale, "valid_share": valid_share}
    if _finished(out, wanted, volumes):
        return out
    courses = plan(seed, volumes=volumes, valid_share=valid_share)
    try:
        _write_json(out / "phantom.json", wanted | {"volumes": volumes, "complete": False})
        rows = _patients(out, courses, seed=seed, scale=scale, workers=workers, progress=progress)
        _finish(out, courses, rows, wanted | {"volumes": volumes, "complete": True})
    except OSError as error:
        raise Refused(f"{out.name}: cannot write ({error.strerror or error}); what is done is kept, free some space and run again") from error
    return out


def _check(volumes: int, seed: int, scale: str, workers: int, valid_share: float) -> None:
    if volumes < 1:
        raise ValueError(f"volumes must be at least 1, not {volumes}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, as {seed} is")
    if scale not in SPACINGS:
        raise ValueError(f"unknown scale {scale!r}; there are {', '.join(SPACINGS)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if not 0 <= valid_share < 1:
        raise ValueError(f"valid_share must lie in [0, 1), not {valid_share}")


def _finished(out: Path, wanted: dict, volumes: int) -> bool:
    """True where `out` already holds this cohort whole. Raises: Refused where it holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "phantom.json").is_file():
        raise Refused(f"{out.name}: not empty and no phantom cohort; give a new folder")
    try:
        there = json.loads((out / "phantom.json").read_text())
    except ValueError as error:
        raise Refused(f"{out.name}/phantom.json cannot be read; give a new folder") from error
    if other := [f"{k} {there.get(k)} instead of {v}" for k, v in wanted.items() if there.get(k) != v]:
        raise Refused(f"{out.name}: holds another cohort ({', '.join(other)}); give a new folder")
    if there["volumes"] > volumes:
        raise Refused(f"{out.name}: holds {there['volumes']} volumes, more than {volumes}; ask for as many or give a new folder")
    if not there["complete"] or there["volumes"] < volumes:
        return False
    courses = plan(wanted["seed"], volumes=volumes, valid_share=wanted["valid_share"])
    return all((out / file).is_file() for file in _files(courses))


def _patients(out: Path, courses: Sequence[Course], *, seed: int, scale: str, workers: int, progress: bool) -> Rows:
    """Rows of all tables in the order of the patients; a patient whose rows lie in `.parts` is not made again."""
    parts = {course.number: rows for course in courses if (rows := _part(out, course)) is not None}
    jobs = [_Job(out, seed, scale, course) for course in courses if course.number not in parts]
    with tqdm(total=sum(c.volumes for c in courses), unit="volume", desc="phantom", disable=not progress, delay=1) as bar:
        bar.update(sum(c.volumes for c in courses if c.number in parts))
        for job, result in each(_make, jobs, workers=workers):
            if isinstance(result, Lost):
                raise Refused(f"{out.name}: {job.course.name}: {result.reason}")
            parts[job.course.number] = result
            bar.update(job.course.volumes)
    together: Rows = defaultdict(list)
    for course in courses:
        for table, rows in parts[course.number].items():
            together[table] += rows
    return together


def _make(job: _Job) -> Rows:
    rows = make_patient(job.out, job.course, seed=job.seed, scale=job.scale)
    _write_json(_part_path(job.out, job.course), {"course": repr(job.course), "rows": rows})
    return rows


def _part_path(out: Path, course: Course) -> Path:
    return out / _PARTS / f"{course.name}.json"


def _part(out: Path, course: Course) -> Rows | None:
    try:
        part = json.loads(_part_path(out, course).read_text())
    except (OSError, ValueError):
        return None
    return part["rows"] if part["course"] == repr(course) else None


def _finish(out: Path, courses: Sequence[Course], rows: Rows, about: dict) -> None:
    for table, columns in TABLES.items():
        write_table(out / table, columns, rows[table])
    _write_json(out / "organs" / "labels.json", {name: value for value, name in enumerate(ORGANS, 1)})
    counts = {
        "patients": len(courses), "studies": sum(len(c.studies) for c in courses), "volumes": about["volumes"],
        "train_patients": sum(c.split == "train" for c in courses), "valid_patients": sum(c.split == "valid" for c in courses),
    }  # fmt: skip
    labels = rows["train_predicted_labels.csv"] + rows["valid_predicted_labels.csv"]
    findings = {f: sum(row[i] for row in labels) for i, f in enumerate(FINDINGS, 1)}
    write_bytes(out / "README.txt", _readme(counts, findings, about).encode())
    for stale in [p for p in out.rglob(".*.partial") if p.is_file()]:
        stale.unlink()
    shutil.rmtree(out / _PARTS, ignore_errors=True)
    _write_json(out / "phantom.json", about | {"counts": counts, "volumes_with": findings})


def _files(courses: Sequence[Course]) -> list[Path]:
    """Every file of a finished cohort, below its folder."""
    files = [Path("README.txt"), Path("organs/labels.json"), *map(Path, TABLES)]
    for course in courses:
        for study in course.studies:
            for id in volume_ids(course, study):
                files += [volume_path(course, study, id), Path(f"organs/{id}.nii.gz"), Path(f"truth/{id}.nii.gz")]
    return files


def _readme(counts: dict[str, int], findings: dict[str, int], about: dict) -> str:
    listed = "\n".join(f"  {name:36}{number:6}" for name, number in findings.items())
    patients = f"{counts['patients']} patients ({counts['train_patients']} train, {counts['valid_patients']} valid)"
    return f"""Synthetic chest CT cohort, made by asapkit (phantom version {about["version"]}, seed {about["seed"]}, scale {about["scale"]}).

No patient stands behind these volumes and reports: every voxel and every sentence was computed. Not for clinical use, and no evidence
about how a method does on real scans.

{counts["volumes"]} volumes of {counts["studies"]} studies of {patients}.
The layout is that of CT-RATE: train/ and valid/ hold volumes as stored values, the metadata tables slope and intercept.
organs/ and truth/ hold what only a phantom can know: organ masks, the voxels of every finding (bit i of truth/<id>.nii.gz is
row `bit` = i of truth/instances.csv) and what every sentence states (truth/sentences.csv). Learning methods must not read truth/.

Volumes whose report states a finding:
{listed}
"""


def _write_json(path: Path, value: object) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())
