"""The phantom's reports: enough wording, honest about the truth, and split into exactly the sentences that were written."""

from __future__ import annotations

import json
import re
from string import Formatter

import numpy as np
import pytest

from asapkit.phantom import Instance, anatomy, findings, questions, sentences
from asapkit.phantom.denials import COMPARISON, NEGATIVE, NO_FINDING, NORMAL, OPENING
from asapkit.phantom.doubts import DOUBT, MIMICRY, MIMICS, NAMES
from asapkit.phantom.patients import stream
from asapkit.phantom.phrases import POSITIVE
from asapkit.phantom.summaries import IMPRESSION
from asapkit.phantom.wording import Words, rounded_mm
from asapkit.reports import meaning, organs_named, polarity, split
from asapkit.types import FINDINGS, ORGANS

LOBES = ORGANS[:5]
PLACES = {
    "Medical material": ("pacemaker", "sternal wires", "drain"),
    "Arterial wall calcification": ("aortic arch", "descending aorta"),
    "Coronary artery wall calcification": ("left anterior descending artery", "right coronary artery"),
    "Lymphadenopathy": ("subcarinal", "right hilar", "anterior mediastinum"),
}
NAN = float("nan")


def instance(finding: str, bit: int = 0, **changes) -> Instance:
    lobe = LOBES[2] if sentences.GROUPS[finding] == "lungs" else ""
    side = "right" if lobe or finding == "Pleural effusion" else "none"
    values = {"side": side, "lobe": lobe, "place": PLACES.get(finding, ("",))[0], "severity": 2, "count": 1, "size_mm": NAN} | changes
    return Instance(finding=finding, bit=bit, **values)


def drawn(rng: np.random.Generator) -> list[Instance]:
    """Any mixture of findings, more extreme than a cohort's."""
    out: list[Instance] = []
    for finding in FINDINGS:
        if rng.random() > 0.2:
            continue
        single = finding in ("Cardiomegaly", "Pericardial effusion", "Hiatal hernia", "Mosaic attenuation pattern")
        for k in range(1 if single else int(rng.integers(1, 5))):
            changes = {"severity": int(rng.integers(1, 4)), "size_mm": float(rng.uniform(1.5, 60)) if rng.random() < 0.6 else NAN}
            if sentences.GROUPS[finding] == "lungs":
                lobe = LOBES[int(rng.integers(5))] if rng.random() < 0.85 else ""
                changes |= {"lobe": lobe, "side": lobe.split("_")[-1] if lobe else ("left", "right", "both")[int(rng.integers(3))]}
            elif finding == "Pleural effusion":
                changes["side"] = ("left", "right")[k % 2]
            elif finding in PLACES:
                changes["place"] = PLACES[finding][int(rng.integers(len(PLACES[finding])))]
            if finding in ("Lung nodule", "Lymphadenopathy"):
                changes["count"] = int(rng.integers(1, 8))
            if len(out) < 32:
                out.append(instance(finding, len(out), **changes))
    return out


@pytest.fixture(scope="module")
def written() -> list[tuple[list[Instance], tuple[str, ...], sentences.Report]]:
    out = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        instances = drawn(rng)
        absent = tuple(f for f in FINDINGS if f not in {i.finding for i in instances})
        out.append((instances, absent, sentences.write(rng, instances, absent=absent, follow_up=bool(seed % 4 == 0))))
    return out


@pytest.fixture(scope="module")
def sampled() -> list[tuple[list[Instance], sentences.Report]]:
    """Reports of drawn patients, as a cohort writes them where every instance is visible."""
    out = []
    for number in range(150):
        patient = anatomy.sample_patient(stream(1, number, "anatomy"))
        instances = findings.sample(stream(1, number, "disease", 0), patient)
        absent = [f for f in FINDINGS if f not in {i.finding for i in instances}]
        out.append((instances, sentences.write(stream(1, number, "text", 0), instances, absent=absent)))
    return out


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_can_be_said_in_at_least_six_ways(finding):
    for changes in ({}, {"size_mm": 12.0}, {"count": 3}):
        words = Words(np.random.default_rng(0), [instance(finding, **changes)])
        templates = POSITIVE[finding].get("any", ()) + POSITIVE[finding].get("many" if words.many else "one", ())
        assert len({t for t in templates if words.can(t)}) >= 6
        assert len({t for t in IMPRESSION[finding] if words.can(t)}) >= 6
    assert len(set(NEGATIVE[finding])) >= 6
    assert len(set(DOUBT[finding])) >= 6


def test_normal_statements_and_frames_have_at_least_six_ways():
    assert all(len(set(texts)) >= 6 for _, _, texts in NORMAL.values())
    assert all(len(set(texts)) >= 6 for texts in (OPENING, COMPARISON, NO_FINDING, MIMICRY))
    assert set(NAMES) == {other for others in MIMICS.values() for other in others}


