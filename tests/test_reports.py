"""Sentences, sections, cleaning and joining of report text; what a sentence says."""

from __future__ import annotations

import json
import re

import pytest

from asapkit import reports
from asapkit.types import FINDINGS, ORGANS


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def test_every_hard_passage_is_split_right(shared):
    passages = json.loads((shared / "data/text/hard_sentences.json").read_text())
    wrong = [p["why"] for p in passages if reports.split(p["passage"]) != p["sentences"]]
    assert len(passages) == 29
    assert not wrong


# Sentence boundaries are marked by " | ".
@pytest.mark.parametrize(
    "marked",
    [
        "The lungs are clear. | No effusion.",
        "A cyst of 2.5 cm lies there. | Its wall is thin.",
        "Compared with 03.11.2021. | No new lesion.",
        "Compared with the study of 3.4.2019. | No new lesion.",
        "Control 14.02. It was read together with the scan of 2019. | Heart size is normal.",
        "Nodules are below 4. | Both hila are normal.",
        "A screw is seen in the L2.vertebra. | Ribs are intact.",
        "A callus lies on the 5. rib on the left. | No other fracture.",
        "Right 4-5. There is a drain between the ribs. | No air is left.",
        "Fractures of the ribs 4-5. | Both lungs are clear.",
        "Cysts lie in liver segment 7. | In segment 2 there is a stone.",
        "The nodule grew (img 12, 15, etc.), while the others did not. | Follow up.",
        "Short axis max. 9 mm, diam. 4 mm. | Stable.",
        "Lesion, approx. 12 mm, e.g. a cyst. | Stable.",
        "Compared with 03.11.2021. | the trachea is open.",
        "A cyst? | there is a stone too.",
        "Metastasis? | The liver holds three lesions.",
        "Small vessel disease (asthma? bronchiolitis?) is thought of. | Stable.",
        "A focus (cyst?). | Another one.",
        "A focus was seen (see the report of 2018.) | Another one.",
        "Fissure nodule (IM88. | Both hila are normal.",
        "A band runs ... downwards through the lobe... | No air.",
        "Fibrosis.. | Scars.",
        "The wall is thick,. | The lumen is wide:. | End",
        "Lung cancer. | pancreatic cyst.",
        "1. Effusion on the left. | 2. Nodules in both lungs. | 3. Scars",
        "1. Effusion on the left | 2. Nodules in both lungs | 3. Scars.",
        "1) Effusion on the left | 2) Nodules in both lungs",
        "Bones are normal. | • Old breast Ca. | • Scars in the left lung",
        'Bones are normal. | " Scars in the left lung | " Hiatal hernia',
        'Bones are normal. | "Scars in the left lung." | Hiatal hernia. | "Cyst in the liver."',
        "Bones are normal. | “Scars in the left lung.” | “Hiatal hernia.”",
        'The so-called "halo" sign is seen. | No cavity.',
        "Size 1.2 × 3cm。 | Both hila are normal。",
        "Size 2.1X1.4cm; the pleura is drawn in: a scar. | End.",
        "Nodes at 4R. | The heart is large.",
        "In line with CO-RADS 5. | Follow up in 3 months.",
        "Seen in 2020. | 3 nodules are new.",
        "Compared with the CT of Jan. 2021. | No new lesion.",
        "Compared with 12 Sept. 2020 and Dec. 3, 2021. | 2 nodules are new.",
        "Old fractures of Th. 8 and Th. 11 are seen. | 3 ribs are broken.",
        "The heights of Th. 8-9 are low. | Stable.",
        "Hemangioma in the corpus of T. 8. | The ribs are intact.",
        "The T. 8 vertebra is wedged, L. 2 level is normal. | Stable.",
        "Between L. 4 and L. 5 the disc is narrow. | Stable.",
        "Known hepatitis C. | 2 lesions lie in the liver.",
        "The cyst is larger on the L. | 3 stones are seen.",
        "Metal lies at T. | 15 mm away is a clip.",
        "A scar of the 5 th. | 3 nodules are new.",
        "Dr. Smith was told. | No answer.",
        "Clinical and lab. Correlation is advised. | The lungs are clear.",
        "The lungs are clear!",
        "(Contrast was not given.) | The heart is large.",
        "The lungs are clear. | The heart is large. .",
        "Findings\n | Clear lungs\n | Normal heart",
        "The nodule of the\nRight lung is stable.",
    ],
)
def test_split_by_shape(marked):
    assert reports.split(marked.replace(" | ", " ")) == [s.strip() for s in marked.split(" | ")]


