"""The words by which reports name the 18 findings, and a few structures that are reported as normal."""

from __future__ import annotations

import re


def _any(*patterns: str) -> re.Pattern:
    return re.compile("|".join(patterns), re.I)


_ARTERY = r"(?:aort(?!o|ico)\w*|arter\w+|vascular|supra-?aortic|carotid\w*|subclavian|brachiocephalic|arch)"
_LIME = r"(?:calcif\w+|calcium|atherom\w+|atheroscl\w+|arterioscl\w+|plaques?)"
_CORONARY = r"(?:coronar\w+|\bLAD\b|circumflex|\bRCA\b|\bLCX\b|left anterior descending)"
_HEART = r"\b(?:hearts?(?! failure)|cardiac(?! (?:stasis|failure|pacemaker))|cardiothoracic|\bCT[OR]\b)"
_BIG = (
    r"(?:enlarg\w+|increas\w+|(?:large|big|prominent)\b(?! (?:\w+ )?(?:vessel|vascula|arter|airway))|larger (?:than|compared)|"
    r"(?:(?<=is )|(?<=slightly ))larger|above|dilat\w+|megaly|broad\w*)"
)

FINDING_WORDS: dict[str, dict[str, re.Pattern]] = {
    "Medical material": {
        "named": _any(
            r"foreign (?:body|bodies|material)[^.;]{0,20}\b(?:medical|representing)|\bdevices?\b|pace-?maker\w*|defibrillator\w*|\bICD\b",
            r"\bleads?\b|electrodes?|catheter\w*|cannula\w*|\bport\b|port-?a-?cath|\bstents?\b|\bstented|sutur\w+|surgical (?:material|clips?|"
            r"wires?)",
            r"\bclips?\b|prosthe\w+|implant(?!ation)\w*|sternotomy|sternal wires?|cerclage|metallic|\bcentral lines?\b|medical (?:material|device)s?",
            r"(?:thora\w+|chest|drainage|feeding|nasogastric|endotracheal|tracheostomy|intubation|pleural) (?:tubes?|drains?)|\bdrains?\b",
            r"\bgrafts?\b|\bcoils?\b|(?:artificial|mechanical) valve|tracheostom\w+",
        )
    },
    "Arterial wall calcification": {
        "named": _any(
            rf"(?<!coronary ){_ARTERY}\b[^.;]{{0,80}}?\b{_LIME}",
            rf"\b{_LIME}[^.;]{{0,90}}?(?<!coronary )(?<!anterior descending )(?<!circumflex )\b{_ARTERY}",
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
            r"\b(?:effusion\w*|fluid)[^.;]{0,80}?pericard\w+",
            r"\bhydrops under the pericard",
        ),
        "subject": _any(r"pericardi\w+"),
    },
    "Coronary artery wall calcification": {
        "named": _any(rf"{_CORONARY}[^.;]{{0,80}}?\b{_LIME}", rf"\b{_LIME}[^.;]{{0,110}}?{_CORONARY}"),
        "subject": _any(r"coronary (?:calcif|arter)"),
    },
    "Hiatal hernia": {
        "named": _any(r"hiat(?:al|us)[^.;]{0,60}?\bherni\w+", r"\bherni\w+[^.;]{0,60}?\bhiat(?:al|us)", r"sliding(?: type)? hernia"),
        "subject": _any(r"hiatal"),
    },
    "Lymphadenopathy": {
        "named": _any(
            r"lymphadenopath\w*|lymphadenomegal\w+|\badenopath\w+|\bLAPs?\b",
            r"(?:enlarged|pathologic\w*|large|conglomerat\w*|necrotic|increased|malignant|metasta\w+)[^.;]{0,40}?\b(?:lymph )?nodes?\b(?! metast)",
            r"\bnodal (?:enlargement|mass|disease|conglomerat\w+)",
            r"lymph nodes?\b[^.;]{0,90}?\b(?:enlarge\w+|exceed\w*|larger|patholog\w+|conglomerat\w+|necrotic|increased in (?:size|number)|large)",
            r"lymph nodes?\b[^.;]{0,120}?\b(?:1[0-9]|[2-9][0-9])(?:[.,]\d)?\s?(?:mm|x)",
            r"lymph nodes?\b[^.;]{0,120}?\b[1-9](?:[.,]\d)?\s?(?:x\s?\d[.,]?\d?\s?)?cm",
        ),
        "subject": _any(r"lymph node|lymphatic|adenopathy"),
    },
    "Emphysema": {"named": _any(r"emphysem\w*|\bbulla\w*|\bbullous|\bblebs?\b|air trapping in the upper")},
    "Atelectasis": {"named": _any(r"(?<!fibro)(?<!fibro-)atelecta?\w*|(?<!fibro)atelectic|\bcollapse[ds]?\b")},
    "Lung nodule": {
        "named": _any(
            r"(?<!acinar )(?<!lobular )nodul(?!ar\b|e-like)\w*",
            r"(?<!acinar )nodular (?:lesion|formation|structure|lung disease)\w*",
        )
    },
    "Lung opacity": {
        "named": _any(
            r"ground[- ]?glass|\bGGOs?\b|opacit\w+|opacif\w+|crazy[- ]paving|hazy|haziness|(?:fuzzy|vague|flocculent) (?:\w+ )?shadow\w*",
            r"^(?!.*(?:sequel|fibro|linear|consolid|band)).*(?:(?:density|attenuation) increase|increased? (?:in )?(?:parenchymal )?density)",
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
            r"peri-?bronch\w+[^.;]{0,110}?thick\w+\b(?! (?:of|in) (?:the )?(?:\w+ )?(?:pleura|sept|fissure))",
            r"thick\w+[^.;]{0,50}?peri-?bronch\w+",
            r"bronch\w+ (?:\w+ )?walls?[^.;]{0,50}?thick\w+",
            r"\bbronchi\b[^.;]{0,140}?\bwall thick\w+",
            r"thick\w+[^.;]{0,30}?bronch\w+ (?:\w+ )?walls?",
            r"thick\w+[^.;]{0,30}?walls? of (?:the )?(?:\w+ ){0,3}bronch\w+|walls? of (?:the )?(?:\w+ ){0,3}bronch\w+[^.;]{0,40}?thick\w+|"
            r"thick bronch\w+ walls?",
            r"bronchial cuffing|peri-?bronchial cuff\w*|thick-?walled bronch\w+",
        )
    },
    "Consolidation": {"named": _any(r"consolidat\w+")},
    "Bronchiectasis": {
        "named": _any(
            r"bronchi?ectas\w+|bronchi?ectatic|dilat\w+[^.;]{0,30}?bronchi\b|bronch(?:i|us|ial)\b[^.;]{0,30}?(?<!not )\b(?:dilat|ectat|"
            r"widen)\w+|signet[- ]ring|\bectatic bronch\w+"
        )
    },
    "Interlobular septal thickening": {
        "named": _any(
            r"inter-?lobular[^.;]{0,40}?sept\w+|sept\w+[^.;]{0,40}?inter-?lobular|sept(?:al|a|um)\b[^.;]{0,30}?thick\w+|"
            r"thick\w+[^.;]{0,30}?\bsept(?:a|al|um)\b|"
            r"kerley|smooth septal|interlobar sept\w+|thick\w+ septa|prominent (?:interlobular )?septa"
        )
    },
}
"""finding -> "named": words that state it (or deny it, in a clause that denies); "subject": the structure that is reported normal instead."""

