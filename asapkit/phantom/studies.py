"""Makes all studies of one patient: draws, renders and writes the volumes, writes the report of what can be seen, gives the rows of the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from ..types import FINDINGS, ORGANS
from . import Instance, anatomy, findings, outcomes, questions, sentences
from .disk import stored, write_nifti
from .patients import SCANNERS, Course, Study, progressed, stream
from .render import render
from .wording import pick

Rows = dict[str, list[list]]
"""Rows by table, in the order of `cohort.TABLES`."""

SPACINGS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "toy": ((5.5, 6.5), (10.0, 12.0)),
    "small": ((3.0, 4.0), (5.0, 8.0)),
    "base": ((1.5, 1.5), (3.0, 3.0)),
}
"""In-plane and slice spacing in mm of native volumes, drawn per study from these ranges."""
HU_RANGE = (-1024, 3071)
TECHNIQUE = (
    "{thickness} mm thick axial sections were taken through the thorax{contrast}.", "Thorax CT{contrast} with a slice thickness of {thickness} mm.",
    "Multidetector CT of the chest was performed{contrast}; slice interval {thickness} mm.",
    "Helical chest CT{contrast}, reconstructed every {thickness} mm.",
)  # fmt: skip


def make_patient(out: Path, course: Course, *, seed: int, scale: str) -> Rows:
    """Writes all volumes, organs and truths of a patient below `out`; the rows of its studies and volumes.

    An instance without a voxel in some reconstruction of its study is recorded but not stated, and its finding is not denied either.
    """
    rows: Rows = defaultdict(list)
    patient = anatomy.sample_patient(stream(seed, course.number, "anatomy"), age=course.age, sex=course.sex)
    instances: list[Instance] = []
    shown: list[tuple[Study, list[Instance]]] = []
    for k, study in enumerate(course.studies):
        patient = _as_on(patient, stream(seed, course.number, "anatomy", k)) if k else patient
        fresh = findings.sample(stream(seed, course.number, "disease", k), patient)
        instances = progressed(stream(seed, course.number, "disease", k, 1), instances, fresh) if k else list(fresh)
        stated = _volumes(out, course, study, k, patient, instances, rows, seed=seed, scale=scale)
        shown.append((study, stated))
        _report(course, study, k, instances, stated, rows, seed=seed, contrast=patient.blood_hu > 90)
    _outcomes(course, shown, rows, seed=seed)
    return dict(rows)


def _as_on(patient: anatomy.Patient, rng: np.random.Generator) -> anatomy.Patient:
    """The same person on another day: lies elsewhere on the table and breathes in more or less; organs and vessels keep their shape."""
    lung_hu = float(np.clip(patient.lung_hu + rng.normal(0, 20), -900, -720))
    return replace(patient, shift=tuple(float(s) for s in rng.normal(0, (8, 8, 12))), turn=float(rng.normal(0, 0.07)), lung_hu=lung_hu)


def _reconstructed(patient: anatomy.Patient, *, sharp: bool) -> anatomy.Patient:
    """A sharp kernel shows finer detail and more noise, a soft one less of both."""
    detail, noise = (0.6, 1.3) if sharp else (1.15, 0.85)
    return replace(patient, sharpness=patient.sharpness * detail, noise_hu=patient.noise_hu * noise)


def volume_ids(course: Course, study: Study) -> list[str]:
    return [f"{course.name}_{study.letter}_{r}" for r in range(1, study.reconstructions + 1)]


def volume_path(course: Course, study: Study, id: str) -> Path:
    """Below the cohort's folder: train/train_1/train_1_a/train_1_a_1.nii.gz"""
    return Path(course.split) / course.name / f"{course.name}_{study.letter}" / f"{id}.nii.gz"


