"""The words of an impression: for each finding, ways to sum up that it is there. Slots as in `phrases`."""

from __future__ import annotations

IMPRESSION: dict[str, tuple[str, ...]] = {
    "Medical material": (
        "Presence of {device}.", "Appearance secondary to {device}.", "Medical material ({device}).", "Status after placement of {device}.",
        "Implanted material consistent with {device}.", "Findings related to {device}.",
    ),
    "Arterial wall calcification": (
        "Calcified atherosclerosis of {at}.", "Atherosclerotic wall calcification in {at}.", "{Mild} calcific atheroma of {at}.",
        "Atheromatous wall calcification of {at}.", "Calcific plaques lining {at}.", "Arterial wall calcification, {mild}, in {at}.",
    ),
    "Cardiomegaly": (
        "{Mild} cardiomegaly.", "{Mild} enlargement of the heart.", "Heart size {mildly} increased.", "Cardiomegaly of {mild} degree.",
        "{Mild} increase in the cardiothoracic ratio.", "Enlarged heart.",
    ),
    "Pericardial effusion": (
        "{Mild} pericardial effusion.", "Pericardial fluid of {mild} amount.", "Effusion in the pericardial space.",
        "Pericardial effusion, {mild}.", "{Mild} fluid around the heart in the pericardium.", "A {mild} amount of pericardial effusion.",
    ),
    "Coronary artery wall calcification": (
        "Coronary artery calcification in {at}.", "{Mild} coronary atherosclerosis with calcification in {at}.",
        "Calcified coronary plaque in {at}.", "Atherosclerotic coronary wall calcification in {at}.",
        "{Mild} calcific coronary artery disease in {at}.", "Coronary calcification of {mild} degree in {at}.",
    ),
    "Hiatal hernia": (
        "Hiatal hernia, {mild}.", "Sliding hiatal hernia of {mild} degree.", "Hiatal hernia behind the heart.",
        "Herniation at the esophageal hiatus.",
        "Gastric herniation through the hiatus, {mild}.", "Hiatus: {mild} hiatal hernia.",
    ),
    "Lymphadenopathy": (
        "Lymphadenopathy {where}.", "Pathological lymph node enlargement {where}.", "Enlarged lymph node presence {where}.",
        "Lymph node of pathological size {where}.", "Nodal enlargement consistent with lymphadenopathy {where}.",
        "{Where}, lymphadenopathy.",
    ),
    "Emphysema": (
        "{Mild} emphysema {where}.", "Emphysematous changes of {mild} degree {where}.", "Emphysema {where}.", "Findings of {mild} emphysema {where}.",
        "{Where}, emphysematous change.", "Emphysematous parenchyma {where}.",
    ),
    "Atelectasis": (
        "{Mild} atelectasis {where}.", "Atelectatic change {where}.", "Subsegmental atelectatic density {where}.", "{Where}, atelectasis.",
        "Band-like atelectasis {where}.", "Atelectatic density of {mild} degree {where}.",
    ),
    "Lung nodule": (
        "Pulmonary nodule presence {where}.", "Nodular lung disease of nonspecific nature {where}.", "Nonspecific nodular lesion {where}.",
        "Parenchymal nodularity {where}.",
        "{Where}, nonspecific nodule presence.",
        "Lung nodule disease {where}, follow-up is recommended.", "Nodular lesion up to {size} {where}.", "Nodularity reaching {size} {where}.",
    ),
    "Lung opacity": (
        "Ground glass opacity {where}.", "{Mild} ground-glass density {where}.", "Ground glass infiltration {where}.",
        "{Where}, ground glass density.",
        "Parenchymal opacity of ground-glass type {where}.", "Hazy ground glass opacification {where}.",
    ),
    "Pulmonary fibrotic sequela": (
        "Fibrotic sequela {where}.", "{Mild} sequela fibrosis {where}.", "Sequela fibrotic bands {where}.", "{Where}, fibrotic sequela changes.",
        "Pleuroparenchymal sequela fibrosis {where}.", "Old fibrotic sequela change {where}.",
    ),
    "Pleural effusion": (
        "Pleural effusion, {mild}, {where}.", "Pleural fluid of {mild} amount {where}.", "Pleural effusion {where}.", "{Where}, pleural effusion.",
        "Free pleural effusion {where}.", "Pleural effusion of {mild} degree {where}.",
    ),
    "Mosaic attenuation pattern": (
        "Mosaic attenuation {where}.", "{Mild} mosaic attenuation pattern {where}.", "Mosaic pattern of attenuation {where}.",
        "{Where}, mosaic attenuation pattern.", "Findings of mosaic attenuation {where}.", "Heterogeneous mosaic attenuation {where}.",
    ),
    "Peribronchial thickening": (
        "Peribronchial thickening {where}.", "{Mild} bronchial wall thickening {where}.", "Peribronchial wall thickening {where}.",
        "{Where}, peribronchial thickening.", "Increase in peribronchial thickness {where}.", "Thickened bronchial walls {where}.",
    ),
    "Consolidation": (
        "Consolidation {where}.", "{Mild} airspace consolidation {where}.", "Consolidative infiltration {where}.", "{Where}, consolidation.",
        "Area of parenchymal consolidation {where}.", "Pneumonic consolidation {where}.",
    ),
    "Bronchiectasis": (
        "Bronchiectasis {where}.", "{Mild} bronchiectatic change {where}.", "Tubular bronchiectasis {where}.", "{Where}, bronchiectasis.",
        "Bronchial dilatation consistent with bronchiectasis {where}.", "Bronchiectatic disease {where}.",
    ),
    "Interlobular septal thickening": (
        "Interlobular septal thickening {where}.", "{Mild} thickening of the interlobular septa {where}.",
        "Septal thickening of interlobular type {where}.",
        "{Where}, interlobular septal thickening.", "Thickened interlobular septa {where}.",
        "Interlobular septal prominence with thickening {where}.",
    ),
}  # fmt: skip