@pytest.mark.parametrize("text", ["The aorta is wide.The heart is large.", "The aorta is wide.the heart is big.", "Size 3 mm.Old (2.1).No air."])
def test_split_where_the_space_is_missing(text):
    assert "".join(reports.split(text)) == text
    assert len(reports.split(text)) == text.count(".") - text.count("2.1")


@pytest.mark.parametrize("text", ["", "   ", "\n", None, float("nan")])
def test_nothing_gives_no_sentence(text):
    assert reports.split(text) == []
    assert reports.clean(text) == ""


def test_split_loses_nothing_on_real_reports(shared):
    texts = json.loads((shared / "data/text/ctrg_300.json").read_text())
    for text in (t[k] for t in texts for k in ("report", "result")):
        assert squeezed("".join(reports.split(text))) == squeezed(text)


def test_clean_text_splits_into_the_same_sentences():
    text = 'The heart is large . Nodule of 2.5 mm (cyst?)in the lung.. • Scars • Old clip. " Effusion on the left'
    cleaned = reports.clean(text)
    assert cleaned == "The heart is large. Nodule of 2.5 mm (cyst?)in the lung. Scars. Old clip. Effusion on the left."
    assert reports.clean(cleaned) == cleaned
    assert len(reports.split(cleaned)) == len(reports.split(text))


def test_official_cleaning_and_splitting_keep_their_faults():
    assert reports.clean("Cyst? (old): scar; none.", official=True) == "Cyst ( old ) , scar, none."
    assert reports.split("Cyst in segment 5. There is air. A tail", official=True) == ["Cyst in segment 5. There is air."]
    assert reports.split("Of 12.25 mm. End.", official=True) == ["Of 12.", "25 mm.", "End."]


def test_not_given_is_nothing():
    assert reports.join("The lungs are clear.", "Not given.") == "The lungs are clear."
    assert reports.join(None, "Scars.") == "Scars."
    assert reports.join("The lungs are clear.", "Scars.") == "The lungs are clear. Scars."
    assert reports.join("The lungs are clear.", "Scars.", official=True) == "The lungs are clear.Scars."
    assert reports.join("The lungs are clear.", "Not given.", official=True) == "The lungs are clear."
    assert reports.clean("Not given.") == ""


@pytest.mark.parametrize(
    "text",
    [
        'The heart is large. Bones are normal. " Cardiomegaly " Old scars in both lungs',
        "The heart is large. Bones are normal. • Cardiomegaly. • Old scars in both lungs",
        'The heart is large. Bones are normal. "Cardiomegaly." Old scars in both lungs."',
        "FINDINGS: The heart is large. Bones are normal.\nIMPRESSION: Cardiomegaly. Old scars in both lungs.",
        "The heart is large. Bones are normal.\nConclusion: Cardiomegaly. Old scars in both lungs.",
    ],
)
def test_sections(text):
    assert reports.sections(text) == {"findings": "The heart is large. Bones are normal.", "impression": "Cardiomegaly. Old scars in both lungs."}


def test_sections_without_an_impression():
    assert reports.sections("The heart is large.") == {"findings": "The heart is large.", "impression": ""}
    assert reports.sections("Findings: The heart is large. Impression: Not given.") == {"findings": "The heart is large.", "impression": ""}


@pytest.mark.parametrize(
    ("finding", "sentences"),
    [
        ("Pleural effusion", ["No pleural effusion.", "Pleural effusion was not observed.", "There is no effusion in either pleural space."]),
        ("Cardiomegaly", ["Heart size is normal.", "The heart is not enlarged.", "Heart contours and size are natural.", "No cardiomegaly."]),
        ("Consolidation", ["No consolidation is seen.", "Consolidation is absent.", "The lungs are free of consolidation."]),
        ("Lymphadenopathy", ["No enlarged lymph node is found.", "Lymph nodes of pathological size were not detected."]),
    ],
)
def test_wordings_of_a_denial_share_a_key(finding, sentences):
    assert {reports.meaning(s) for s in sentences} == {f"{finding}|absent||"}
    assert {reports.polarity(s) for s in sentences} == {"negative"}


def test_meaning_tells_findings_states_sides_and_lobes_apart_but_not_sizes():
    here = reports.meaning("A nodule of 5 mm is seen in the right upper lobe.")
    assert here == "Lung nodule|present|right|lung_upper_lobe_right"
    assert here == reports.meaning("In the upper lobe of the right lung, a 7.5 mm nodule is present.")
    others = [
        "A nodule in the left upper lobe.",
        "No nodule in the right upper lobe.",
        "Possible nodule in the right upper lobe.",
        "Scar in the right upper lobe.",
    ]
    assert len({here, *map(reports.meaning, others)}) == 5


