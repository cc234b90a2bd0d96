"""The store: what goes in comes out, whatever is killed, refused, full, or of another contract."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from asapkit import config, ct, preprocess, store, tables, workers
from asapkit.datasets import Unusable, ct_rate
from asapkit.phantom import cohort as phantom
from asapkit.types import FINDINGS, ORGANS, Refused, Scan
from asapkit.writing import LOCK, one_writer

TOY = config.Config.at("toy")
SHAPE, SPACING = (56, 44, 26), (6.0, 6.0, 12.0)


def save(array: np.ndarray, path: Path, spacing=SPACING, origin=(-160.0, -120.0, -150.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def dataset(root: Path, n: int = 3, **changes) -> list[Scan]:
    """Small volumes that are no chests but have lungs' and soft tissue's numbers, with organs and truth beside them."""
    scans = []
    for i in range(n):
        rng = np.random.default_rng(i)
        body = np.where(np.indices(SHAPE)[0] % 2, -850, 40) + rng.normal(0, 15, SHAPE)
        organs = np.zeros(SHAPE, np.uint8)
        organs[10:20, 10:20, 5:15] = 5
        truth = np.zeros(SHAPE, np.uint32)
        truth[12:16, 12:16, 6:9] = 1
        truth[14:18, 14:18, 7:12] |= 1 << 31
        id = f"v{i}"
        organs_file = save(organs, root / "organs" / f"{id}.nii.gz")
        (root / "organs" / "labels.json").write_text(json.dumps({"5": ORGANS[5]}))
        scan = Scan(
            id, f"p{i // 2}", f"s{i}", save(np.rint(body).astype(np.int16), root / f"{id}.nii.gz"), f"The heart is normal in {i}.", "No lesion.",
            labels={"Cardiomegaly": i % 2, "Lung nodule": -1}, organs=organs_file, truth=save(truth, root / "truth" / f"{id}.nii.gz"),
            extra={"time_days": 10.0 * i, "kernel": "soft"},
        )  # fmt: skip
        scans.append(replace(scan, **changes))
    pd.DataFrame(
        {"id": "v1", "bit": [31, 0], "finding": "Lung nodule", "side": "none", "lobe": "", "place": "", "severity": 1, "count": 1,
         "size_mm": [np.nan, 7.5], "voxels": 9}
    ).to_csv(root / "truth" / "instances.csv", index=False)  # fmt: skip
    pd.DataFrame(
        {"id": ["v1", "gone"], "section": "findings", "index": 0, "sentence": "A node.", "polarity": "positive", "finding": "Lung nodule",
         "bits": [(1 << 31) + 1, 1], "side": "none", "lobe": ""}
    ).to_csv(root / "truth" / "sentences.csv", index=False)  # fmt: skip
    return scans


def write(scans, path, **options) -> store.Report:
    return store.write(scans, path, **{"config": TOY, "check": False, "progress": False} | options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Scan]:
    return dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def made(scans, tmp_path_factory) -> store.Store:
    path = tmp_path_factory.mktemp("made") / "store"
    report = write(scans, path)
    assert report.refused == () and report.written == ("v0", "v1", "v2")
    return store.open(path)


# --- what goes in comes out


def test_voxels_organs_and_truth_come_back_as_the_contract_says(made, scans):
    volume = ct.to_contract(ct.read(scans[0].path), TOY.contract)
    assert made.ct("v0").dtype == np.int16 and np.array_equal(made.ct("v0"), volume.array)
    assert np.allclose(made.affine("v0"), volume.affine)
    assert made.organs("v0").dtype == np.uint8 and set(np.unique(made.organs("v0"))) == {0, 6}
    assert made.truth("v0").dtype == np.uint32
    assert np.array_equal(made.truth("v0"), np.asarray(nibabel.load(scans[0].truth).dataobj))
    assert made.contract == TOY.contract and made.scale == "toy" and len(made) == 3 and "v1" in made


def test_the_table_has_one_typed_row_per_volume(made):
    row = made.table.loc["v1"]
    assert (row["patient"], row["study"], row["split"], row["findings"]) == ("p0", "s1", "train", "The heart is normal in 1.")
    assert row["Cardiomegaly"] == 1 and row["Lung nodule"] == -1 and row["Emphysema"] == -1
    assert tuple(row[["shape_x", "shape_y", "shape_z"]]) == made.ct("v1").shape
    assert row["time_days"] == 10.0 and row["kernel"] == "soft" and row["hu_min"] >= -1000 and 0.4 < row["lung_share"] < 0.6
    assert row["hash"] == preprocess.array_hash(made.ct("v1"))


def test_truth_tables_travel_with_the_volumes_that_are_there(made):
    assert made.instances["bit"].to_list() == [0, 31] and made.instances["side"].to_list() == ["none", "none"]
    assert made.instances["lobe"].to_list() == ["", ""] and np.isnan(made.instances["size_mm"][1])
    assert made.sentences["id"].to_list() == ["v1"] and made.sentences["bits"][0] == (1 << 31) + 1


@pytest.mark.parametrize("fit", ["crop_pad", "resize"])
def test_cropped_gives_the_contracts_crop_and_keeps_world_places(scans, tmp_path, fit):
    write(scans[:1], tmp_path / "s", config=replace(TOY, fit=fit))
    made = store.open(tmp_path / "s")
    for layer in ("ct", "organs", "truth"):
        array, affine = made.cropped("v0", layer)
        assert array.shape == TOY.crop
    organs, affine = made.cropped("v0", "organs")
    for array, to_world in ((organs, affine), (made.organs("v0"), made.affine("v0"))):
        middle = np.argwhere(array == 6).mean(0)
        world = to_world[:3, :3] @ middle + to_world[:3, 3]
        assert np.allclose(world, (-160 + 14.5 * 6, -120 + 14.5 * 6, -150 + 9.5 * 12), atol=6)


def test_truth_share_is_the_share_of_each_patch_by_a_loop(made):
    crop, (px, py, pz) = made.cropped("v0", "truth")[0], TOY.patch
    for bits in (1, 1 << 31, (1 << 31) + 1, 2):
        expected = [
            np.mean([(int(v) & bits) != 0 for v in crop[x : x + px, y : y + py, z : z + pz].ravel()])
            for x in range(0, crop.shape[0], px) for y in range(0, crop.shape[1], py) for z in range(0, crop.shape[2], pz)
        ]  # fmt: skip
        assert np.allclose(made.truth_share("v0", bits, TOY.patch), expected, atol=1e-6)


def test_no_instance_vanishes_on_a_coarse_grid(tmp_path):
    fine = np.zeros((60, 60, 60), np.uint32)
    fine[20, 21, 22] |= 1  # one voxel of 1 mm between the centres of 6 x 6 x 12 mm
    fine[30:34, 30:34, 30:44] |= 2
    fine[33, 33, 33] |= 4
    file = save(fine, tmp_path / "t.nii.gz", (1.0, 1.0, 1.0), (0, 0, 0))
    like = ct.to_contract(ct.Volume(np.zeros(fine.shape, np.int16), nibabel.load(file).affine), TOY.contract)
    placed = preprocess.truth_on(like, file)
    assert [int(((placed >> b) & 1).sum()) for b in (0, 2, 3)] == [1, 1, 0] and ((placed >> 1) & 1).sum() >= 1
    index = np.argwhere(placed & 1)[0]
    assert np.abs(like.affine[:3, :3] @ index + like.affine[:3, 3] - (20, 21, 22)).max() <= 6


@pytest.mark.slow
def test_a_store_is_read_in_forked_and_pickled_workers(made):
    assert len(pickle.loads(pickle.dumps(made))) == 3
    for method in ("fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            for id, array in zip(made.ids, pool.map(made.ct, made.ids), strict=True):
                assert np.array_equal(array, made.ct(id))


def test_reading_a_slab_reads_only_it(made):
    assert np.array_equal(made.layer("v0", "ct")[4:9, 3:7, 2:5], made.ct("v0")[4:9, 3:7, 2:5])


# --- the same bytes whatever happened on the way


@pytest.mark.slow
def test_order_and_number_of_workers_do_not_change_a_byte(made, scans, tmp_path):
    report = write(reversed(scans), tmp_path / "two", workers=2)
    assert report.written == ("v0", "v1", "v2")
    assert contents(tmp_path / "two") == contents(made.root)


def test_the_user_s_thread_settings_do_not_change_a_byte(made, scans, tmp_path, monkeypatch):
    for threads in (None, "3"):
        monkeypatch.delenv("BLOSC_NTHREADS", raising=False)
        if threads:
            monkeypatch.setenv("BLOSC_NTHREADS", threads)
        write(scans, tmp_path / f"s{threads}")
        assert contents(tmp_path / f"s{threads}") == contents(made.root) and os.environ.get("BLOSC_NTHREADS") == threads


def test_a_second_run_skips_and_new_texts_are_taken_over_without_touching_voxels(scans, tmp_path):
    write(scans[:2], tmp_path / "s")
    voxels = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*.b2nd")}
    changed = [replace(scans[0], findings="New words."), scans[1], scans[2]]
    report = write(changed, tmp_path / "s")
    assert report.skipped == ("v0", "v1") and report.written == ("v2",)
    assert all(p.stat().st_mtime_ns == t for p, t in voxels.items())
    assert store.open(tmp_path / "s").table.at["v0", "findings"] == "New words."
    assert write(scans, tmp_path / "s", force=True).written == ("v0", "v1", "v2")


def test_a_changed_volume_is_preprocessed_again(tmp_path):
    scans = dataset(tmp_path / "d", 1)
    write(scans, tmp_path / "s")
    save(np.full(SHAPE, 7, np.int16) + np.indices(SHAPE)[2].astype(np.int16), scans[0].path)
    assert write(scans, tmp_path / "s").written == ("v0",)
    assert store.open(tmp_path / "s").ct("v0").max() < 100
    assert store.check(tmp_path / "s", progress=False) == []


def without_compression(folder: Path, kind: str, changed: int) -> Path:
    """A mask or volume of over 200 kB whose voxels lie open; `changed` of them in the middle are other ones."""
    folder.mkdir(parents=True, exist_ok=True)
    array = np.indices((64, 64, 64)).sum(0).astype(np.int16)
    array[32, 32, 32 : 32 + changed] += 7
    if kind == "folder":
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / "heart.nii")
        return folder
    if kind == ".nii":
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / "a.nii")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"a{kind}"))
    return folder / f"a{kind}"


@pytest.mark.parametrize("kind", [".nii", ".nrrd", ".mha", ".mhd", ".nhdr", "folder"])
def test_a_correction_in_the_middle_of_a_file_without_checksum_is_noticed(tmp_path, kind):
    before = preprocess.fingerprint(without_compression(tmp_path, kind, 0))
    if kind == "folder":
        (tmp_path / ".DS_Store").write_text("what file browsers leave")
    sizes = {p: p.stat().st_size for p in tmp_path.rglob("*.*")}
    assert before == preprocess.fingerprint(without_compression(tmp_path, kind, 0))
    assert before != preprocess.fingerprint(without_compression(tmp_path, kind, 1))
    assert sizes == {p: p.stat().st_size for p in tmp_path.rglob("*.*")}


def test_a_corrected_mask_without_compression_is_taken_over(tmp_path):
    (scan,) = dataset(tmp_path / "d", 1)
    mask = np.zeros((130, 120, 50), np.uint8)
    mask[40:80, 40:80, 10:40] = 1
    scan = replace(scan, organs=save(mask, tmp_path / "d" / "masks" / "heart.nii", (2.0, 2.0, 6.0)).parent)
    write([scan], tmp_path / "s")
    whole = int((store.open(tmp_path / "s").organs("v0") > 0).sum())
    mask[60:] = 0
    save(mask, tmp_path / "d" / "masks" / "heart.nii", (2.0, 2.0, 6.0))
    assert write([scan], tmp_path / "s").written == ("v0",)
    assert 0 < int((store.open(tmp_path / "s").organs("v0") > 0).sum()) < 0.6 * whole


def test_a_gzip_file_is_known_by_its_ends(tmp_path):
    """Its checksum is among them, and a cohort's volumes need not be read whole to be known again. What stands in a store's records stays true."""
    file, body = tmp_path / "a.nii.gz", np.random.default_rng(0).bytes(400_000)
    file.write_bytes(gzip.compress(body, mtime=0))
    data = file.read_bytes()
    ends = hashlib.sha256(f"{len(data)}\n".encode() + data[: 1 << 16] + data[-(1 << 16) :]).hexdigest()[:16]
    assert preprocess.fingerprint(file) == ends
    file.write_bytes(gzip.compress(body[:200_000] + b"?" + body[200_001:], mtime=0))
    assert preprocess.fingerprint(file) != ends


@pytest.mark.parametrize("blocks", ["a further field", "no further field"])
def test_a_correction_in_the_middle_of_a_gzip_of_several_streams_is_noticed(tmp_path, blocks):
    """The last checksum is that of the last block alone."""
    body, file = bytearray(b"a chest " * 300_000), tmp_path / "a.nii.gz"

    def block(content: bytes) -> bytes:
        packed = gzip.compress(content, 0, mtime=0)
        return packed[:3] + b"\x04" + packed[4:10] + b"\x06\x00BC\x02\x00\x00\x00" + packed[10:] if blocks == "a further field" else packed

    def fingerprint() -> str:
        file.write_bytes(b"".join(block(bytes(body[at : at + 600_000])) for at in range(0, len(body), 600_000)))
        assert gzip.decompress(file.read_bytes()) == body
        return preprocess.fingerprint(file)

    before = fingerprint()
    assert fingerprint() == before
    body[1_000_000] ^= 1
    assert fingerprint() != before


def test_corrected_names_beside_a_mask_are_taken_over(tmp_path):
    (scan,) = dataset(tmp_path / "d", 1)
    assert store_of(scan, tmp_path / "s").organs("v0").max() == 6
    (scan.organs.parent / "labels.json").write_text(json.dumps({"5": ORGANS[2]}))
    assert store_of(scan, tmp_path / "s").organs("v0").max() == 3
    (scan.organs.parent / "v0.json").write_text(json.dumps({"5": ORGANS[1]}))  # goes before the other
    assert store_of(scan, tmp_path / "s").organs("v0").max() == 2
    assert write([scan], tmp_path / "s").written == ()


def store_of(scan: Scan, path: Path) -> store.Store:
    assert write([scan], path).written == (scan.id,)
    return store.open(path)


SLOW_WRITER = """
import pickle, sys, time
from asapkit import preprocess, store
from asapkit.config import Config
scans, path, workers = pickle.loads(open(sys.argv[1], "rb").read()), sys.argv[2], int(sys.argv[3])
write = preprocess.write_atomic
def slowly(*arguments):
    time.sleep(0.05)
    write(*arguments)
