"""The words of what is not there: denials of each finding, statements of normal anatomy, opening remarks and empty impressions.

A denial may be used only where its finding is truly absent; a normal statement only where every finding of its `unless` is.
"""

from __future__ import annotations

from ..types import FINDINGS

NEGATIVE: dict[str, tuple[str, ...]] = {
    "Medical material": (
        "No medical device or implanted material is seen in the sections.", "There is no catheter, electrode or stent within the examined area.",
        "No foreign body of medical origin was detected.", "Implanted medical material was not observed in the study.",
        "Neither surgical material nor a device is visible in the field of view.", "The sections are free of metallic medical material.",
    ),
    "Arterial wall calcification": (
        "No calcified plaque was detected along the aortic wall.", "The wall of the thoracic aorta shows no calcification.",
        "There is no atherosclerotic calcification in the aorta or its branches.", "Aortic wall calcification was not observed.",
        "The aortic wall is smooth and without calcific plaque.", "Calcific atheroma is absent in the thoracic aorta.",
    ),
    "Cardiomegaly": (
        "There is no cardiomegaly.", "No enlargement of the cardiac chambers was detected.", "The heart is not enlarged.",
        "Cardiac enlargement was not observed.", "No increase in the cardiothoracic ratio is seen.", "Cardiomegaly is absent.",
    ),
    "Pericardial effusion": (
        "No fluid is seen in the pericardial space.", "There is no effusion or thickening of the pericardium.",
        "The pericardial cavity is free of effusion.", "No pericardial fluid collection was detected around the heart.",
        "Pericardial effusion is absent in this study.", "Neither pericardial thickening nor pericardial effusion is seen.",
    ),
    "Coronary artery wall calcification": (
        "No calcification was detected in the coronary arteries.", "The coronary arteries show no calcified plaque.",
        "There is no coronary wall calcification.", "Coronary calcification was not observed in this study.",
        "Calcific plaque is absent along the coronary arteries.", "The coronary artery walls are free of calcification.",
    ),
    "Hiatal hernia": (
        "No hiatal hernia was detected.", "There is no herniation at the esophageal hiatus.",
        "The stomach lies below the diaphragm without hiatal hernia.",
        "Hiatal hernia is absent at the lower end of the esophagus.", "Hiatal herniation was not observed in the sections.",
        "The esophageal hiatus is of normal width and without hernia.",
    ),
    "Lymphadenopathy": (
        "No lymph node of pathological size is seen in the mediastinum or the hilar regions.", "There is no mediastinal or axillary lymphadenopathy.",
        "Enlarged mediastinal lymph nodes were not detected in this study.", "The mediastinum contains no lymph node that exceeds normal limits.",
        "Lymphadenopathy was not observed in the paratracheal, subcarinal or hilar stations.",
        "No pathologically enlarged lymph node is visible in either axilla or the mediastinum.",
    ),
    "Emphysema": (
        "No emphysematous area was detected in the lungs.", "There is no emphysema in either lung.",
        "Emphysematous change was not observed in the parenchyma.",
        "The lung parenchyma shows no sign of emphysema.", "Emphysema or bulla formation is absent.",
        "Neither lung contains emphysematous lucencies.",
    ),
    "Atelectasis": (
        "No atelectasis was detected in the lung parenchyma.", "There is no atelectatic area in either lung.",
        "Atelectatic change was not observed at the lung bases.",
        "Both lungs are fully expanded without atelectasis.", "Atelectasis is absent on both sides.", "No volume loss or atelectasis is visible.",
    ),
    "Lung nodule": (
        "No nodule was detected in the lung parenchyma on either side.", "There is no nodular lesion in either lung.",
        "A pulmonary nodule was not observed in this study.",
        "Both lungs are free of nodules.", "No suspicious pulmonary nodule is visible in the parenchyma.",
        "Nodular formation is absent in both lungs.",
    ),
    "Lung opacity": (
        "No ground-glass opacity was detected in the lungs.", "There is no ground glass density in either lung.",
        "Ground-glass opacification was not observed in the parenchyma.", "The lung parenchyma contains no ground glass area.",
        "Ground glass opacity is absent on both sides.", "Neither lung shows a ground-glass increase in density.",
    ),
    "Pulmonary fibrotic sequela": (
        "No fibrotic sequela was detected in the lungs.", "There is no sequela fibrosis or scar in either lung.",
        "Fibrotic sequela change was not observed in the parenchyma.", "The parenchyma contains no fibrotic band.",
        "Sequela fibrosis is absent in both lungs.", "Neither lung shows fibrotic scarring or sequela.",
    ),
    "Pleural effusion": (
        "No fluid is seen between the pleural leaves on either side.", "There is no pleural effusion in either hemithorax.",
        "Both pleural spaces are free of effusion.", "Pleural fluid was not observed on the right or on the left.",
        "Pleural effusion is absent bilaterally.", "Neither pleural effusion nor pleural thickening is visible.",
    ),
    "Mosaic attenuation pattern": (
        "No mosaic attenuation was detected in the lungs.", "There is no mosaic pattern in either lung.",
        "A mosaic attenuation pattern was not observed in the parenchyma.",
        "Parenchymal attenuation is homogeneous without a mosaic pattern.", "Mosaic attenuation is absent in both lungs.",
        "Neither lung shows mosaic attenuation.",
    ),
    "Peribronchial thickening": (
        "No peribronchial thickening was detected.", "There is no thickening of the bronchial walls.",
        "Peribronchial wall thickening was not observed in either lung.",
        "The bronchial walls are thin and without peribronchial thickening.", "Peribronchial thickening is absent on both sides.",
        "Neither lung shows peribronchial cuffing or wall thickening.",
    ),
    "Consolidation": (
        "No consolidation was detected in the lung parenchyma on either side.", "There is no consolidated area in either lung.",
        "Consolidation was not observed in the parenchyma of either lung.",
        "Both lungs are free of airspace consolidation.", "Parenchymal consolidation is absent on both sides.",
        "Neither lung contains a consolidation.",
    ),
    "Bronchiectasis": (
        "No bronchiectasis was detected in the lungs.", "There is no bronchiectatic change in either lung.",
        "Bronchial dilatation or bronchiectasis was not observed.",
        "The segmental bronchi are of normal width without bronchiectasis.", "Bronchiectasis is absent on both sides.",
        "Neither lung shows bronchiectatic bronchi.",
    ),
    "Interlobular septal thickening": (
        "No thickening of the interlobular septa was detected.", "There is no interlobular septal thickening in either lung.",
        "Interlobular septal thickening was not observed in the parenchyma.", "The interlobular septa are thin and not thickened.",
        "Interlobular septal thickening is absent on both sides.", "Neither lung shows thickened interlobular septa.",
    ),
}  # fmt: skip