def _volumes(
    out: Path, course: Course, study: Study, k: int, patient: anatomy.Patient, instances: Sequence[Instance], rows: Rows, *, seed: int, scale: str
) -> list[Instance]:
    """Renders and writes each reconstruction; returns the instances that have voxels in all of them."""
    visible = {i.bit for i in instances}
    rng = stream(seed, course.number, "scanner", k)
    manufacturer, model, soft, sharp, intercept = SCANNERS[study.scanner]
    in_plane = round(float(rng.uniform(*SPACINGS[scale][0])), 3)
    sharp_first = rng.random() < 0.4
    for r, id in enumerate(volume_ids(course, study)):
        is_sharp = sharp_first != bool(r)
        spacing_mm = (in_plane, in_plane, round(float(rng.uniform(*SPACINGS[scale][1])), 2))
        shot = _reconstructed(patient, sharp=is_sharp)
        hu, organs, truth, affine = render(shot, instances, spacing_mm=spacing_mm, rng_noise=stream(seed, course.number, "noise", k, r))
        voxels = _voxels_per_bit(truth)
        visible &= {bit for bit, count in voxels.items() if count}
        values = np.rint(hu).clip(*HU_RANGE).astype(np.int16) - np.int16(intercept)
        array, stored_affine = stored(values, affine, study.axes)
        write_nifti(out / volume_path(course, study, id), array, stored_affine)
        write_nifti(out / "organs" / f"{id}.nii.gz", *stored(organs, affine, study.axes), labels=ORGANS)
        write_nifti(out / "truth" / f"{id}.nii.gz", *stored(truth, affine, study.axes))
        for i in instances:
            size = "" if i.size_mm != i.size_mm else round(float(i.size_mm), 1)
            rows["truth/instances.csv"].append([id, i.bit, i.finding, i.side, i.lobe, i.place, i.severity, i.count, size, voxels.get(i.bit, 0)])
        rows[f"{_table(course)}_metadata.csv"].append(
            [
                f"{id}.nii.gz", manufacturer, model, course.sex, f"{course.age + study.day // 365:03d}Y", pick(rng, sharp if is_sharp else soft),
                _position(stored_affine), _orientation(stored_affine), array.shape[1], array.shape[0], str([spacing_mm[0], spacing_mm[1]]),
                intercept, 1, array.shape[2], spacing_mm[2], date.fromordinal(course.first_day + study.day).strftime("%Y%m%d"),
            ]
        )  # fmt: skip
    return [i for i in instances if i.bit in visible]


def _report(
    course: Course, study: Study, k: int, instances: Sequence[Instance], stated: Sequence[Instance], rows: Rows, *, seed: int, contrast: bool
) -> None:
    """Rows of report, labels, sentences and questions: the same for every reconstruction of the study."""
    rng = stream(seed, course.number, "text", k)
    absent = [f for f in FINDINGS if f not in {i.finding for i in instances}]
    report = sentences.write(rng, stated, absent=absent, follow_up=k > 0)
    for id in volume_ids(course, study):
        name = f"{id}.nii.gz"
        z = next(row for row in rows[f"{_table(course)}_metadata.csv"] if row[0] == name)[-2]
        technique = pick(rng, TECHNIQUE).format(thickness=f"{z:g}", contrast=" with intravenous contrast" if contrast else " without contrast")
        rows[f"{_table(course)}_reports.csv"].append([name, study.clinical, technique, report.findings_text, report.impression_text])
        rows[f"{course.split}_predicted_labels.csv"].append([name, *(int(f in report.stated) for f in FINDINGS)])
        for section, texts in (("findings", report.findings), ("impression", report.impression)):
            for index, s in enumerate(texts):
                rows["truth/sentences.csv"].append([id, section, index, s.text, s.polarity, s.finding, s.bits, s.side, s.lobe])
        for kind, answers in questions.rows(name, report, stated).items():
            rows[f"qa/{_table(course)}_{kind}.csv"] += [list(a) for a in answers]


def _outcomes(course: Course, shown: Sequence[tuple[Study, Sequence[Instance]]], rows: Rows, *, seed: int) -> None:
    rng = stream(seed, course.number, "outcome")
    last, instances = shown[-1]
    days, event = outcomes.survival(rng, outcomes.log_hazard(instances, age=course.age + last.day / 365.25))
    for study, present in shown:
        name = f"{course.name}_{study.letter}"
        rows["truth/hazard.csv"].append([name, round(outcomes.log_hazard(present, age=course.age + study.day / 365.25), 4)])
        rows["outcomes.csv"].append([name, course.name, days + last.day - study.day, event, outcomes.severity(rng, present)])


def _table(course: Course) -> str:
    return "train" if course.split == "train" else "validation"


def _voxels_per_bit(truth: np.ndarray) -> dict[int, int]:
    masks, counts = np.unique(truth[truth > 0], return_counts=True)
    out: dict[int, int] = defaultdict(int)
    for mask, count in zip(masks.tolist(), counts.tolist(), strict=True):
        for bit in range(32):
            if mask >> bit & 1:
                out[bit] += count
    return out


def _position(affine: np.ndarray) -> str:
    """DICOM's ImagePositionPatient: the first voxel in LPS millimetres."""
    x, y, z = affine[:3, 3]
    return str([round(float(v), 4) for v in (-x, -y, z)])


def _orientation(affine: np.ndarray) -> str:
    signs = np.sign(np.diag(affine)[:3])
    return str([int(-signs[0]), 0, 0, 0, int(-signs[1]), 0])