if workers == 1:
    preprocess.write_atomic = slowly
if __name__ == "__main__":
    store.write(scans, path, config=Config.at("toy"), check=False, progress=False, workers=workers)
"""


def alive_in_session(session: int) -> list[int]:
    """Processes of a session that still run (zombies do not)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session, *_ = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_midway_and_resumed_leaves_the_same_bytes_and_no_orphans(tmp_path, processes):
    scans = dataset(tmp_path / "d", 12)
    write(scans, tmp_path / "whole")
    (tmp_path / "scans.pickle").write_bytes(pickle.dumps(scans))
    (tmp_path / "writer.py").write_text(SLOW_WRITER)
    command = [sys.executable, tmp_path / "writer.py", tmp_path / "scans.pickle", tmp_path / "killed", str(processes)]
    writer = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("records/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    deadline = time.monotonic() + 10
    while (orphans := alive_in_session(writer.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not orphans, "workers outlive the process that started them"
    count = len(list((tmp_path / "killed").glob("records/*.json")))
    assert 2 <= count < 12, "the kill came too late to test anything"
    with pytest.raises(Refused, match="unfinished"):
        store.open(tmp_path / "killed")
    report = write(scans, tmp_path / "killed", workers=processes)
    assert len(report.skipped) >= count and len(report.written) + len(report.skipped) == 12
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# --- bad input


def test_one_bad_file_never_stops_the_rest_and_each_has_one_line(scans, tmp_path):
    truncated = tmp_path / "truncated.nii.gz"
    truncated.write_bytes(scans[0].path.read_bytes()[:2000])
    bad = [
        replace(scans[0], id="truncated", path=truncated),
        replace(scans[0], id="absent", path=tmp_path / "absent.nii.gz"),
        replace(scans[0], id="a/b"),
        replace(scans[0], id="a\\b"),
        replace(scans[0], id="unknown", labels={"Broken heart": 1}),
        replace(scans[0], id="seven", labels={"Cardiomegaly": 7}),
        replace(scans[0], id="taken", extra={"split": "x"}),
        replace(scans[0], id="odd", extra={}),
        replace(scans[1]),
        Unusable("row7", None, "row7: a report without a volume; fetch the volume or drop the row"),
    ]
    bad[7].extra["odd"] = object()
    report = write([*scans, *bad], tmp_path / "s")
    made = store.open(tmp_path / "s")
    assert made.ids == ["v0", "v1", "v2"] == list(report.written)
    reasons = dict(zip(made.refused["id"], made.refused["reason"], strict=True))
    assert set(reasons) == {"truncated", "absent", "a/b", "a\\b", "unknown", "seven", "taken", "odd", "v1", "row7"}
    assert all(reason and "\n" not in reason and "Traceback" not in reason for reason in reasons.values())
    assert "duplicate id" in reasons["v1"] and "file name" in reasons["a/b"] and "Broken heart" in reasons["unknown"]
    assert str(report) == "3 volumes written, 0 already there, 10 refused"
    assert write(scans, tmp_path / "s").refused == () and "absent" in set(store.open(tmp_path / "s").refused["id"])
    with pytest.raises(Refused, match="it was refused"):
        made.ct("truncated")


def test_no_column_of_the_store_can_be_taken_by_an_extra_one(made, scans, tmp_path):
    own = set(made.table.columns) - {"time_days", "kernel"} | {made.table.index.name}
    assert own == tables.columns() and {"has_organs", "has_lesions", "has_truth", "hash", *FINDINGS} <= own
    for name in sorted(own):
        outcome = preprocess.process(preprocess.Job(replace(scans[0], extra={name: 0.0}), tmp_path, TOY.contract, False, Path.cwd()))
        assert f"extra column {name!r} has the name of a column of the store; rename it" in outcome.reason


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"time_days": "abc"}, "v0: time_days is 'abc'; time_days are days from the scan on, event is 1 (seen) or 0 (censored)"),
        ({"time_days": -3.0}, "v0: time_days is -3.0; "),
        ({"time_days": 4.0, "event": 2.0}, "v0: event is 2.0; "),
        ({"time_days": 10**400}, "v0: time_days is 1000"),
        ({"": 1.0}, "v0: an extra column has no name; give it one"),
        ({"seen by": ["A", "B"]}, "v0: extra column 'seen by' is a list that no table holds; numbers, texts and None are kept"),
        ({"large": 10**400}, "v0: extra column 'large' is a int that no table holds"),
        ({"odd": "a \ud800 b"}, "'v0': half a character in its texts, path or extra columns (surrogates not allowed)"),
    ],
)
def test_extra_columns_that_nothing_could_use_are_refused(tmp_path, extra, said):
    scans = dataset(tmp_path / "d", 2)
    report = write([replace(scans[0], extra=extra), scans[1]], tmp_path / "s")
    assert report.written == ("v1",) and report.refused[0].reason.startswith(said)