SEEN_WORDS: dict[str, re.Pattern] = {
    "Lymph nodes": _any(r"\blymph nodes?\b"),
    "Infiltration": _any(r"infiltrat\w+|pneumoni(?:a|c)\b|tree[- ]in[- ]bud|budding tree"),
    "Mass": _any(r"\bmass(?:es)?\b|space[- ]occupying|\btumou?r\w*"),
    "Pleural thickening": _any(r"pleur\w+[^.;]{0,25}\b(?:thick|hypertroph)\w*|thick\w+[^.;]{0,25}\bpleura"),
}
"""Further things that are seen or denied, told apart only where a sentence names none of the 18 findings."""

_ELSEWHERE = (
    r"liver|hepatic|spleen|splenic|kidney\w*|renal|thyroid\w*|adrenal\w*|surrenal\w*|breast|axilla\w*|pancrea\w+|gall|bladder|prostat\w*|"
    r"uter\w+|ovar\w+|"
    r"skin|subcutaneous|cutaneous|parotid|bone|vertebra\w*|stomach|mesenter\w*|omentum|periton\w*|retroareolar|muscle|cerebr\w+|brain|sinus\w*|scalp|"
    r"corpus|colon|goiter|schmorl"
)
_HOLLOW = r"(?:vertebra\w*|gall ?bladder|esophag\w*|stomach|trachea\w*|bronch\w+|bowel|loops?)"
NOT_MEANT: dict[str, re.Pattern] = {
    "Lung nodule": re.compile(
        rf"^(?!.*\b(?:lungs?|pulmonary|lobes?|parenchym\w+|subpleural|fissure|lingula\w*)\b).*\b(?:{_ELSEWHERE})|\b(?:liver|thyroid|kidney|"
        rf"adrenal|spleen|breast)\b", re.I
    ),
    "Lung opacity": re.compile(rf"^(?!.*\b(?:lungs?|pulmonary|lobes?|lingula\w*|subpleural)\b).*\b(?:{_ELSEWHERE}|mediastin\w+|fatty)", re.I),
    "Emphysema": re.compile(r"(?:subcutaneous|soft tissue|mediastin\w+|axilla\w*|pectoral|fatty|surgical|neck)[^.;]*emphysem|"
    r"emphysem\w*[^.;]*(?:subcutaneous|axilla|pectoral|fatty|chest wall)", re.I),
    "Pulmonary fibrotic sequela": re.compile(r"^(?!.*\b(?:lungs?|pulmonary|lobes?|parenchym\w+|pleuro\w+)\b).*\blymph nodes?\b|"
    r"\b(?:kidney\w*|renal|liver|spleen|rib|ribs|fractur\w+|breast|uter\w+|bones?|infarct\w*)\b", re.I),
    "Consolidation": re.compile(r"(?:fractur\w+|callus)", re.I),
    "Atelectasis": re.compile(rf"^(?!.*atelect).*{_HOLLOW}[^.;]*collaps|^(?!.*atelect).*collaps[^.;]*{_HOLLOW}", re.I),
    "Arterial wall calcification": re.compile(
        rf"^(?!.*\b(?:aort(?!ic valve)\w*|carotid\w*|subclavian|supra|iliac|vascular)\b).*(?:{_CORONARY}|\bvalves?\b)|\blymph nodes?\b|"
        rf"thoracic wall", re.I
    ),
    "Medical material": re.compile(r"breast implant|implant[^.;]*breast|prosthe[^.;]*breast|no contrast material|contrast material|portal|"
    r"pulmonary ligament", re.I),
    "Bronchiectasis": re.compile(r"esophag\w+[^.;]*dilat|bile|biliary|duct", re.I),
}  # fmt: skip
"""A finding of the lungs is not meant where only these words stand around it (a nodule of the thyroid)."""

