"""The words by which reports name the 18 findings, and a few structures that are reported as normal."""

from __future__ import annotations

import re


def _any(*patterns: str) -> re.Pattern:
    return re.compile("|".join(patterns), re.I)


_ARTERY = r"(?:aort\w*|arter\w+|vascular|supra-?aortic|carotid\w*|subclavian|brachiocephalic|arch)"
_LIME = r"(?:calcif\w+|calcium|atherom\w+|atheroscl\w+|arterioscl\w+|plaques?)"
_CORONARY = r"(?:coronar\w+|\bLAD\b|circumflex|\bRCA\b|\bLCX\b|left anterior descending)"
_HEART = r"(?:hearts?(?! failure)|cardiac(?! (?:stasis|failure|pacemaker))|cardiothoracic|\bCT[OR]\b)"
_BIG = r"(?:enlarg\w+|increas\w+|large\b(?!r vessel)|larger than normal|dilat\w+|megaly|big|prominent|broad\w*)"

FINDING_WORDS: dict[str, dict[str, re.Pattern]] = {
    "Medical material": {
        "named": _any(
            r"pace-?maker\w*|defibrillator\w*|\bICD\b|\bleads?\b|electrodes?|catheter\w*|cannula\w*|\bport\b|port-?a-?cath|stents?\b|stented|"
            r"sutur\w+|"
            r"surgical (?:material|clips?|wires?)|clips?\b|prosthe\w+|implant(?!ation)\w*|sternotomy|sternal wires?|cerclage|metallic|"
            r"(?:thora\w+|chest|drainage|feeding|nasogastric|endotracheal|tracheostomy|intubation|pleural) (?:tubes?|drains?|cannula)|\bdrains?\b|"
            r"\bgrafts?\b|coils?\b|screws?|fixat\w+|medical (?:material|device)s?|valve replacement|(?:artificial|mechanical) valve|tracheostom\w+"
        )
    },
    "Arterial wall calcification": {
        "named": _any(
            rf"(?<!coronary ){_ARTERY}\b[^.;]{{0,80}}?\b{_LIME}",
            rf"\b{_LIME}[^.;]{{0,90}}?(?<!coronary )(?<!descending )(?<!circumflex )\b{_ARTERY}",
            r"(?<!coronary )atheroscl\w+(?! (?:\w+ ){0,4}coronary)",
        )
    },
    "Cardiomegaly": {
        "named": _any(
            r"cardiomegal\w+",
            rf"{_HEART}[^.;,]{{0,50}}?(?<!not )\b{_BIG}",
            rf"(?:enlarge(?:d|ment)|increased?|dilat\w+)[^.;,]{{0,30}}?\b(?:of the |in |the )?{_HEART}(?! (?:valve|stasis))",
        ),
        "subject": _any(
            rf"{_HEART}[^.;]{{0,40}}?\b(?:siz\w*|contours?|dimension\w*|shadow|silhouette|volume|shape|configuration|index|ratio|chambers?|"
            rf"compartments?)",
            rf"\b(?:siz\w*|contours?|dimensions?)[^.;]{{0,20}}?\b{_HEART}",
            rf"^\W*(?:the )?{_HEART}[^.;,]{{0,20}}\b(?:is|are|appears?|normal|natural|not)\b",
            r"\bCT[OR]\b",
        ),
    },
    "Pericardial effusion": {
        "named": _any(
            r"pericardi\w+[^.;]{0,40}?\b(?:effusion\w*|fluid|hydrops)",
            r"\b(?:effusion\w*|fluid)[^.;]{0,40}?pericard\w+",
            r"\bhydrops under the pericard",
        ),
        "subject": _any(r"pericardi\w+"),
    },
    "Coronary artery wall calcification": {
        "named": _any(rf"{_CORONARY}[^.;]{{0,80}}?\b{_LIME}", rf"\b{_LIME}[^.;]{{0,110}}?{_CORONARY}"),
        "subject": _any(r"coronary (?:calcif|arter)"),
    },
    "Hiatal hernia": {
        "named": _any(r"hiat(?:al|us)[^.;]{0,12}\bherni\w+", r"\bhernia\w*[^.;]{0,30}\bhiatus", r"sliding(?: type)? hernia"),
        "subject": _any(r"hiatal"),
    },
    "Lymphadenopathy": {
        "named": _any(
            r"lymphadenopath\w*|lymphadenomegal\w+|\badenopath\w+|\bLAPs?\b",
            r"(?:enlarged|pathologic\w*|large|conglomerat\w*|necrotic|increased|malignant|metasta\w+)[^.;]{0,40}?\b(?:lymph )?nodes?\b(?! metast)",
            r"lymph nodes?\b[^.;]{0,90}?\b(?:enlarge\w+|patholog\w+|conglomerat\w+|necrotic|increased in (?:size|number)|large)",
            r"lymph nodes?\b[^.;]{0,120}?\b(?:1[0-9]|[2-9][0-9])(?:[.,]\d)?\s?(?:mm|x)",
            r"lymph nodes?\b[^.;]{0,120}?\b[1-9](?:[.,]\d)?\s?(?:x\s?\d[.,]?\d?\s?)?cm",
        ),
        "subject": _any(r"lymph node|lymphatic|adenopathy"),
    },
    "Emphysema": {"named": _any(r"emphysem\w*|\bbulla\w*|\bbullous|\bblebs?\b|air trapping in the upper")},
    "Atelectasis": {"named": _any(r"atelecta?\w*|atelectic|\bcollapse[ds]?\b|volume loss")},
    "Lung nodule": {"named": _any(r"nodul(?!ar (?:thick|lesion|hypodens|consolid|pleur|goit))\w*|nodular (?:lesion|ground|opacit|densit)\w*")},
    "Lung opacity": {
        "named": _any(
            r"ground[- ]?glass|\bGGOs?\b|opacit\w+|opacif\w+|crazy[- ]paving|infiltrat\w+|hazy|haziness|patchy (?:\w+ ){0,3}(?:shadow|densit|"
            r"area)\w*|"
            r"(?:fuzzy|vague|flocculent) (?:\w+ )?shadow\w*|(?:density|attenuation) increase\w*|increased? (?:in )?(?:parenchymal )?density|"
            r"pneumoni(?:a|c)\w*|"
            r"budding tree|tree[- ]in[- ]bud|exudat\w+"
        )
    },
    "Pulmonary fibrotic sequela": {
        "named": _any(
            r"sequel\w*|fibro(?!id|aden|elast|scan|vascul|glandul|cyst|lip|us dys)\w*|scar(?:s|ring|red)?\b|honey-?comb\w*|"
            r"(?:pleuro)?parenchymal bands?|cord (?:shadow|lesion|foc)\w*"
        )
    },
    "Pleural effusion": {
        "named": _any(
            r"pleur\w+[^.;]{0,40}?\b(?:effusion\w*|fluid)",
            r"\beffusions?\b[^.;]{0,50}?(?:pleur\w+|hemithora\w+|costophrenic)",
            r"(?:hemithora\w+|pleural (?:space|cavit\w+))[^.;]{0,50}?\b(?:effusion\w*|fluid)",
            r"\bhydrothorax|hydropneumothorax|(?:fluid|effusion)[^.;]{0,30}pleural",
            r"^(?!.*(?:pericard|joint|abdom|perihep|pelvi)).*\b(?:bilateral|right|left)[^.;]{0,25}\beffusions?\b",
        )
    },
    "Mosaic attenuation pattern": {"named": _any(r"mosaic|air[- ]trapping|small airways? disease")},
    "Peribronchial thickening": {
        "named": _any(
            r"peri-?bronch\w+[^.;]{0,50}?thick\w+",
            r"thick\w+[^.;]{0,50}?peri-?bronch\w+",
            r"bronch\w+ (?:\w+ )?walls?[^.;]{0,50}?thick\w+",
            r"thick\w+[^.;]{0,30}?bronch\w+ (?:\w+ )?walls?",
            r"thick\w+[^.;]{0,30}?walls? of (?:the )?(?:\w+ ){0,3}bronch\w+",
            r"bronchial cuffing|peri-?bronchial cuff\w*|thick-?walled bronch\w+",
        )
    },
    "Consolidation": {"named": _any(r"consolidat\w+|air bronchogram\w*")},
    "Bronchiectasis": {
        "named": _any(
            r"bronchi?ectas\w+|bronchi?ectatic|dilat\w+[^.;]{0,30}?bronchi\b|bronch(?:i|us|ial)\b[^.;]{0,30}?(?<!not )\b(?:dilat|ectat|"
            r"widen)\w+|signet[- ]ring"
        )
    },
    "Interlobular septal thickening": {
        "named": _any(
            r"inter-?lobular[^.;]{0,40}?sept\w+|sept\w+[^.;]{0,40}?inter-?lobular|sept(?:al|a|um)\b[^.;]{0,30}?thick\w+|"
            r"thick\w+[^.;]{0,30}?\bsept(?:a|al|um)\b|"
            r"kerley|smooth septal|interlobar sept\w+|thick\w+ septa"
        )
    },
}
"""finding -> "named": words that state it (or deny it, in a clause that denies); "subject": the structure that is reported normal instead."""