def test_a_file_whose_name_is_no_utf8_is_refused_by_name(tmp_path):
    scans = dataset(tmp_path / "d", 2)
    odd = os.fsdecode(b"\xff.nii.gz")
    shutil.copy(scans[0].path, tmp_path / odd)
    report = write([replace(scans[0], path=tmp_path / odd), scans[1]], tmp_path / "s")
    assert report.written == ("v1",) and "half a character" in report.refused[0].reason
    assert store.open(tmp_path / "s").refused["path"].tolist() == [str(tmp_path / "\\udcff.nii.gz")]


def test_survival_columns_may_be_numbers_of_any_library_or_unknown(tmp_path):
    values = [(np.int64(4), np.bool_(True)), (np.float32(2.5), 0), (7, True), (None, pd.NA), (float("nan"), np.float32("nan")), (0, 1.0)]
    plain = dataset(tmp_path / "d", len(values))
    scans = [replace(scan, extra={"time_days": days, "event": event}) for scan, (days, event) in zip(plain, values, strict=True)]
    assert write(scans, tmp_path / "s").refused == ()
    table = store.open(tmp_path / "s").table
    np.testing.assert_array_equal(table["time_days"], [4, 2.5, 7, np.nan, np.nan, 0])
    np.testing.assert_array_equal(table["event"], [1, 0, 1, np.nan, np.nan, 1])
    assert write(scans, tmp_path / "s").written == ()