def test_split_gives_back_exactly_the_sentences(written):
    for _, _, report in written:
        assert split(report.findings_text) == [s.text for s in report.findings]
        if report.impression:
            assert split(report.impression_text) == [s.text for s in report.impression]
        else:
            assert report.impression_text == sentences.NOT_GIVEN


@pytest.mark.slow
def test_split_gives_back_the_sentences_of_drawn_patients(sampled):
    for _, report in sampled:
        assert split(report.findings_text) == [s.text for s in report.findings]
        assert split(report.impression_text) == [s.text for s in report.impression] or report.impression_text == sentences.NOT_GIVEN


def test_what_the_report_reader_reads_is_what_the_truth_states(sampled):
    """The reader's rules and the wording are independent of each other; they must agree on all but a few sentences."""
    said, wrong = 0, []
    for instances, report in sampled:
        lobes = {i.bit: i.lobe for i in instances}
        for s in (*report.findings, *report.impression):
            if s.polarity == "normal":
                continue
            said += 1
            named, meant = set(organs_named(s.text)), {lobes[b] for b in lobes if s.bits >> b & 1} - {""}
            astray = bool(named) and not meant <= named
            otherwise = s.polarity in ("positive", "negative") and not meaning(s.text).startswith(s.finding)
            if astray or otherwise or polarity(s.text) != s.polarity:
                wrong.append(s.text)
    assert len(wrong) < 0.02 * said, wrong[:10]


def test_reports_hold_more_health_than_disease(sampled):
    positive = [sum(s.polarity == "positive" for s in report.findings) for _, report in sampled]
    assert 2 < np.mean(positive) < 4.5
    assert np.mean([len(report.findings) for _, report in sampled]) > 2.5 * np.mean(positive)


def test_no_sentence_is_said_twice_in_a_section_and_none_has_an_empty_slot(written):
    for _, _, report in written:
        texts = [s.text for s in report.findings]
        assert len(texts) - len(set(texts)) <= 1
        for text in texts + [s.text for s in report.impression]:
            assert "{" not in text and "  " not in text and " ." not in text and text[0].isupper() and text[-1] == "."


def test_positive_sentences_state_every_instance_once(written):
    for instances, _, report in written:
        stated = [s.bits for s in report.findings if s.polarity == "positive"]
        assert sum(stated) == sum(1 << i.bit for i in instances)
        assert report.stated == {i.finding for i in instances}


def test_bits_belong_to_the_finding_that_a_sentence_names(written):
    for instances, _, report in written:
        by_bit = {i.bit: i for i in instances}
        for s in (*report.findings, *report.impression):
            meant = [by_bit[b] for b in range(32) if s.bits >> b & 1]
            if s.polarity == "positive":
                assert meant and {i.finding for i in meant} == {s.finding}
            elif s.polarity == "uncertain":
                assert meant and (s.finding == meant[0].finding or s.finding in MIMICS[meant[0].finding])
            else:
                assert s.bits == 0


def test_only_absent_findings_are_denied(written):
    texts = {text: unless for _, unless, options in NORMAL.values() for text in options}
    for _, absent, report in written:
        for s in (*report.findings, *report.impression):
            if s.polarity == "negative":
                assert s.finding in absent
            elif s.polarity == "normal" and s.text in texts:
                assert set(texts[s.text]) <= set(absent)


def test_a_mimicked_finding_is_absent(written):
    mimicked = 0
    for instances, absent, report in written:
        present = {i.finding for i in instances}
        for s in report.findings:
            if s.polarity == "uncertain" and s.finding not in present:
                mimicked += 1
                assert s.finding in absent
    assert mimicked > 10


def test_lengths_are_those_of_reports(written):
    lengths = [len(report.findings) for _, _, report in written]
    assert np.percentile(lengths, 10) >= 10 and 12 <= np.median(lengths) <= 17
    assert sum(not report.impression for _, _, report in written) > 5


def test_sizes_are_those_of_the_geometry():
    rng = np.random.default_rng(0)
    for size_mm in (0.3, 2.2, 7.4, 9.6, 23.7):
        for _ in range(20):
            assert abs(float(rounded_mm(rng, size_mm).split()[0]) - max(size_mm, 1)) <= 0.5
    assert {rounded_mm(rng, 7.4) for _ in range(50)} == {"7 mm", "7.5 mm"}
    nodule = Words(rng, [instance("Lung nodule", size_mm=7.0)])
    assert all("7 mm" in nodule.fill(t) for t in POSITIVE["Lung nodule"]["one"] if "{size}" in t)


