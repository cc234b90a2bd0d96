"""The words of uncertainty: what a lesion that is there may mean, and what else it may be (a finding that is truly absent)."""

from __future__ import annotations

DOUBT: dict[str, tuple[str, ...]] = {
    "Medical material": (
        "The metallic density described may belong to medical material.", "The hyperdense structure is thought to be a device in part.",
        "The described density could be related to surgical material.", "The origin of the foreign material is uncertain, possibly {device}.",
        "The linear density may correspond to {device}.", "Material in the sections probably represents {device}.",
    ),
    "Arterial wall calcification": (
        "The calcified foci of {at} may represent early atherosclerosis.", "Wall calcification of {at} could be related to age.",
        "The described aortic calcification is probably atherosclerotic.", "The hyperdense foci in {at} possibly represent wall calcification.",
        "Plaque calcification of {at} may be clinically insignificant.", "The calcifications of {at} are suspicious for diffuse atherosclerosis.",
    ),
    "Cardiomegaly": (
        "The size of the heart may represent cardiomegaly.", "The heart appears larger than expected, possibly cardiomegaly.",
        "Cardiac enlargement may be secondary to heart failure.", "The increase in heart size could be related to hypertension.",
        "Cardiomegaly is suspected and echocardiography is recommended.", "The enlarged appearance of the heart may be positional in part.",
    ),
    "Pericardial effusion": (
        "The pericardial fluid may be reactive.", "The density around the heart could represent pericardial effusion.",
        "Pericardial effusion is suspected and echocardiography may be useful.", "Fluid in the pericardial recess possibly represents effusion.",
        "The pericardial effusion is probably secondary to cardiac disease.", "The pericardial fluid could be physiological in part.",
    ),
    "Coronary artery wall calcification": (
        "The coronary calcification may indicate coronary artery disease.", "Hyperdense foci in {at} possibly represent coronary calcification.",
        "The coronary plaque could be hemodynamically significant.", "Calcified coronary plaque is suspicious for coronary artery disease.",
        "Density along {at} probably belongs to coronary calcification.", "The calcification of {at} may warrant cardiological assessment.",
    ),
    "Hiatal hernia": (
        "The soft tissue behind the heart may represent a hiatal hernia.", "The lower esophageal widening is possibly due to hiatal hernia.",
        "A hiatal hernia is suspected and endoscopy may be useful.", "The retrocardiac density is probably a hiatal hernia.",
        "The hiatal hernia could be related to reflux.", "The widened hiatus is suspicious for hiatal hernia.",
    ),
    "Lymphadenopathy": (
        "The lymph node enlargement {where} may be reactive.", "The lymphadenopathy {where} could be related to infection.",
        "Nodal enlargement {where} is suspicious for malignancy.", "The soft tissue density {where} possibly represents lymphadenopathy.",
        "The enlarged lymph node {where} is probably reactive.", "Lymphadenopathy {where} may be metastatic (malignancy?).",
    ),
    "Emphysema": (
        "The lucent areas {where} may represent emphysema.", "Emphysematous change {where} is probably related to smoking.",
        "The low density areas {where} possibly correspond to emphysema.",
        "Emphysema {where} is suspected and pulmonary function tests may be useful.",
        "The emphysema {where} could be of centrilobular type.", "Decreased attenuation {where} is suspicious for emphysema.",
    ),
    "Atelectasis": (
        "The band-like density {where} may represent atelectasis.", "Atelectasis {where} could be due to insufficient inspiration.",
        "The density {where} is probably atelectatic.", "The volume loss {where} possibly represents passive atelectasis.",
        "The atelectatic area {where} may accompany an infection (infection?).", "Linear density {where} is suspicious for atelectasis.",
    ),
    "Lung nodule": (
        "The nodule {where} may be a granuloma.", "The nodular lesion {where} is suspicious for metastasis.",
        "The nodular density {where} possibly represents a parenchymal nodule.", "The nodule {where} could be an intrapulmonary lymph node.",
        "The nodular lesion {where} is probably benign.", "The described nodule {where} may be malignant (metastasis?).",
    ),
    "Lung opacity": (
        "The ground glass density {where} may represent an infectious process.", "Ground-glass opacity {where} could be due to viral pneumonia.",
        "The hazy density {where} is probably of infectious origin.",
        "The ground glass opacity {where} possibly represents edema (pneumonia? edema?).",
        "The ground-glass area {where} is suspicious for pneumonia.", "The faint ground-glass opacity {where} may be secondary to perfusion.",
    ),
    "Pulmonary fibrotic sequela": (
        "The linear densities {where} may represent fibrotic sequela.", "Fibrotic bands {where} are probably sequelae of an old infection.",
        "The scar-like density {where} possibly represents sequela fibrosis.", "The fibrotic sequela {where} could be secondary to tuberculosis.",
        "Streaky fibrotic densities {where} may be a sequela of previous pneumonia.",
        "The reticular change {where} is suspicious for sequela fibrosis.",
    ),
    "Pleural effusion": (
        "The pleural density {where} may represent effusion.", "Pleural effusion {where} could be secondary to heart failure.",
        "The fluid {where} is probably a reactive pleural effusion.", "The pleural fluid {where} possibly accompanies an infection.",
        "Pleural effusion {where} may be parapneumonic (empyema?).", "The dependent density {where} is suspicious for pleural effusion.",
    ),
    "Mosaic attenuation pattern": (
        "The mosaic attenuation {where} may represent small airway disease.", "The mosaic pattern {where} could be due to small vessel disease.",
        "The mosaic attenuation {where} is probably due to air trapping.", "The density differences {where} possibly represent mosaic attenuation.",
        "Mosaic attenuation {where} is suspicious for airway disease (small airway disease? small vessel disease?).",
        "The heterogeneous density {where} may represent a mosaic attenuation pattern.",
    ),
    "Peribronchial thickening": (
        "The peribronchial thickening {where} may represent bronchitis.", "Bronchial wall thickening {where} could be due to airway disease.",
        "The peribronchial density {where} possibly represents wall thickening.", "The peribronchial thickening {where} is probably inflammatory.",
        "Peribronchial thickening {where} is suspicious for chronic bronchitis.", "The thick bronchial walls {where} may accompany asthma (asthma?).",
    ),
    "Consolidation": (
        "The consolidation {where} may represent pneumonia.", "Consolidation {where} could be due to bacterial infection.",
        "The consolidative area {where} is probably pneumonic.", "The dense area {where} possibly represents consolidation.",
        "The consolidation {where} is suspicious for infection (pneumonia?).", "The consolidated area {where} may be due to aspiration.",
    ),
    "Bronchiectasis": (
        "The dilated bronchi {where} may represent traction bronchiectasis.", "Bronchiectasis {where} could be secondary to an old infection.",
        "The bronchial dilatation {where} possibly represents bronchiectasis.", "The bronchiectasis {where} is probably of cylindrical type.",
        "Bronchiectatic change {where} may be congenital.", "The widened bronchi {where} are suspicious for bronchiectasis.",
    ),
    "Interlobular septal thickening": (
        "The interlobular septal thickening {where} may represent edema.", "Thickened interlobular septa {where} could be due to cardiac congestion.",
        "The septal lines {where} possibly represent interlobular septal thickening.",
        "The interlobular septal thickening {where} is probably secondary to edema.",
        "Interlobular septal thickening {where} is suspicious for lymphangitic spread (edema? lymphangitis?).",
        "The prominent septa {where} may accompany interstitial disease.",
    ),
}  # fmt: skip
"""Uncertain sentences about a finding that is there."""