DAMAGES = {
    "no record": lambda record: [],
    "five words": lambda record: ["scan", "affine", "statistics", "warnings", "layers"],
    "another's id": lambda record: record["scan"].update(id="v1"),
    "no id": lambda record: record["scan"].pop("id"),
    "no text": lambda record: record["scan"].update(findings=7),
    "half a character": lambda record: record["scan"].update(findings="\ud800"),
    "unknown label": lambda record: record["scan"]["labels"].update(Foo=1),
    "odd label": lambda record: record["scan"]["labels"].update({FINDINGS[0]: 300}),
    "no labels": lambda record: record["scan"].update(labels=None),
    "a column of the store": lambda record: record["scan"]["extra"].update(id="zzz"),
    "odd column": lambda record: record["scan"]["extra"].update(seen=[]),
    "short affine": lambda record: record.update(affine=[1, 2, 3]),
    "unknown affine": lambda record: record.update(affine=[math.nan] * 16),
    "no statistics": lambda record: record.pop("statistics"),
    "odd statistics": lambda record: record["statistics"].update(hu_min="x"),
    "odd warnings": lambda record: record.update(warnings="x"),
    "no layers": lambda record: record.update(layers={}),
    "odd shape": lambda record: record["layers"]["ct"].update(shape=[1.5, 2, 3]),
    "no hash": lambda record: record["layers"]["ct"].pop("sha256"),
}


