"""Readers give every good row as a scan and every bad one with its reason, whatever the download kept of the layout."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from asapkit.datasets import Unusable, ct_rate, folder, further
from asapkit.types import FINDINGS, Refused, Scan


def table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for row in rows for k in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), path)
    return path


def cohort(root: Path, *, prefix="", kind="", tables="") -> Path:
    """Two patients in training, one in validation, as CT-RATE lays them out."""
    ids = ["train_1_a_1", "train_1_a_2", "train_1_b_1", "train_20_a_1", "valid_3_a_1"]
    for id in ids:
        split, number, letter, _ = id.split("_")
        volume(root / prefix / (split + kind) / f"{split}_{number}" / f"{split}_{number}_{letter}" / f"{id}.nii.gz")
    for split, reports, labels in (("train", "train_reports", "train_predicted_labels"), ("valid", "validation_reports", "valid_predicted_labels")):
        names = [f"{id}.nii.gz" for id in ids if id.startswith(split)]
        base = root / tables
        text = {"ClinicalInformation_EN": "", "Technique_EN": "x", "Findings_EN": "Lungs are clear.", "Impressions_EN": "Not given."}
        table(base / f"{reports}.csv", [{"VolumeName": name} | text for name in names])
        table(base / f"{labels}.csv", [{"VolumeName": name} | {f: int(k == 3) for k, f in enumerate(FINDINGS)} for name in names])
        meta = {"XYSpacing": "[0.7, 0.8]", "ZSpacing": "1.5", "RescaleSlope": "1", "RescaleIntercept": "-8192", "ConvolutionKernel": "B70f"}
        table(base / ("train_metadata.csv" if split == "train" else "validation_metadata.csv"), [{"VolumeName": name} | meta for name in names])
    return root


@pytest.mark.parametrize(
    "prefix, tables", [("", ""), ("dataset", "dataset"), ("dataset", "dataset/multi_abnormality_labels"), ("CT-RATE/dataset", "")]
)
def test_ct_rate_is_read_wherever_the_download_put_its_parts(tmp_path, prefix, tables):
    scans = list(ct_rate.scans(cohort(tmp_path, prefix=prefix, tables=tables)))
    assert [s.id for s in scans] == ["train_1_a_1", "train_1_a_2", "train_1_b_1", "train_20_a_1", "valid_3_a_1"]
    first = scans[0]
    assert (first.patient, first.study, first.split, scans[-1].split) == ("train_1", "train_1_a", "train", "valid")
    assert (first.findings, first.impression) == ("Lungs are clear.", "")
    assert first.spacing_mm == (0.7, 0.8, 1.5) and (first.slope, first.intercept) == (1.0, -8192.0) and first.extra["kernel"] == "B70f"
    assert first.labels == {f: int(k == 3) for k, f in enumerate(FINDINGS)} and first.path.exists()


def test_fixed_volumes_hold_hu_and_come_before_the_stored_ones(tmp_path):
    cohort(tmp_path, kind="_fixed")
    volume(tmp_path / "train" / "train_1" / "train_1_a" / "train_1_a_1.nii.gz")
    scans = list(ct_rate.scans(tmp_path))
    assert len(scans) == 5
    assert all("fixed" in str(s.path) and s.slope is None and s.intercept is None and s.spacing_mm for s in scans)


def test_patient_folders_may_lie_in_the_root_itself(tmp_path):
    cohort(tmp_path / "x")
    (tmp_path / "x" / "train").rename(tmp_path / "root")
    for file in (tmp_path / "x").glob("*.csv"):
        file.rename(tmp_path / "root" / file.name)
    kinds = [(type(s), s.id) for s in ct_rate.scans(tmp_path / "root")]
    assert kinds == [(Scan, "train_1_a_1"), (Scan, "train_1_a_2"), (Scan, "train_1_b_1"), (Scan, "train_20_a_1"), (Unusable, "valid_3_a_1")]


def test_layers_of_a_synthetic_cohort_are_attached_where_they_are(tmp_path):
    cohort(tmp_path)
    volume(tmp_path / "organs" / "train_1_a_1.nii.gz")
    volume(tmp_path / "truth" / "train_1_a_1.nii.gz")
    table(tmp_path / "outcomes.csv", [{"study": "train_1_a", "patient": "train_1", "time_days": 12.5, "event": 1, "severity": ""}])
    scans = {s.id: s for s in ct_rate.scans(tmp_path)}
    assert len(scans) == 5
    assert scans["train_1_a_1"].organs.parent.name == "organs" and scans["train_1_a_1"].truth.parent.name == "truth"
    assert scans["train_1_b_1"].organs is None and scans["train_1_b_1"].truth is None
    assert scans["train_1_a_2"].extra["time_days"] == 12.5 and "severity" not in scans["train_1_a_2"].extra
    assert "time_days" not in scans["train_1_b_1"].extra


def test_volumes_without_report_and_reports_without_volume_are_given_with_a_reason(tmp_path):
    cohort(tmp_path)
    next(tmp_path.rglob("train_20_a_1.nii.gz")).unlink()
    volume(tmp_path / "train" / "train_7" / "train_7_a" / "train_7_a_1.nii.gz")
    found = {s.id: s for s in ct_rate.scans(tmp_path)}
    assert isinstance(found["train_20_a_1"], Unusable) and "report without a volume" in found["train_20_a_1"].reason
    assert isinstance(found["train_7_a_1"], Unusable) and "volume without a report" in found["train_7_a_1"].reason
    assert sum(isinstance(s, Scan) for s in found.values()) == 4


def test_a_volume_with_a_name_of_no_id_is_given_with_a_reason(tmp_path):
    root = cohort(tmp_path)
    volume(root / "train" / "train_1" / "copy of train_1_a_1.nii.gz")
    volume(root / "organs" / "atlas.nii.gz")
    odd = [s for s in ct_rate.scans(root) if isinstance(s, Unusable)]
    assert [s.id for s in odd] == ["train/train_1/copy of train_1_a_1.nii.gz"] and "names are like train_1_a_1.nii.gz" in odd[0].reason


def test_what_is_no_ct_rate_is_refused(tmp_path):
    with pytest.raises(Refused, match="no volumes called like"):
        list(ct_rate.scans(tmp_path))
    cohort(tmp_path)
    table(tmp_path / "train_reports.csv", [{"Name": "x", "Findings_EN": "y"}])
    with pytest.raises(Refused, match="VolumeName"):
        list(ct_rate.scans(tmp_path))


def test_labels_that_are_none_and_rows_that_contradict_each_other_are_given_with_a_reason(tmp_path):
    cohort(tmp_path)
    names = [f"train_{n}.nii.gz" for n in ("1_a_1", "1_a_2", "1_b_1", "20_a_1")]
    rows = [{"VolumeName": name, "Emphysema": value} for name, value in zip(names, ("maybe", "0.5", "", "1.0"))]
    table(tmp_path / "train_predicted_labels.csv", rows)
    said = [{"VolumeName": name, "Findings_EN": "Lungs are clear.", "Impressions_EN": ""} for name in names]
    table(tmp_path / "train_reports.csv", [*said, said[2] | {"Findings_EN": "A nodule."}, said[3]])
    found = {s.id: s for s in ct_rate.scans(tmp_path)}
    for id, says in {"train_1_a_1": "Emphysema is 'maybe'", "train_1_a_2": "Emphysema is '0.5'", "train_1_b_1": "twice in train_reports.csv"}.items():
        assert isinstance(found[id], Unusable) and says in found[id].reason and "nodule" not in found[id].reason
    assert found["train_20_a_1"].labels == {"Emphysema": 1}
    table(tmp_path / "train_predicted_labels.csv", [{"VolumeName": names[0], "Lung noodle": "1"}])
    with pytest.raises(Refused, match="train_predicted_labels.csv: unknown label 'Lung noodle'"):
        list(ct_rate.scans(tmp_path))


LONG = "x" * 131_073  # more than the csv reader takes
UNREADABLE = {
    "long": (
        f"VolumeName,Findings_EN,patient\na,b,c\na,{LONG},c\n".encode(),
        "line 3: .*131072 characters: a quote that is not closed",
    ),
    "open": (b'VolumeName,Findings_EN,patient\na,b,c\na,"b,c\n', "line 3: .*a quote that is not closed"),
    "latin": ("VolumeName,Findings_EN,patient\na,Nodül,c\n".encode("latin-1"), "is not UTF-8; save it as UTF-8"),
}


@pytest.mark.parametrize("name", ["train_reports.csv", "train_predicted_labels.csv", "validation_metadata.csv", "outcomes.csv"])
@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_table_that_cannot_be_read_is_refused_by_name_and_line(tmp_path, name, fault):
    cohort(tmp_path)
    data, says = UNREADABLE[fault]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Refused, match=f"^{name}: {says}") as refused:
        list(ct_rate.scans(tmp_path))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250


def test_further_columns_are_numbers_where_they_say_one_and_absent_where_nothing_is_known():
    said = {
        "a": " 12.5 ",
        "b": "True",
        "c": "false",
        "d": "soft",
        "e": " ",
        "f": "NA",
        "g": "None",
        "h": "<NA>",
        "i": "nan",
        "j": "",
        "k": "none",
        "l": "1_000",
    }
    assert further(said) == {"a": 12.5, "b": 1.0, "c": 0.0, "d": "soft", "k": "none", "l": "1_000"}


def test_outcomes_without_patients_and_rows_with_fields_to_spare_are_named(tmp_path):
    cohort(tmp_path)
    table(tmp_path / "outcomes.csv", [{"study": "train_1_a", "time_days": 3}])
    with pytest.raises(Refused, match="outcomes.csv: no column patient"):
        list(ct_rate.scans(tmp_path))
    (tmp_path / "outcomes.csv").write_text("patient,time_days\ntrain_1,3,5\n")
    with pytest.raises(Refused, match="outcomes.csv: line 2: more fields than columns"):
        list(ct_rate.scans(tmp_path))
    (tmp_path / "outcomes.csv").unlink()
    (tmp_path / "train_reports.csv").write_text("VolumeName,Findings_EN\ntrain_1_a_1.nii.gz,A nodule, 5 mm.\n")
    (found,) = [s for s in ct_rate.scans(tmp_path) if s.id == "train_1_a_1"]
    assert isinstance(found, Unusable) and "more fields than columns" in found.reason and "nodule" not in found.reason


def test_real_metadata_rows_give_spacing_and_intercept(shared, tmp_path):
    rows = list(csv.DictReader((shared / "data/text/ct_rate_val_metadata_300.csv").open(encoding="utf-8")))[:40]
    table(tmp_path / "validation_metadata.csv", rows)
    table(tmp_path / "validation_reports.csv", [{"VolumeName": r["VolumeName"], "Findings_EN": "x", "Impressions_EN": ""} for r in rows])
    for row in rows:
        volume(tmp_path / "valid" / row["VolumeName"])
    scans = list(ct_rate.scans(tmp_path))
    assert len(scans) == 40 and all(s.spacing_mm and s.slope == 1.0 and s.intercept in (-1024.0, -8192.0) for s in scans)


# ----------------------------------------------------------------------------------------------------------------- folder


def test_a_csv_is_read_with_defaults_and_paths_beside_it(tmp_path):
    volume(tmp_path / "data" / "case 1.nii.gz")
    (tmp_path / "masks").mkdir()
    rows = [
        {"path": "data/case 1.nii.gz", "findings": "A nodule, \"small\".", "impression": "", "organs": "masks", "Lung nodule": "1", "Emphysema": ""},
        {"path": "data/case 1.nii.gz", "findings": "", "impression": "Normal.", "id": "x", "patient": "p", "study": "s", "split": "valid",
         "extra:time_days": "3", "slope": "1", "intercept": "-1024", "Lung nodule": "0.0"},
    ]  # fmt: skip
    for root in (table(tmp_path / "scans.csv", rows), tmp_path):
        first, second = folder.scans(root)
        assert (first.id, first.patient, first.study, first.split) == ("case 1", "case 1", "case 1", "train")
        assert first.labels == {"Lung nodule": 1, "Emphysema": -1} and first.organs == tmp_path / "masks" and first.slope is None
        assert (second.id, second.patient, second.study, second.split, second.impression) == ("x", "p", "s", "valid", "Normal.")
        assert second.labels["Lung nodule"] == 0 and second.extra == {"time_days": 3.0} and second.intercept == -1024.0


def test_a_series_of_a_zip_is_named_behind_a_hash(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    (scan,) = folder.scans(table(tmp_path / "s.csv", [{"path": "a.zip#B40f", "findings": "x"}]))
    assert scan.id == "a_B40f" and scan.path.name == "a.zip#B40f"


BAD = {
    "no path": ({"path": ""}, "path is empty"), "missing": ({"path": "gone.nii.gz"}, "no such volume"),
    "empty report": ({"findings": " "}, "report is empty"), "not given": ({"findings": "Not given."}, "report is empty"),
    "separator": ({"id": "a/b"}, "path separator"), "backslash": ({"id": "a\\b"}, "path separator"), "parent": ({"id": ".."}, "path separator"),
    "duplicate": ({"id": "good"}, "twice"), "label": ({"Emphysema": "yes"}, "Emphysema is 'yes'"),
    "organs": ({"organs": "none"}, "no such organ masks"), "intercept": ({"intercept": "low"}, "not a number"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_given_with_its_line_and_reason_and_stops_nothing(tmp_path, fault):
    volume(tmp_path / "a.nii.gz")
    good = {"path": "a.nii.gz", "findings": "x", "id": "good", "Emphysema": "", "organs": "", "intercept": ""}
    change, says = BAD[fault]
    one, bad, last = folder.scans(table(tmp_path / "s.csv", [good, good | {"id": "bad"} | change, good | {"id": "last"}]))
    assert isinstance(one, Scan) and isinstance(last, Scan) and isinstance(bad, Unusable)
    assert says in bad.reason and bad.reason.startswith("line 3: ") and "\n" not in bad.reason and bad.id


WRONG_COLUMNS = {
    "Nodule of the lung": {"path": "a", "findings": "x", "Nodule of the lung": "1"}, "findings": {"path": "a"}, "path": {"findings": "x"},
}  # fmt: skip


@pytest.mark.parametrize("says", WRONG_COLUMNS)
def test_wrong_columns_are_refused_before_anything_is_read(tmp_path, says):
    with pytest.raises(Refused, match=says):
        folder.scans(table(tmp_path / "s.csv", [WRONG_COLUMNS[says]]))


def test_a_missing_csv_is_refused_with_what_to_write(tmp_path):
    with pytest.raises(Refused, match="path, findings, impression"):
        folder.scans(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.nii.gz,Nodule, 5 mm.,None.", "line 2: more fields than columns; put texts with commas between quotes"),
        ('a.nii.gz,"Nodule,None.', "line 2: unexpected end of data .*a quote that is not closed"),
        ('a.nii.gz,"Nodule" here,None.', "scans.csv: line 2: .* put texts with commas between quotes"),
    ],
)
def test_a_report_is_never_cut_at_a_comma(tmp_path, text, says):
    volume(tmp_path / "a.nii.gz")
    (tmp_path / "scans.csv").write_text(f"path,findings,impression\n{text}\n")
    try:
        (found,) = folder.scans(tmp_path)
        said = found.reason
    except Refused as refused:
        said = str(refused)
    assert re.search(says, said)


def test_an_overlong_text_is_named_with_its_line_and_both_causes(tmp_path):
    volume(tmp_path / "a.nii.gz")
    (tmp_path / "scans.csv").write_text(f'path,findings\na.nii.gz,"Two\nlines."\na.nii.gz,{LONG}\n')
    with pytest.raises(Refused, match="^scans.csv: line 4: .*131072 characters: a quote that is not closed, or a text as long as that"):
        folder.scans(tmp_path)


def test_a_csv_of_another_encoding_and_a_split_of_another_name_are_named(tmp_path):
    volume(tmp_path / "a.nii.gz")
    (tmp_path / "scans.csv").write_bytes("path,findings\na.nii.gz,Nodül.\n".encode("latin-1"))
    with pytest.raises(Refused, match=r"scans.csv: is not UTF-8"):
        list(folder.scans(tmp_path))
    (tmp_path / "scans.csv").write_text("path,findings,split\na.nii.gz,Nodule.,banana\n")
    (found,) = folder.scans(tmp_path)
    assert "split 'banana'; there are train, valid, test" in found.reason


def test_a_scan_in_place_of_a_csv_is_named(tmp_path):
    volume(tmp_path / "a.nii.gz")
    with pytest.raises(Refused, match=r"a.nii.gz: is a scan; give a csv that names it"):
        list(folder.scans(tmp_path / "a.nii.gz"))
