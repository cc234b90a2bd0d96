"""Findings by kind and organ: the file is whole, two studies are as alike as a loop over their findings says, and bad files are named."""

import json
import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made import made_batch

from asapkit import checkpoint, ontology
from asapkit.config import Config
from asapkit.types import FINDINGS, Refused

TOY = Config.at("toy")
FILE = ontology.HERE / "findings-v1.json"
SAID = json.loads(FILE.read_text())
V1 = ontology.read("findings-v1")
LABELS = st.lists(st.sampled_from([1.0, 0.0, -1.0]), min_size=len(FINDINGS), max_size=len(FINDINGS))


def with_wholes(names, table):
    """The names and everything that they are part of."""
    return set(names).union(*(with_wholes(table[name], table) for name in names)) if names else set()


def looped_kinship(a, b):
    """Shared weight of two findings, over that of each alone."""
    weights = SAID["weights"]

    def spread(finding):
        kinds, organs = (with_wholes(SAID["findings"][finding][table], SAID[table]) for table in ("kinds", "organs"))
        shares = {("finding", finding): weights["finding"]}
        shares |= {("kind", k): weights["kind"] / len(kinds) for k in kinds}
        return shares | {("organ", o): weights["organ"] / len(organs) for o in organs}

    def met(x, y):
        return sum(math.sqrt(x[key] * y[key]) for key in x.keys() & y.keys())

    x, y = spread(a), spread(b)
    return met(x, y) / math.sqrt(met(x, x) * met(y, y))


def looped_likeness(one, other):
    """One pair of studies, one pair of findings at a time; a finding unknown in either study is passed over in that study."""

    def product(x, y):
        found = 0.0
        for f, a in zip(FINDINGS, x):
            for g, b in zip(FINDINGS, y):
                if a == b == 1:
                    found += looped_kinship(f, g)
                if f == g and a == b == 0:
                    found += SAID["weights"]["absent"] ** 2
        return found

    sizes = product(one, one) * product(other, other)
    return product(one, other) / math.sqrt(sizes) if sizes else 0.0


def likeness(labels):
    return ontology.alike(ontology.described(torch.tensor(labels), V1.traits, absent=V1.absent))


def only(*present, otherwise=0.0):
    return [1.0 if f in present else otherwise for f in FINDINGS]


@pytest.mark.parametrize("name", ontology.known())
def test_every_packaged_ontology_is_whole_versioned_and_says_where_it_comes_from(name):
    found = ontology.read(name)
    assert found.name == name and name.rpartition("-v")[2].isdigit() and "own" in found.source.lower()
    assert found.traits.shape[0] == len(FINDINGS) and (found.traits >= 0).all()
    assert torch.allclose(found.traits.norm(dim=1), torch.ones(len(FINDINGS)))


def test_kinship_of_findings_is_that_of_a_loop_and_more_than_nothing_just_where_something_is_shared():
    found = ontology.kinship(V1.traits)
    for i, a in enumerate(FINDINGS):
        for j, b in enumerate(FINDINGS):
            assert found[i, j].item() == pytest.approx(looped_kinship(a, b), abs=1e-6)
    for (i, a), (j, b) in combinations(enumerate(FINDINGS), 2):
        sets = [{table: with_wholes(SAID["findings"][f][table], SAID[table]) for table in ("kinds", "organs")} for f in (a, b)]
        shared = bool(sets[0]["kinds"] & sets[1]["kinds"] or sets[0]["organs"] & sets[1]["organs"])
        assert (found[i, j] > 0) == shared and found[i, j] < 1, (a, b)


def test_what_a_radiologist_would_put_side_by_side_is_nearer():
    near = {(a, b): looped_kinship(a, b) for a in FINDINGS for b in FINDINGS}
    for a, b, other in (
        ("Consolidation", "Lung opacity", "Lung nodule"), ("Consolidation", "Lung nodule", "Pleural effusion"),
        ("Bronchiectasis", "Peribronchial thickening", "Emphysema"), ("Pleural effusion", "Pericardial effusion", "Emphysema"),
        ("Arterial wall calcification", "Coronary artery wall calcification", "Cardiomegaly"),
        ("Coronary artery wall calcification", "Cardiomegaly", "Lung nodule"), ("Emphysema", "Mosaic attenuation pattern", "Atelectasis"),
    ):  # fmt: skip
        assert near[a, b] > near[a, other], (a, b, other)


@settings(max_examples=25, deadline=None)
@given(one=LABELS, other=LABELS)
def test_likeness_of_two_studies_against_a_loop_over_their_findings(one, other):
    assert likeness([one, other])[0, 1].item() == pytest.approx(looped_likeness(one, other), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(LABELS, min_size=1, max_size=12))
def test_likeness_is_symmetric_between_0_and_1_one_with_itself_and_positive_semidefinite(labels):
    found = likeness(labels)
    assert torch.allclose(found, found.T, atol=1e-6) and (found.diagonal() == 1).all() and found.min() >= 0 and found.max() <= 1
    assert torch.linalg.eigvalsh(found.double()).min() > -1e-5