def test_a_sentence_about_several_instances_gives_the_largest_size_and_the_total_count():
    group = [instance("Lung nodule", 0, size_mm=4.0), instance("Lung nodule", 1, size_mm=9.0, lobe=LOBES[0], side="left", count=2)]
    words = Words(np.random.default_rng(0), group)
    text = words.fill("{Count} nodules {where}, the largest {size}.")
    assert text.startswith("Three nodules in both upper lobes") or text.startswith("Three nodules in the upper lobes of both lungs")
    assert text.endswith("the largest 9 mm.")


def test_a_size_without_a_single_owner_is_not_given():
    pair = [instance("Consolidation", 0, size_mm=20.0), instance("Consolidation", 1, size_mm=40.0, lobe=LOBES[4])]
    assert not Words(np.random.default_rng(0), pair).can("{size}")
    assert not Words(np.random.default_rng(0), [instance("Consolidation")]).can("{size}")
    assert not Words(np.random.default_rng(0), [instance("Lung nodule")]).can("{count}")


@pytest.mark.parametrize(
    ("lobes", "expected"), [(LOBES[:2], "the left lung"), (LOBES[2:], "the right lung"), (LOBES[:4], "lungs"), (LOBES[1:5:3], "lower")]
)
def test_several_lobes_are_named_as_reports_do(lobes, expected):
    group = [instance("Consolidation", k, lobe=lobe, side=lobe.split("_")[-1]) for k, lobe in enumerate(lobes)]
    assert expected in Words(np.random.default_rng(1), group).fill("x {at}")


def test_slots_are_known():
    known = {"where", "Where", "at", "mild", "Mild", "mildly", "size", "count", "Count", "device", "other", "Other"}
    templates = [t for forms in POSITIVE.values() for ts in forms.values() for t in ts]
    templates += [t for table in (IMPRESSION, NEGATIVE, DOUBT) for ts in table.values() for t in ts] + list(MIMICRY)
    assert {name for t in templates for _, name, _, _ in Formatter().parse(t) if name} <= known


def test_a_finding_cannot_be_stated_and_absent():
    with pytest.raises(ValueError, match="Consolidation"):
        sentences.write(np.random.default_rng(0), [instance("Consolidation")], absent=["Consolidation"])


def test_questions_agree_with_the_report(written):
    for instances, _, report in written[:200]:
        rows = questions.rows("train_1_a_1.nii.gz", report, instances)
        assert set(rows) == set(questions.TABLES)
        assert all(len(row) == len(questions.TABLES[kind]) for kind, table in rows.items() for row in table)
        disorders = rows["case_disorders"][0][1]
        assert disorders == ", ".join(dict.fromkeys(i.finding.lower() for i in instances)) or (not instances and disorders == questions.NO_FINDINGS)
        asked = {(p, f): answer for _, p, f, answer in rows["vqa_presence"]}
        for (_, finding), answer in asked.items():
            named = {f.lower() for f in finding.split(", ")}
            assert named <= {i.finding.lower() for i in instances} if answer == "Yes." else not named & {i.finding.lower() for i in instances}
        assert all(re.fullmatch(r"\d+ mm", row[-1]) for row in rows["vqa_size"])


def test_regions_are_filed_from_coarse_to_fine():
    paths = questions.regions("lungs", "Lung nodule", side="left", lobe="lung_lower_lobe_left")
    assert paths[:2] == ("lung", "lung/lung") and "lung/lung/lung lower lobe/left lung lower lobe" in paths
    assert questions.regions("opening", "", side="none", lobe="") == ()


@pytest.mark.parametrize(
    "table", ["radgenome_150/train_vqa_size.csv", "radgenome_150/train_vqa_presence.csv", "radgenome_150/train_case_disorders.csv"]
)
def test_question_tables_have_the_real_columns(shared, table):
    header = (shared / "data" / "text" / table).open(encoding="utf-8").readline().strip().split(",")
    assert list(questions.TABLES[table.split("train_")[1].removesuffix(".csv")]) == header


@pytest.mark.slow
def test_no_real_sentence_was_copied(shared, written, sampled):
    text = shared / "data" / "text"
    real: set[str] = set()
    for file in ("ctclip_reports_200.csv", "radgenome_150/train_region_report.csv"):
        real |= {_plain(s) for line in (text / file).open(encoding="utf-8") for s in split(line)}
    for report in json.loads((text / "ctrg_300.json").read_text(encoding="utf-8")):
        real |= {_plain(s) for s in split(report["report"]) + split(report["result"])}
    every = [report for _, _, report in written] + [report for _, report in sampled]
    ours = {_plain(s.text) for report in every for s in (*report.findings, *report.impression)}
    assert sorted(ours & real) == []


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()
