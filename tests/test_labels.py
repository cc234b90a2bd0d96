"""Silver labels from report text, held against the labels that come with real reports."""

from __future__ import annotations

import csv

import pytest

from asapkit import reports
from asapkit.labels import agreement, silver_labels
from asapkit.types import FINDINGS


def test_labels_of_a_small_report():
    labels = silver_labels("The heart is enlarged. No pleural effusion. Possible consolidation in the left lower lobe.", "Old scars. Not given.")
    assert tuple(labels) == FINDINGS
    assert {f for f, v in labels.items() if v == 1} == {"Cardiomegaly", "Pulmonary fibrotic sequela"}
    assert labels["Consolidation"] == -1
    assert labels["Pleural effusion"] == 0
    assert labels["Hiatal hernia"] == 0


def test_what_is_not_spoken_of_can_be_left_open():
    labels = silver_labels("No pleural effusion.", unmentioned=-1)
    assert labels["Pleural effusion"] == 0
    assert labels["Emphysema"] == -1


def test_a_finding_stated_once_is_present_whatever_else_is_said():
    assert silver_labels("No nodule in the left lung. A nodule in the right lung.")["Lung nodule"] == 1


@pytest.mark.parametrize("nothing", ["", "Not given.", None, float("nan")])
def test_an_empty_report_has_no_finding(nothing):
    assert set(silver_labels(nothing, nothing).values()) == {0}


def test_agreement_counts():
    silver = [dict.fromkeys(FINDINGS, v) for v in (1, 1, 0, -1)]
    labels = [dict.fromkeys(FINDINGS, v) for v in (1, 0, 1, 0)]
    row = agreement(silver, labels)["Emphysema"]
    assert row == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.5, "auroc": 0.375, "positives": 2}


def test_silver_labels_agree_with_those_of_real_reports(shared):
    """The rules were tuned on these reports, so this guards against regressions; it is no estimate for new ones."""
    with open(shared / "data/text/ctclip_reports_200.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = [reports.sections(row["report_text"]) for row in rows]
    silver = [silver_labels(part["findings"], part["impression"]) for part in parts]
    table = agreement(silver, [{f: int(float(row[f])) for f in FINDINGS} for row in rows])
    assert table["macro"]["f1"] > 0.93
    assert min(table[f]["f1"] for f in FINDINGS) > 0.85


def test_organs_named_agree_with_the_anatomy_that_real_sentences_are_filed_under(shared):
    """Sentences filed under one lobe or organ name it at least nine times in ten (some only go on from the sentence before)."""
    with open(shared / "data/text/radgenome_150/train_region_report.csv", encoding="utf-8") as file:
        rows = [(row["Anatomy"].rsplit("/", 1)[-1], reports.split(row["Sentence"])) for row in csv.DictReader(file)]
    names = {f"{side} lung {level} lobe": f"lung_{level}_lobe_{side}" for side in ("left", "right") for level in ("upper", "lower")}
    for anatomy, organ in (names | {"heart": "heart", "esophagus": "esophagus", "aorta": "aorta"}).items():
        named = [organ in reports.organs_named(s) for place, sentences in rows if place == anatomy for s in sentences]
        assert sum(named) > 0.9 * len(named), anatomy