_ELSEWHERE = (
    r"liver|hepatic|spleen|splenic|kidney\w*|renal|thyroid\w*|adrenal\w*|surrenal\w*|breast|axilla\w*|pancrea\w+|gall|bladder|prostat\w*|"
    r"uter\w+|ovar\w+|"
    r"skin|subcutaneous|cutaneous|parotid|bone|vertebra\w*|stomach|mesenter\w*|omentum|periton\w*|retroareolar|muscle|cerebr\w+|brain|sinus\w*|scalp|"
    r"corpus|colon|goiter|schmorl"
)
NOT_LUNG: dict[str, re.Pattern] = {
    "Lung nodule": re.compile(
        rf"^(?!.*\b(?:lungs?|pulmonary|lobes?|parenchym\w+|subpleural|fissure|lingula\w*)\b).*\b(?:{_ELSEWHERE})|\b(?:liver|thyroid|kidney|"
        rf"adrenal|spleen|breast)\b", re.I
    ),
    "Lung opacity": re.compile(rf"^(?!.*\b(?:lungs?|pulmonary|lobes?|lingula\w*|subpleural)\b).*\b(?:{_ELSEWHERE}|mediastin\w+|fatty)", re.I),
    "Emphysema": re.compile(r"(?:subcutaneous|soft tissue|mediastin\w+|axilla\w*|pectoral|fatty|surgical|neck)[^.;]*emphysem|"
    r"emphysem\w*[^.;]*(?:subcutaneous|axilla|pectoral|fatty|chest wall)", re.I),
    "Pulmonary fibrotic sequela": re.compile(r"\b(?:kidney\w*|renal|liver|spleen|rib|ribs|fractur\w+|breast|uter\w+|bones?|infarct\w*)\b", re.I),
    "Consolidation": re.compile(r"(?:fractur\w+|callus)", re.I),
    "Atelectasis": re.compile(r"(?:vertebra\w*|gall ?bladder|esophag\w+|stomach)[^.;]*collaps|collaps[^.;]*(?:vertebra|gall|esophag|stomach)", re.I),
    "Arterial wall calcification": re.compile(rf"^(?!.*\b(?:aort\w*|carotid\w*|subclavian|supra|iliac|vascular|arteries)\b).*{_CORONARY}", re.I),
    "Medical material": re.compile(r"no contrast material|contrast material|portal|pulmonary ligament", re.I),
    "Bronchiectasis": re.compile(r"esophag\w+[^.;]*dilat|bile|biliary|duct", re.I),
}  # fmt: skip
"""A finding of the lungs is not meant where only these words stand around it (a nodule of the thyroid)."""