def test_one_sentence_may_say_several_things():
    assert reports.meaning("Mild cardiomegaly without pleural effusion.") == "Cardiomegaly|present||;Pleural effusion|absent||"
    assert reports.meaning("Pleural or pericardial effusion was not observed.") == "Pericardial effusion|absent||;Pleural effusion|absent||"


def test_what_is_not_known_is_compared_without_numbers():
    assert reports.meaning("A stone of 4 mm in the kidney.") == reports.meaning("a stone of 11 mm in the kidney")


@pytest.mark.parametrize(
    ("sentence", "organs"),
    [
        ("Scar in the middle lobe.", ["lung_middle_lobe_right"]),
        ("Scar in the lingula.", ["lung_upper_lobe_left"]),
        ("Bands in both lower lobes.", ["lung_lower_lobe_left", "lung_lower_lobe_right"]),
        ("Effusion in the left pleural space.", ["lung_upper_lobe_left", "lung_lower_lobe_left"]),
        ("Emphysema in both lungs.", [o for o in ORGANS if o.startswith("lung")]),
        ("Nodule in the upper and lower lobes of the right lung.", ["lung_upper_lobe_right", "lung_lower_lobe_right"]),
        ("Plaques in the left anterior descending artery.", ["heart"]),
        ("The thoracic aorta is wide.", ["aorta"]),
        ("A hiatal hernia.", ["esophagus"]),
        ("Fracture of a vertebra.", []),
    ],
)
def test_organs_named(sentence, organs):
    assert reports.organs_named(sentence) == tuple(organs)


def test_the_lexicon_covers_every_finding():
    from asapkit.reports.lexicon import FINDING_WORDS

    assert tuple(FINDING_WORDS) == FINDINGS


@pytest.mark.parametrize(
    ("sentence", "polarity"),
    [
        ("Nodules are seen in both lungs (metastasis?).", "positive"),
        ("Stones are seen in the gallbladder.", "positive"),
        ("The consolidation in the left lower lobe may represent pneumonia.", "uncertain"),
        ("Atelectasis cannot be excluded in the right lower lobe.", "uncertain"),
        ("Trachea and main bronchi are open.", "negative"),
        ("The wall of the aorta shows no plaque.", "negative"),
        ("No change was found in the size of the nodules in the left lung.", "positive"),
        ("A nodule that was not seen in the previous scan is present in the left lung.", "positive"),
        ("The nodule seen in the previous examination was not observed.", "negative"),
        ("Follow-up is recommended.", "negative"),
    ],
)
def test_polarity(sentence, polarity):
    assert reports.polarity(sentence) == polarity


def phantom_sentences():
    """Every template of the phantom once, with what it says: text, finding, state, side, lobe."""
    import numpy as np

    from asapkit.phantom import Instance
    from asapkit.phantom.denials import NEGATIVE, NORMAL
    from asapkit.phantom.phrases import POSITIVE
    from asapkit.phantom.wording import Words

    rng = np.random.default_rng(3)
    for finding, forms in POSITIVE.items():
        place = {"Arterial wall calcification": "aortic arch", "Lymphadenopathy": "subcarinal", "Medical material": "pacemaker"}.get(finding, "")
        place = "left anterior descending artery" if finding.startswith("Coronary") else place
        lobe = "lung_lower_lobe_left" if finding in FINDINGS[7:12] + FINDINGS[13:] else ""
        side = "left" if lobe or finding == "Pleural effusion" else ""
        for form, templates in forms.items():
            words = Words(rng, [Instance(finding, 0, side or "none", lobe, place, 2, 3 if form == "many" else 1, 12.5)])
            yield from ((words.fill(t), finding, "present", side, lobe) for t in templates if words.can(t))
    for finding, texts in NEGATIVE.items():
        yield from ((text, finding, "absent", "", "") for text in texts)
    yield from ((text, "", "normal", "", "") for _, _, texts in NORMAL.values() for text in texts)


def test_the_phantom_is_understood():
    wrong = []
    for text, finding, state, side, lobe in phantom_sentences():
        said = reports.statements(text)
        right = not finding or [(s.finding, s.state) for s in said] == [(finding, state)]
        if side:
            right &= all((s.side, s.lobe) == (side, lobe) for s in said)
        right &= reports.polarity(text) == ("positive" if state == "present" else "negative")
        wrong += [] if right else [text]
    assert len(wrong) <= 3, wrong
