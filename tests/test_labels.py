"""Silver labels from report text, held against the labels that come with real reports."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from asapkit import labels as labellers
from asapkit import reports
from asapkit.labels import agreement, errors, silver_labels
from asapkit.types import FINDINGS
from benchmarks import labels as bench


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


@pytest.mark.parametrize(
    ("sentence", "finding", "label"),
    [
        ("Enlarged nodes whose margins could not be clearly measured lie beside the trachea.", "Lymphadenopathy", 1),
        ("This may be due to atelectasis.", "Atelectasis", -1),
        ("Those bands might be compatible with fibrosis.", "Pulmonary fibrotic sequela", -1),
        ("Bands due to fibrosis lie in the apex.", "Pulmonary fibrotic sequela", 1),
        ("Nodes of the pericardiac fat have increased.", "Cardiomegaly", 0),
        ("Heart and large vessels are normal.", "Cardiomegaly", 0),
        ("The heart is slightly larger.", "Cardiomegaly", 1),
        ("Sequelae in calcified lymph nodes.", "Pulmonary fibrotic sequela", 0),
        ("Sequelae beside lymph nodes of the right lung.", "Pulmonary fibrotic sequela", 1),
        ("A collapsed lobe with an air bronchogram.", "Consolidation", 0),
        ("Peribronchial infiltrate and thickening of the pleura.", "Peribronchial thickening", 0),
        ("Peribronchial thickening.", "Peribronchial thickening", 1),
        ("Nodule-like consolidation.", "Lung nodule", 0),
    ],
)
def test_words_are_read_with_what_stands_beside_them(sentence, finding, label):
    assert silver_labels(sentence)[finding] == label


@pytest.mark.parametrize("nothing", ["", "Not given.", None, float("nan")])
def test_an_empty_report_has_no_finding(nothing):
    assert set(silver_labels(nothing, nothing).values()) == {0}


def test_agreement_counts():
    silver = [dict.fromkeys(FINDINGS, v) for v in (1, 1, 0, -1)]
    labels = [dict.fromkeys(FINDINGS, v) for v in (1, 0, 1, 0)]
    row = agreement(silver, labels)["Emphysema"]
    assert row == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.5, "auroc": 0.375, "positives": 2}


def test_the_macro_mean_is_over_findings_with_enough_positives_and_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    silver = [dict(zip(FINDINGS, rng.integers(-1, 2, 18).tolist(), strict=True)) for _ in range(60)]
    truth = [dict(zip(FINDINGS, (rng.random(18) < np.linspace(0.05, 0.6, 18)).astype(int).tolist(), strict=True)) for _ in range(60)]
    truth[0]["Emphysema"] = -1
    table = agreement(silver, truth, least=10)
    counted = [f for f in FINDINGS if sum(t[f] == 1 for t in truth) >= 10]
    assert 0 < len(counted) < 18 and table["macro"]["findings"] == len(counted)
    assert table["macro"]["f1"] == pytest.approx(np.mean([table[f]["f1"] for f in counted]))
    for finding in FINDINGS:
        known = [({1: 1.0, -1: 0.5, 0: 0.0}[s[finding]], t[finding]) for s, t in zip(silver, truth, strict=True) if t[finding] >= 0]
        pairs = [(a > b) + (a == b) / 2 for a, y in known for b, z in known if y == 1 and z == 0]
        assert table[finding]["auroc"] == pytest.approx(np.mean(pairs)), finding


def test_errors_come_worst_first_with_report_rule_and_sentence():
    texts = [("a", "No nodule. Consolidation?", ""), ("b", "A nodule.", ""), ("c", "The heart is normal in size.", "No nodule.")]
    silver = {id: silver_labels(f, i) for id, f, i in texts}
    truth = {id: dict.fromkeys(FINDINGS, 0) for id in silver}
    truth["a"] |= {"Lung nodule": 1, "Consolidation": 1}
    truth["b"] |= {"Emphysema": 1, "Cardiomegaly": -1}
    truth["c"] |= {"Cardiomegaly": 1, "Lung nodule": 1}
    table = errors(texts, silver, truth)
    rows = list(table[["id", "finding", "silver", "truth", "rule", "section", "place"]].itertuples(index=False, name=None))
    assert rows[0] == ("a", "Lung nodule", 0, 1, "denied", "findings", 0)
    assert rows[-1] == ("a", "Consolidation", -1, 1, "doubted", "findings", 1), "what was left open comes last"
    assert ("b", "Lung nodule", 1, 0, "stated", "findings", 0) in rows
    assert ("b", "Emphysema", 0, 1, "not mentioned", "", -1) in rows
    assert ("c", "Cardiomegaly", 0, 1, "called normal", "findings", 0) in rows
    assert ("c", "Lung nodule", 0, 1, "denied", "impression", 0) in rows
    assert len(rows) == 6
    assert table["finding"].iloc[:3].tolist() == ["Lung nodule"] * 3
    assert len(errors(texts, truth, truth)) == 0


@pytest.mark.slow
def test_silver_labels_agree_with_those_of_real_reports(shared):
    """The rules were tuned on these reports, so this guards against regressions; it is no estimate for new ones."""
    for read, count, macro, least in ((bench.whole, 200, 0.95, 0.89), (bench.shuffled, 150, 0.92, 0.75)):
        rows = list(read(shared))
        assert len(rows) == count
        table = bench.compared(rows, labellers.Rules())[0]
        enough = table.index[table["positives"] >= 10]
        assert len(enough) == table.loc["macro", "findings"] >= 17
        assert table.loc["macro", "f1"] == pytest.approx(table.loc[enough, "f1"].mean())
        assert table.loc["macro", "f1"] > macro
        assert table.loc[enough, "f1"].min() > least


def test_organs_named_agree_with_the_anatomy_that_real_sentences_are_filed_under(shared):
    """Sentences filed under one lobe or organ name it at least nine times in ten (some only go on from the sentence before)."""
    with open(shared / "data/text/radgenome_150/train_region_report.csv", encoding="utf-8") as file:
        rows = [(row["Anatomy"].rsplit("/", 1)[-1], reports.split(row["Sentence"])) for row in csv.DictReader(file)]
    names = {f"{side} lung {level} lobe": f"lung_{level}_lobe_{side}" for side in ("left", "right") for level in ("upper", "lower")}
    for anatomy, organ in (names | {"heart": "heart", "esophagus": "esophagus", "aorta": "aorta"}).items():
        named = [organ in reports.organs_named(s) for place, sentences in rows if place == anatomy for s in sentences]
        assert sum(named) > 0.9 * len(named), anatomy