@pytest.mark.parametrize("text", ["{", "5", "null", "[" * 200_000, *DAMAGES])
def test_a_damaged_record_costs_its_own_volume_and_a_stale_one_is_named(tmp_path, text):
    scans = dataset(tmp_path / "d", 2)
    write(scans, tmp_path / "s")
    file = preprocess.record_path(tmp_path / "s", "v0")
    if text in DAMAGES:
        record = json.loads(file.read_text())
        other = DAMAGES[text](record)
        text = json.dumps(other if isinstance(other, list) else record)
    file.write_text(text)
    assert [fault.split(":")[0] for fault in store.check(tmp_path / "s", progress=False)] == ["v0"]
    assert write(scans, tmp_path / "s").written == ("v0",) and store.check(tmp_path / "s", progress=False) == []
    (file.parent / "old.json").write_text(text)
    with pytest.raises(Refused, match=r"old.json: no record of a volume \(.+\); delete it"):
        write(scans, tmp_path / "s")


def test_a_lock_whose_file_is_gone_is_none(tmp_path, monkeypatch):
    """Its last holder ended, and removed it, between our opening it and our locking it: the next process would make and lock another file."""
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda lock, how: (tmp_path / LOCK).unlink())
    with pytest.raises(Refused, match="another process is writing"), one_writer(tmp_path):
        raise AssertionError("two could write")