TOPIC_WORDS: dict[str, re.Pattern] = {
    "Airways": _any(r"\btrachea\w*|main bronch\w+|airways?\b"),
    "Great vessels": _any(
        r"mediastinal (?:main |major |great |large )?(?:vascular|vessel)",
        r"great vessels|large vessels|main vascular|\baort\w+|pulmonary (?:arter|trunk)",
    ),
    "Esophagus": _any(r"o?esophag\w+"),
    "Pneumothorax": _any(r"pneumothora\w+|pleural (?:space|cavit)\w*[^.;]*\bair\b"),
    "Bones": _any(r"\bbon[ey]\w*|vertebra\w*|\bribs?\b|skelet\w+|osseous|lytic|fracture"),
    "Upper abdomen": _any(r"abdom\w+|\bliver|spleen|adrenal\w*|kidney\w*|gallbladder|pancrea\w+"),
    "Pleura": _any(r"\bpleura\w*"),
    "Lungs": _any(r"\blungs?\b|\bparenchyma\w*"),
    "Comparison": _any(r"\bcompar\w+|\b(?:previous|prior|preceding|former|earlier) (?:\w+ )?(?:CT|study|exam\w*|scan)"),
    "Technique": _any(r"\bimages?\b|multiplanar|sections (?:of|were|are)|examination covers|windows?\b|contrast|artifacts?|suboptimal|technique"),
    "Chest wall": _any(r"thorax is|chest wall|soft tissues?|thoracic cage|\bskin\b|subcutaneous"),
}
"""Structures that a report calls normal, so that all wordings of it share one key."""