_LUNG_FINDINGS = FINDINGS[7:12] + FINDINGS[13:]
_INFILTRATES = ("Lung opacity", "Consolidation", "Atelectasis", "Interlobular septal thickening")

# topic: (anatomy group, findings that forbid it, sentences)
NORMAL: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "trachea": ("airway", (), (
        "The trachea lies in the midline and its lumen is open.", "Trachea and main bronchi are patent on both sides.",
        "The lumen of the trachea and of both main bronchi is clear.", "Central airways are open and of normal caliber.",
        "No obstruction is seen in the trachea or the main bronchi.", "The main bronchi are open down to the lobar level.",
        "Tracheal air column and both main bronchi have a natural appearance.",
    )),
    "vessels": ("vessels", (), (
        "The calibers of the large mediastinal vessels are within normal limits.", "The thoracic aorta has a normal diameter.",
        "The main mediastinal vascular structures are of ordinary width.", "No aneurysmal widening of the aorta is present.",
        "Aortic arch, ascending and descending aorta are of normal caliber.", "The great vessels of the mediastinum have a natural width.",
    )),
    "pulmonary artery": ("vessels", (), (
        "The pulmonary trunk is of normal width.", "The pulmonary arteries have a normal diameter.",
        "No dilatation of the main pulmonary artery is seen.",
        "The caliber of the pulmonary arteries is within the expected range.", "Both main pulmonary arteries are of natural width.",
        "The diameter of the pulmonary trunk is not increased.",
    )),
    "heart": ("heart", ("Cardiomegaly",), (
        "The size and contours of the heart are normal.", "Heart dimensions are within normal limits.",
        "The heart has a natural size and configuration.",
        "The cardiothoracic index is within the normal range.", "Cardiac size and shape are unremarkable.",
        "The heart shows a normal contour and normal dimensions.",
    )),
    "esophagus": ("esophagus", ("Hiatal hernia",), (
        "The thoracic esophagus has a normal wall thickness and caliber.", "The esophagus is unremarkable along its course.",
        "No wall thickening of the esophagus is present.", "Esophageal wall thickness is within normal limits in all sections.",
        "The esophagus follows its usual course and shows no mass.", "The caliber of the thoracic esophagus is natural.",
    )),
    "aeration": ("lungs", _LUNG_FINDINGS, (
        "Aeration of the lung parenchyma is normal on both sides.", "Both lungs are well aerated and clear.",
        "The parenchyma of both lungs has a natural appearance.",
        "Lung parenchyma is unremarkable on both sides.", "The lungs show normal ventilation throughout.",
        "Both lungs are clear in the parenchymal window.",
    )),
    "infiltration": ("lungs", _INFILTRATES, (
        "No active infiltration is visible in the lung parenchyma.", "There is no sign of pneumonic infiltration in either lung.",
        "Active parenchymal disease was not detected in the lungs.", "The lungs show no infiltrative process.",
        "An active infectious infiltrate is not present in the lung parenchyma.", "No infiltrative lesion draws attention in either lung.",
    )),
    "pneumothorax": ("pleura", (), (
        "There is no pneumothorax on either side.", "No free air is seen in the pleural space.", "Pneumothorax was not detected in this study.",
        "The pleural spaces contain no air.", "No pneumothorax is visible in either hemithorax.", "Neither hemithorax shows pneumothorax.",
    )),
    "abdomen": ("abdomen", (), (
        "The upper abdominal organs that enter the sections are unremarkable.", "No focal lesion is seen in the visible part of the liver.",
        "Both adrenal glands have a normal size in the sections.", "The imaged part of the upper abdomen is natural.",
        "Liver and spleen show no pathology as far as they are included.", "There is no free fluid in the visible upper abdomen.",
        "The included portion of the liver has a homogeneous density.",
    )),
    "bones": ("bones", (), (
        "The bones of the thorax show no destructive lesion.", "Vertebral bodies are of normal height and alignment.",
        "No lytic or sclerotic focus is seen in the ribs.",
        "Bone structures in the examined area are intact.", "The thoracic vertebrae and the sternum are unremarkable.",
        "There is no fracture in the visible bony structures.",
        "Vertebral corpus heights are maintained and no bone lesion is present.",
    )),
    "chest wall": ("bones", (), (
        "The soft tissues of the chest wall are natural.", "No mass is seen in the chest wall.", "Skin and subcutaneous tissues are unremarkable.",
        "The muscles of the thoracic wall are symmetrical.", "The chest wall has an ordinary appearance on both sides.",
        "No soft tissue lesion is visible in the chest wall.",
    )),
}  # fmt: skip

OPENING = (
    "The study was evaluated in the mediastinal, lung and bone windows.", "Axial sections of the thorax were examined.",
    "The examination covers the thorax from the apices to the upper abdomen.", "Image quality is sufficient for evaluation.",
    "Sections of the thorax were obtained in a single breath hold.", "Multiplanar images of the chest were reviewed.",
)  # fmt: skip

COMPARISON = (
    "The study was compared with the previous CT of the patient.", "The earlier examination of the patient was available for comparison.",
    "Evaluation was made together with the preceding chest CT.", "Comparison was made with the prior thorax CT.",
    "The images were reviewed side by side with the former study.", "The patient's previous CT was used as reference.",
)  # fmt: skip

NO_FINDING = (
    "No active finding.", "No active disease of the thorax.", "Thorax CT without pathological finding.", "Normal chest CT.",
    "No acute intrathoracic pathology.", "Chest CT within the normal range.", "No significant abnormality in the thorax.",
)  # fmt: skip
"""Impressions of a study with no finding."""