def test_a_store_of_refusals_only_opens_empty(scans, tmp_path):
    write([replace(scans[0], id="a/b")], tmp_path / "s")
    made = store.open(tmp_path / "s")
    assert len(made) == 0 and len(made.refused) == 1 and "Cardiomegaly" in made.table and made.instances is None


def test_a_refused_scan_keeps_the_volume_that_an_earlier_run_made(tmp_path):
    scans = dataset(tmp_path / "d", 1)
    write(scans, tmp_path / "s")
    scans[0].path.unlink()
    assert len(write(scans, tmp_path / "s").refused) == 1
    assert store.open(tmp_path / "s").ids == ["v0"] and store.check(tmp_path / "s", progress=False) == []


def test_a_store_under_another_contract_is_refused_naming_the_field(made, scans):
    other = replace(TOY, window_hu=(-1000.0, 400.0))
    with pytest.raises(Refused, match=r"another contract: window_hu is \(-1000.0, 1000.0\) in the store, \(-1000.0, 400.0\) asked for"):
        write(scans, made.root, config=other)
    with pytest.raises(Refused, match="spacing_mm.*crop"):
        store.open(made.root, contract=config.Config.at("small").contract)
    assert store.open(made.root, contract=TOY.contract).ids == made.ids


def test_what_is_no_store_is_refused(scans, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for wrong in (lambda: write(scans, tmp_path), lambda: write(scans, tmp_path / "thesis.txt"), lambda: store.open(tmp_path)):
        with pytest.raises(Refused):
            wrong()
    write(scans[:1], tmp_path / "s")
    declared = tmp_path / "s" / "preprocess.json"
    declared.write_text(declared.read_text().replace('"scale": "toy"', '"scale": "base"'))
    with pytest.raises(Refused, match="changed by hand"):
        store.open(tmp_path / "s")


def test_two_writers_do_not_share_a_store(scans, tmp_path):
    class Meanwhile(list):
        def __iter__(self):
            with pytest.raises(Refused, match="another process is writing"):
                write(scans, tmp_path / "s")
            return super().__iter__()

    assert len(write(Meanwhile(scans[:1]), tmp_path / "s").written) == 1


@pytest.mark.parametrize("where", ["ct", "records", "volumes.parquet", "preprocess.json"])
def test_a_full_disk_gives_one_line_and_leaves_nothing_half_written(scans, tmp_path, monkeypatch, where):
    replaced, real = [], os.replace

    def full(source, target):
        if where in str(Path(target).relative_to(tmp_path)):
            raise OSError(errno.ENOSPC, "No space left on device")
        replaced.append(target)
        return real(source, target)

    monkeypatch.setattr(preprocess.os, "replace", full)
    with pytest.raises(Refused, match="No space left on device; .*run again to go on") as error:
        write(scans, tmp_path / "s")
    assert "\n" not in str(error.value)
    assert {p for p in (tmp_path / "s").rglob("*") if p.is_file() and p.name != ".lock"} == set(replaced)
    monkeypatch.undo()
    write(scans, tmp_path / "s")
    write(scans, tmp_path / "other")
    assert contents(tmp_path / "s") == contents(tmp_path / "other")


def test_check_names_every_damaged_layer(scans, tmp_path):
    write(scans, tmp_path / "s")
    assert store.check(tmp_path / "s", progress=False) == []
    (tmp_path / "s" / "ct" / "v0.b2nd").write_bytes((tmp_path / "s" / "ct" / "v1.b2nd").read_bytes())
    (tmp_path / "s" / "organs" / "v1.b2nd").unlink()
    whole = (tmp_path / "s" / "truth" / "v2.b2nd").read_bytes()
    (tmp_path / "s" / "truth" / "v2.b2nd").write_bytes(whole[: len(whole) // 2])
    faults = store.check(tmp_path / "s", progress=False)
    assert [f.split(": ")[0] for f in faults] == ["v0", "v1", "v2"] and "hash" in faults[0]
    with pytest.raises(Refused, match="missing; run the preprocess command again"):
        store.open(tmp_path / "s").organs("v1")
    assert write(scans, tmp_path / "s").written == ("v0", "v1", "v2"), "layers of another size than recorded are made again"
    assert store.check(tmp_path / "s", progress=False) == []


# --- whole datasets


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return phantom.make(tmp_path_factory.mktemp("cohort") / "phantom", volumes=8, scale="toy", progress=False)


@pytest.mark.slow
def test_a_phantom_cohort_goes_in_whole_with_its_truth(cohort, tmp_path):
    report = store.write(ct_rate.scans(cohort), tmp_path / "s", config=TOY, progress=False)
    made = store.open(tmp_path / "s")
    assert report.refused == () and len(made) == 8 and store.check(tmp_path / "s", progress=False) == []
    assert made.table["has_organs"].all() and made.table["has_truth"].all() and {"time_days", "event"} <= set(made.table)
    stated = made.sentences[(made.sentences["polarity"] == "positive") & (made.sentences["bits"] > 0)]
    assert len(stated)
    for row in made.instances.itertuples():
        assert (made.truth(row.id) >> np.uint32(row.bit) & 1).any(), f"{row.finding} of {row.id} vanished"
    for row in stated.groupby("id").first().reset_index().itertuples():
        share = made.truth_share(row.id, row.bits, TOY.patch)
        assert share.shape == (TOY.patches,) and share.dtype == np.float32 and share.min() >= 0 and share.max() <= 1


@pytest.mark.slow
def test_real_scans_at_the_papers_contract(shared, tmp_path):
    folder = shared / "data" / "volumes"
    files = {
        "cta": "ts_chest_cta/example_ct.nii.gz", "lung1": "pyradiomics_lung1/lung1_image.nrrd", "nrrd": "cip_ct64/ct-64.nrrd",
        "dicom": "cip_ct64/ct-64Dicom", "series": "lung_dx_a0002/Lung_Dx-A0002.zip#B40f", "abdomen": "ts_abdomen_not_chest/example_ct.nii.gz",
        "slices": "cip_lobes_crop/crop_ct_2slices.nrrd",
    }  # fmt: skip
    base = config.Config.at("base")
    scans = [Scan(id, id, id, folder / path, "Lungs are clear.") for id, path in files.items()]
    report = store.write(scans, tmp_path / "s", config=base, progress=False)
    assert report.written == ("cta", "dicom", "lung1", "nrrd", "series")
    assert [r.id for r in report.refused] == ["abdomen", "slices"] and "not a chest" in report.refused[0].reason
    made = store.open(tmp_path / "s")
    assert np.abs(made.ct("nrrd").astype(int) - made.ct("dicom")).max() <= 1
    assert "coarse slices" in made.table.at["series", "warnings"] and made.cropped("cta")[0].shape == base.crop
    assert store.write(scans, tmp_path / "s", config=base, progress=False).skipped == report.written


# --- many workers


def dies_on_seven(job: int) -> int:
    if job == 7:
        time.sleep(0.5)  # Dask gives a worker up for good when it dies while starting
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    return job * job


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_job_only():
    results = dict(workers.each(dies_on_seven, range(20), workers=2))
    assert isinstance(results.pop(7), workers.Lost)
    assert results == {i: i * i for i in range(20) if i != 7}


def dies_on_v1(job):
    if job.scan.id == "v1":
        os.kill(os.getpid(), signal.SIGKILL)
    return preprocess.process(job)


@pytest.mark.slow
def test_a_volume_that_kills_its_worker_is_refused_by_name(scans, tmp_path, monkeypatch):
    real = workers.each
    monkeypatch.setattr(workers, "each", lambda task, jobs, **options: real(dies_on_v1, jobs, **options))
    report = write(scans, tmp_path / "s", workers=2)
    assert report.written == ("v0", "v2") and "killed" in report.refused[0].reason
    assert store.open(tmp_path / "s").refused["id"].to_list() == ["v1"]


@pytest.fixture(scope="module")
def cluster():
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local,
    ):
        yield local


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_bytes(cluster, made, scans, tmp_path):
    write(scans, tmp_path / "s", scheduler=cluster.scheduler_address)
    assert contents(tmp_path / "s") == contents(made.root)


@pytest.mark.slow
def test_relative_paths_reach_dask_workers_in_other_folders(cluster, scans, tmp_path, monkeypatch):
    monkeypatch.chdir(scans[0].path.parent)
    relative = replace(scans[0], path=Path("v0.nii.gz"), organs=Path("organs/v0.nii.gz"), truth=Path("truth/v0.nii.gz"))
    report = write([relative], os.path.relpath(tmp_path / "s"), scheduler=cluster.scheduler_address)
    assert report.refused == () and store.open(tmp_path / "s").table.at["v0", "path"] == "v0.nii.gz"


@pytest.mark.slow
def test_a_dask_worker_that_sees_no_store_is_named(cluster, tmp_path):
    with pytest.raises(Refused, match="does not see"):
        list(workers.each(dies_on_seven, [1], scheduler=cluster.scheduler_address, shared=tmp_path / "elsewhere"))


@pytest.mark.slow
def test_a_dask_worker_that_dies_costs_its_own_job_only(cluster):
    results = dict(workers.each(dies_on_seven, range(12), scheduler=cluster.scheduler_address))
    assert isinstance(results.pop(7), workers.Lost) and len(results) == 11


@pytest.mark.slow
def test_no_dask_cluster_is_one_line(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "ANSWER_S", 1)
    with pytest.raises(Refused, match="no Dask scheduler answers at"):
        write(scans, tmp_path / "s", scheduler="tcp://127.0.0.1:9")
    with pytest.raises(Refused, match="is no address"):
        write(scans, tmp_path / "never", scheduler="nonsense")
    assert not (tmp_path / "never").exists()


def test_a_damaged_layer_is_refused_by_its_file_where_it_is_read(scans, tmp_path):
    write(scans, tmp_path / "store")
    held = store.open(tmp_path / "store")
    id = held.ids[0]
    for keep in (0.5, 0.0):
        file = store.preprocess.layer_path(held.root, "ct", id)
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
        with pytest.raises(Refused, match=rf"{file.name}: damaged .*; delete it and run the preprocess command again"):
            held.cropped(id)


def test_reading_a_table_leaves_no_python_file_to_threads_that_outlive_python(made, monkeypatch):
    """Arrow's scanner let go of one while the interpreter ended, and aborted a process whose work was done (7 of 40 runs; arrow issue 34314)."""
    opened = []
    monkeypatch.setattr("builtins.open", lambda *a, _open=open, **k: opened.append(a[0]) or _open(*a, **k))
    before = threading.active_count()
    assert len(tables.read(made.root, "volumes")) == 3 and tables.read(made.root, "nothing") is None
    assert [name for name in opened if "parquet" in str(name)] == [] and threading.active_count() == before


def test_a_damaged_table_is_named_whatever_its_reader_says(made, tmp_path):
    """Each byte of its description turned; those that can be read all the same are not our concern."""
    whole, table = (made.root / "refused.parquet").read_bytes(), tmp_path / "refused.parquet"
    table.write_bytes(whole)
    tables.read(tmp_path, "refused")
    refused = []
    for at in range(4, len(whole), 3):
        table.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            tables.read(tmp_path, "refused")
        except Refused as error:
            refused.append(str(error))
    assert len(refused) > 100 and all(str(table) in line for line in refused)


def test_another_dataset_with_the_same_ids_replaces_nothing(scans, tmp_path):
    first = write(scans[:2], tmp_path / "s")
    before = {p: p.read_bytes() for p in sorted((tmp_path / "s").rglob("*")) if p.is_file()}
    other = tmp_path / "other.nii.gz"
    image = nibabel.load(scans[0].path)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj) + 1, image.affine), other)
    with pytest.raises(Refused, match=rf"holds 1 volumes of these ids from other files \({scans[0].id} from .*store of its own"):
        write([replace(scans[0], path=other), scans[1]], tmp_path / "s")
    assert {p: p.read_bytes() for p in before} == before
    again = write([replace(scans[0], path=other)], tmp_path / "s", force=True)
    assert first.written and again.written == (scans[0].id,)