@settings(max_examples=25, deadline=None)
@given(one=LABELS, other=LABELS, place=st.integers(0, len(FINDINGS) - 1), said=st.sampled_from([0.0, 1.0]))
def test_what_is_unknown_in_one_study_is_no_match_and_no_mismatch_in_the_other(one, other, place, said):
    """The study that does not know a finding meets the other as if that finding were not in the ontology's table of absences."""
    one[place] = -1.0
    without = [x for n, x in enumerate(one) if n != place]
    described = ontology.described(torch.tensor([one]), V1.traits, absent=V1.absent)
    known = [n for n in range(len(FINDINGS)) if n != place]
    fewer = ontology.described(torch.tensor([without]), V1.traits[known], absent=V1.absent)
    columns = [*range(V1.traits.shape[1]), *(V1.traits.shape[1] + n for n in known)]
    assert torch.allclose(described[:, columns], fewer) and described[0, V1.traits.shape[1] + place] == 0
    both = [row[:place] + [-1.0] + row[place + 1 :] for row in (one, other)]
    assert likeness(both)[0, 1].item() == pytest.approx(looped_likeness(*both), abs=1e-5)


def test_findings_of_one_organ_or_kind_make_studies_more_alike_and_normal_ones_are_alike():
    rows = [only("Consolidation"), only("Lung opacity"), only("Lung nodule"), only("Hiatal hernia"), only(), only(), only(otherwise=-1.0)]
    found = likeness(rows)
    assert found[0, 1] > found[0, 2] > found[0, 3] > 0
    assert found[4, 5].item() == pytest.approx(1) and found[4, 0] < 1
    assert found[6, :6].eq(0).all() and found[6, 6] == 1, "a study of which nothing is known is like no other"


def test_the_recipe_softens_by_what_the_labels_say():
    torch.manual_seed(0)
    batch = made_batch(TOY, volumes=4)
    batch = replace(batch, labels=torch.tensor([only("Consolidation"), only("Lung opacity"), only("Hiatal hernia"), only(otherwise=-1.0)]))
    for mode in ("soft_target", "official"):
        method = checkpoint.make_method("scale_vlp", TOY, {"knowledge": "ontology", "mode": mode, "alpha": 1.0})
        known = method.known(batch, method.pair.text(batch.report_tokens, batch.report_real))
        flat, none = torch.zeros(4, 4), torch.zeros(4, TOY.align_width)
        found = method.likeness(none, none, known, flat)  # nothing of the images, all of the knowledge
        assert torch.allclose(found, likeness(batch.labels.tolist()) / 2)
        losses = [method(replace(batch, labels=labels))["contrast"].item() for labels in (batch.labels, batch.labels.roll(1, 0))]
        assert abs(losses[0] - losses[1]) > 1e-5
        assert "traits" not in method.state_dict()
    plain = checkpoint.make_method("scale_vlp", TOY, {})
    assert plain.needs == () and method.needs == ("labels",)
    assert plain(batch)["contrast"].item() == plain(replace(batch, labels=-torch.ones(4, len(FINDINGS))))["contrast"].item()


def changed(folder, **tables):
    (folder / "mine.json").write_text(json.dumps(SAID | tables))
    return str(folder / "mine.json")


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"findings": SAID["findings"] | {"Broken rib": {"kinds": [], "organs": []}}}, "unknown finding 'Broken rib'; there are Medical material"),
        ({"findings": {k: v for k, v in SAID["findings"].items() if k != "Emphysema"}}, "finding 'Emphysema' is missing; all 18"),
        ({"findings": SAID["findings"] | {"Emphysema": {"kinds": [], "organs": ["liver"]}}}, "unknown name 'liver' at 'Emphysema' under 'organs'"),
        ({"findings": SAID["findings"] | {"Emphysema": "lungs"}}, "'Emphysema' under 'kinds' must be a list of names"),
        ({"organs": SAID["organs"] | {"lungs": "thorax"}}, "'lungs' must be a list of names"),
        ({"organs": SAID["organs"] | {"lungs": ["thorax"]}}, "unknown name 'thorax' at 'lungs'; there are lungs"),
        ({"weights": SAID["weights"] | {"finding": 0}}, "weight 'finding' is 0; give a number"),
        ({"weights": SAID["weights"] | {"kind": -1}}, "weight 'kind' is -1"),
        ({"weights": {"finding": 1}}, "weight 'kind' is None"),
        ({"kinds": []}, "'kinds' is missing"),
        ({"source": 3}, "names its 'source'"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_ontology_of_the_findings_is_refused_in_one_line(tables, says, tmp_path):
    with pytest.raises(Refused, match=says) as said:
        ontology.read(changed(tmp_path, **tables))
    assert "\n" not in str(said.value) and "mine.json" in str(said.value)


def test_one_of_your_own_is_read_and_names_in_a_circle_end(tmp_path):
    own = changed(tmp_path, organs=SAID["organs"] | {"lungs": ["pleura"], "pleura": ["lungs"]})
    found = ontology.read(own)
    assert found.name == "mine" and ontology.kinship(found.traits)[FINDINGS.index("Emphysema"), FINDINGS.index("Pleural effusion")] > 0
    assert checkpoint.make_method("scale_vlp", TOY, {"knowledge": "ontology", "ontology": own}).ontology.name == "mine"


def test_unknown_names_and_wrong_numbers_of_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown ontology 'x'; there are findings-v1, or a .json file of your own"):
        ontology.read("x")
    with pytest.raises(Refused, match="no such file"):
        ontology.read(str(tmp_path / "none.json"))
    (tmp_path / "text.json").write_text("no json")
    with pytest.raises(Refused, match="is no JSON"):
        ontology.read(str(tmp_path / "text.json"))
    with pytest.raises(ValueError, match="3 labels a study, where the ontology has 18 findings"):
        ontology.described(torch.zeros(1, 3), V1.traits, absent=0.2)
    with pytest.raises(ValueError, match="knowledge 'graph': there are text, ontology"):
        checkpoint.make_method("scale_vlp", TOY, {"knowledge": "graph"})