TOPIC_WORDS: dict[str, re.Pattern] = {
    "Airways": _any(r"\btrachea\w*|main bronch\w+|airways?\b"),
    "Great vessels": _any(
        r"mediastinal (?:main |major |great )?(?:vascular|vessel)|great vessels|thoracic aorta|main vascular|pulmonary arter(?:y|ies)|large vessels"
    ),
    "Esophagus": _any(r"o?esophag\w+"),
    "Pneumothorax": _any(r"pneumothora\w+"),
    "Mass": _any(r"\bmass(?:es)?\b|space[- ]occupying|tumou?r\w*"),
    "Bones": _any(r"\bbon[ey]\w*|vertebra\w*|\bribs?\b|skelet\w+|osseous|lytic|fracture"),
    "Upper abdomen": _any(r"abdom\w+|\bliver|spleen|adrenal\w*|kidney\w*|gallbladder|pancrea\w+"),
    "Pleura": _any(r"pleural? (?:thick|hypertroph|plaque)\w*|pleural effusion[- ]thick\w+"),
    "Lungs": _any(
        r"\blungs?(?: parenchyma| fields?)?\b(?=[^.;]*\b(?:clear|normal|natural|aerat\w+|unremarkable|no (?:active|infiltr\w+|abnormal\w*)))|"
        r"lung aeration"
    ),
    "Thorax": _any(r"^\W*(?:bilateral )?thorax is|chest wall|soft tissues?|thoracic cage"),
}
"""Structures that a report calls normal, so that all wordings of it share one key."""