MIMICS: dict[str, tuple[str, ...]] = {
    "Consolidation": ("Atelectasis",),
    "Lung opacity": ("Consolidation",),
    "Lung nodule": ("Pulmonary fibrotic sequela",),
    "Pulmonary fibrotic sequela": ("Atelectasis",),
    "Atelectasis": ("Consolidation", "Pulmonary fibrotic sequela"),
    "Mosaic attenuation pattern": ("Emphysema", "Lung opacity"),
    "Emphysema": ("Mosaic attenuation pattern",),
    "Interlobular septal thickening": ("Lung opacity",),
    "Peribronchial thickening": ("Bronchiectasis",),
    "Bronchiectasis": ("Peribronchial thickening",),
    "Pleural effusion": ("Atelectasis",),
}
"""A finding that is there, and absent findings that it may be mistaken for."""

MIMICRY = (
    "The described change {where} may also represent {other}.", "{Other} cannot be excluded {where}.",
    "The appearance {where} could also be explained by {other}.", "{Where}, accompanying {other} is possible.",
    "Differential diagnosis of the change {where} includes {other}.", "A component of {other} is suspected {where}.",
    "It is uncertain whether {other} is present {where}.",
)  # fmt: skip

NAMES: dict[str, str] = {
    "Atelectasis": "atelectasis", "Consolidation": "consolidation", "Pulmonary fibrotic sequela": "fibrotic sequela", "Emphysema": "emphysema",
    "Lung opacity": "ground-glass opacity", "Mosaic attenuation pattern": "mosaic attenuation", "Bronchiectasis": "bronchiectasis",
    "Peribronchial thickening": "peribronchial thickening",
}  # fmt: skip
