"""The phantom cohort on disk: CT-RATE's layout, the same bytes whoever makes it, and truth that holds to the voxel."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from asapkit import reports
from asapkit.datasets import ct_rate
from asapkit.phantom import VERSION, Instance, anatomy, cohort, disk, findings, outcomes, questions
from asapkit.phantom.patients import CHRONIC, plan, progressed, stream
from asapkit.types import FINDINGS, ORGANS, Refused

VOLUMES = 12
SEED = 7


def hashes(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name, keep_default_na=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return cohort.make(tmp_path_factory.mktemp("phantom") / "a", volumes=VOLUMES, seed=SEED, scale="toy", progress=False)


@pytest.mark.slow
def test_same_seed_same_bytes_with_one_worker_and_with_two(made, tmp_path):
    again = cohort.make(tmp_path / "b", volumes=VOLUMES, seed=SEED, scale="toy", workers=2, progress=False)
    assert hashes(again) == hashes(made)
    other = cohort.make(tmp_path / "c", volumes=2, seed=SEED + 1, scale="toy", progress=False)
    assert hashes(other)["truth/sentences.csv"] != hashes(made)["truth/sentences.csv"]


@pytest.mark.slow
def test_a_finished_cohort_is_left_alone_and_a_damaged_one_is_mended(made):
    before = hashes(made)
    started = time.perf_counter()
    cohort.make(made, volumes=VOLUMES, seed=SEED, scale="toy", progress=False)
    assert time.perf_counter() - started < 1 and hashes(made) == before
    next(made.glob("train/*/*/*.nii.gz")).unlink()
    cohort.make(made, volumes=VOLUMES, seed=SEED, scale="toy", progress=False)
    assert hashes(made) == before


@pytest.mark.slow
def test_a_cohort_grows_and_its_first_patients_stay(made, tmp_path):
    small = cohort.make(tmp_path / "d", volumes=5, seed=SEED, scale="toy", progress=False)
    assert len(list(small.glob("*/*/*/*.nii.gz"))) == 5
    cohort.make(small, volumes=VOLUMES, seed=SEED, scale="toy", progress=False)
    assert hashes(small) == hashes(made)
    with pytest.raises(Refused, match="more than 3"):
        cohort.make(small, volumes=3, seed=SEED, scale="toy", progress=False)


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(made, tmp_path):
    out = tmp_path / "killed"
    code = f"from asapkit.phantom import cohort; cohort.make({str(out)!r}, volumes={VOLUMES}, seed={SEED}, scale='toy', progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(cohort.__file__).parents[2])
    until = time.monotonic() + 60
    while not list(out.glob(".parts/*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (out / "truth" / ".x.nii.gz.1.partial").write_bytes(b"half")
    cohort.make(out, volumes=VOLUMES, seed=SEED, scale="toy", progress=False)
    assert hashes(out) == hashes(made)


def test_the_ct_rate_reader_reads_it_unchanged(made):
    found = list(ct_rate.scans(made))
    assert len(found) == VOLUMES and len({s.id for s in found}) == VOLUMES
    for scan in found:
        assert scan.path.exists() and scan.findings and scan.organs is not None and scan.truth is not None
        assert set(scan.labels) == set(FINDINGS) and set(scan.labels.values()) <= {0, 1}
        assert {"time_days", "event", "severity"} <= set(scan.extra)
        assert scan.slope == 1 and scan.intercept in (-1024, -8192)
        header = nib.load(scan.path)
        assert np.allclose(header.header.get_zooms(), scan.spacing_mm, atol=1e-3)
        assert header.get_data_dtype() == np.int16 and nib.load(scan.truth).get_data_dtype() == np.uint32
        assert np.allclose(header.affine, nib.load(scan.organs).affine) and np.allclose(header.affine, nib.load(scan.truth).affine)
        assert scan.split == scan.id.split("_")[0]
    assert {s.split for s in found} == {"train", "valid"}


def test_voxels_are_hounsfield_units_once_slope_and_intercept_are_applied(made):
    for scan in ct_rate.scans(made):
        hu = np.asarray(nib.load(scan.path).dataobj, np.float32) * scan.slope + scan.intercept
        assert -1024 <= hu.min() <= -900 and 200 < hu.max() <= 3071
        organs = np.asarray(nib.load(scan.organs).dataobj)
        assert -950 < np.median(hu[(organs >= 1) & (organs <= 5)]) < -600
        assert -50 < np.median(hu[organs == 6]) < 400


def test_anatomy_is_where_it_belongs_whatever_the_axes(made):
    axes = set()
    for scan in ct_rate.scans(made):
        image = nib.load(scan.organs)
        axes.add("".join(nib.aff2axcodes(image.affine)))
        ras = nib.as_closest_canonical(image)
        organs, world = np.asarray(ras.dataobj), ras.affine
        centre = {o: (world @ np.append(np.argwhere(organs == o).mean(0), 1))[:3] for o in range(1, 10) if (organs == o).any()}
        assert centre[1][0] < centre[3][0]  # left lung lies left of the right one: x grows to the right
        assert centre[1][2] > centre[2][2] and centre[3][2] > centre[5][2]  # upper above lower
        assert centre[6][1] > centre[2][1]  # heart in front of the lower lobe
    assert axes <= {"LPS", "RAS", "LAS", "RPS"}


def test_organ_labels_are_named_in_the_header_and_beside_it(made):
    assert json.loads((made / "organs" / "labels.json").read_text()) == {name: i for i, name in enumerate(ORGANS, 1)}
    content = nib.load(next((made / "organs").glob("*.nii.gz"))).header.extensions[0].get_content()
    text = content if isinstance(content, str) else bytes(content).decode()
    assert all(f'Key="{i}"' in text and name in text for i, name in enumerate(ORGANS, 1))


def test_every_stated_instance_has_voxels_and_every_voxel_an_instance(made):
    sentences, instances = table(made, "truth/sentences.csv"), table(made, "truth/instances.csv")
    for id, rows in instances.groupby("id"):
        truth = np.asarray(nib.load(made / "truth" / f"{id}.nii.gz").dataobj)
        for row in rows.itertuples():
            assert int((truth >> np.uint32(row.bit) & np.uint32(1)).sum()) == row.voxels
        assert not int(np.bitwise_or.reduce(truth, axis=None)) & ~sum(1 << b for b in rows.bit)
        for s in sentences[(sentences.id == id) & (sentences.polarity == "positive")].itertuples():
            assert s.bits and (truth & np.uint32(s.bits)).any()
            for bit in range(32):
                if s.bits >> bit & 1:
                    assert (truth & np.uint32(1 << bit)).any()


def test_labels_are_the_findings_that_the_report_states(made):
    sentences, instances = table(made, "truth/sentences.csv"), table(made, "truth/instances.csv")
    for split in ("train", "valid"):
        for row in table(made, f"{split}_predicted_labels.csv").to_dict("records"):
            id = row["VolumeName"].removesuffix(".nii.gz")
            own = sentences[(sentences.id == id) & (sentences.section == "findings")]
            assert {f for f in FINDINGS if row[f]} == set(own[own.polarity == "positive"].finding)
            assert not set(own[own.polarity == "negative"].finding) & set(instances[instances.id == id].finding)


def test_split_gives_back_the_sentences_of_the_truth(made):
    sentences = table(made, "truth/sentences.csv")
    for split in ("train", "validation"):
        for row in table(made, f"{split}_reports.csv").to_dict("records"):
            own = sentences[sentences.id == row["VolumeName"].removesuffix(".nii.gz")]
            for section, column in (("findings", "Findings_EN"), ("impression", "Impressions_EN")):
                expected = own[own.section == section].sort_values("index").sentence.tolist()
                if section == "impression" and not expected:
                    assert row[column] == "Not given."
                else:
                    assert reports.split(row[column]) == expected


def test_reconstructions_share_a_report_and_patients_stay_in_one_split(made):
    found = list(ct_rate.scans(made))
    by_study: dict[str, set] = {}
    for scan in found:
        by_study.setdefault(scan.study, set()).add((scan.findings, scan.impression, tuple(scan.labels.items())))
    assert all(len(reports) == 1 for reports in by_study.values())
    splits: dict[str, set] = {}
    for scan in found:
        splits.setdefault(scan.patient, set()).add(scan.split)
    assert all(len(s) == 1 for s in splits.values())
    assert len(by_study) < len(found)


def test_question_tables_name_volumes_of_their_split(made):
    for split, prefix in (("train", "train"), ("valid", "validation")):
        for kind, columns in questions.TABLES.items():
            rows = table(made, f"qa/{prefix}_{kind}.csv")
            assert list(rows.columns) == list(columns)
            assert rows["Volumename"].str.startswith(split).all()
    assert len(table(made, "qa/train_case_disorders.csv")) == sum(s.split == "train" for s in ct_rate.scans(made))


def test_outcomes_have_one_row_per_study(made):
    rows = table(made, "outcomes.csv")
    assert sorted(rows.study) == sorted({s.study for s in ct_rate.scans(made)})
    assert (rows.time_days > 0).all() and rows.event.isin([0, 1]).all() and rows.severity.isin(range(4)).all()
    assert rows.groupby("patient").event.nunique().max() == 1


def test_the_folder_says_what_it_is(made):
    about = json.loads((made / "phantom.json").read_text())
    assert (about["version"], about["seed"], about["scale"], about["volumes"]) == (VERSION, SEED, "toy", VOLUMES)
    text = (made / "README.txt").read_text()
    assert "Synthetic" in text and "Not for clinical use" in text and f"{VOLUMES} volumes" in text
    assert not list(made.rglob(".*"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"volumes": 0}, "volumes"),
        ({"scale": "large"}, "toy, small, base"),
        ({"workers": 0}, "workers"),
        ({"valid_share": 1.0}, "valid_share"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        cohort.make(tmp_path / "x", **({"volumes": 2, "seed": 0, "scale": "toy"} | changes))
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_else_is_refused(made, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Refused, match="not empty"):
        cohort.make(tmp_path, volumes=2, seed=0, scale="toy")
    with pytest.raises(Refused, match="seed 7 instead of 8"):
        cohort.make(made, volumes=VOLUMES, seed=8, scale="toy")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_clear_line_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Refused, match="No space left"):
        cohort.make(tmp_path / "x", volumes=1, seed=0, scale="toy", progress=False)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("volumes", [1, 2, 7, 300])
def test_plans_hold_exactly_the_volumes_and_the_share(volumes):
    courses = plan(1, volumes=volumes, valid_share=0.25)
    assert sum(c.volumes for c in courses) == volumes
    assert abs(sum(c.split == "valid" for c in courses) - len(courses) / 4) <= 1
    assert len({c.name for c in courses}) == len(courses)
    if volumes == 300:
        studies = [len(c.studies) for c in courses]
        assert 1.1 < np.mean(studies) < 1.45 and max(studies) == 3
    longer = plan(1, volumes=volumes + 20, valid_share=0.25)
    assert longer[: len(courses) - 1] == courses[:-1]


def test_follow_up_keeps_the_chronic_and_changes_the_acute(made):
    instances = table(made, "truth/instances.csv")
    before = [Instance(f, bit, "none", "", "", 1) for bit, f in enumerate(FINDINGS)]
    kept: Counter = Counter()
    for seed in range(200):
        after = progressed(np.random.default_rng(seed), before, [])
        assert [i.bit for i in after] == list(range(len(after)))
        kept.update(i.finding for i in after)
    assert all(kept[f] > 170 if f in CHRONIC else kept[f] < 90 for f in FINDINGS)
    assert not instances.duplicated(["id", "bit"]).any()


def test_worse_findings_mean_a_higher_hazard_and_a_higher_grade():
    mild, severe = ([Instance("Consolidation", 0, "left", ORGANS[0], "", s), Instance("Lung opacity", 1, "left", ORGANS[0], "", s)] for s in (1, 3))
    assert outcomes.log_hazard(severe, age=60) > outcomes.log_hazard(mild, age=60) > outcomes.log_hazard([], age=60)
    times = {h: [outcomes.survival(stream(0, k, "outcome"), h) for k in range(300)] for h in (0.0, 2.0)}
    assert np.mean([t for t, _ in times[0.0]]) > np.mean([t for t, _ in times[2.0]])
    assert 0.1 < np.mean([e for _, e in times[0.0]]) < np.mean([e for _, e in times[2.0]]) < 1
    grades = [np.mean([outcomes.severity(stream(1, k, "outcome"), what) for k in range(200)]) for what in ([], mild, severe)]
    assert grades[0] < grades[1] < grades[2]


@pytest.mark.slow
def test_prevalence_and_company_are_those_of_the_real_table():
    """Over 2000 drawn patients: every finding within 3 points of its stated prevalence, and companions more often together than by chance."""
    shown = np.zeros((2000, len(FINDINGS)), bool)
    for number in range(len(shown)):
        patient = anatomy.sample_patient(stream(11, number, "anatomy"))
        for instance in findings.sample(stream(11, number, "disease", 0), patient):
            shown[number, FINDINGS.index(instance.finding)] = True
    for finding, share in zip(FINDINGS, shown.mean(0), strict=True):
        assert abs(share - findings.PREVALENCE[finding]) < 0.04, finding
    assert 3 < shown.sum(1).mean() < 4
    for finding, (other, _) in findings.TOGETHER.items():
        a, b = shown[:, FINDINGS.index(finding)], shown[:, FINDINGS.index(other)]
        assert a[b].mean() > 1.2 * a[~b].mean(), finding


def test_turning_axes_moves_no_voxel():
    rng = np.random.default_rng(0)
    array, affine = rng.integers(0, 9, (3, 4, 5)), np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (-5, 6, 7)
    for axes in ("LPS", "RAS", "LAS", "RPI"):
        turned, matrix = disk.stored(array, affine, axes)
        assert "".join(nib.aff2axcodes(matrix)) == axes
        back = nib.as_closest_canonical(nib.Nifti1Image(turned.astype(np.int16), matrix))
        assert np.array_equal(np.asarray(back.dataobj), array) and np.allclose(back.affine, affine)


def test_gzip_holds_no_date_and_can_be_read():
    import gzip

    content = bytes(range(256)) * 100
    assert disk.gzipped(content) == disk.gzipped(content) and gzip.decompress(disk.gzipped(content)) == content
    assert disk.gzipped(content)[4:8] == b"\0\0\0\0"
