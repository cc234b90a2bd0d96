"""The words of positive statements: for each finding, ways to say that it is there; words for devices and severity.

Slots: {where} "in the right upper lobe", {Where} the same at the start of a sentence, {at} "the right upper lobe", {mild} a word for the
severity, {size} "7 mm", {count} "two" or "several", {device} a device with its article. `one` speaks of one lesion, `many` of several, `any`
of either. A template is used only where all its slots are known. Every finding has at least six that need neither size nor count.
"""

from __future__ import annotations

POSITIVE: dict[str, dict[str, tuple[str, ...]]] = {
    "Medical material": {
        "any": (
            "The appearance of {device} is observed in the sections.",
            "Metallic density that belongs to {device} is present.",
            "There is an image compatible with {device}.",
            "Hyperdense foreign material representing {device} is seen within the examined area.",
            "It is understood that the patient carries {device}.",
            "The course of {device} can be followed in the images.",
            "Streak artifact arising from {device} is noted.",
            "Medical material in the form of {device} draws attention.",
        ),
    },
    "Arterial wall calcification": {
        "any": (
            "{Mild} calcific atheroma plaques are observed along the wall of {at}.",
            "Wall calcification of {mild} degree is present in {at}.",
            "There are {mild} atherosclerotic calcifications lining {at}.",
            "Hyperdense plaque calcification is visible in the wall of {at}.",
            "Atheromatous change with {mild} mural calcification is noted in {at}.",
            "The wall of {at} contains {mild} calcified plaque.",
            "Calcified atherosclerotic plaques draw attention in {at}.",
            "Calcific plaque formations up to {size} long are present on the wall of {at}.",
        ),
    },
    "Cardiomegaly": {
        "any": (
            "The heart appears {mildly} enlarged as a whole.",
            "There is {mild} cardiomegaly.",
            "The cardiothoracic ratio is {mildly} increased in favor of the heart.",
            "Heart dimensions are above normal limits to a {mild} degree.",
            "{Mild} enlargement of the cardiac chambers is observed.",
            "The transverse diameter of the heart shows a {mild} increase.",
            "Heart size is {mildly} larger than expected.",
            "Cardiac enlargement of {mild} degree is seen, with a transverse diameter of {size}.",
        ),
    },
    "Pericardial effusion": {
        "any": (
            "{Mild} pericardial effusion is observed around the heart.",
            "There is {mild} fluid between the pericardial leaves.",
            "Fluid of {mild} amount is present in the pericardial space.",
            "A {mild} amount of pericardial effusion is seen surrounding the heart.",
            "The pericardial cavity contains a {mild} effusion.",
            "{Mild} pericardial fluid collection is noted.",
            "Pericardial effusion measuring {size} at its thickest point is present.",
            "An effusion reaching {size} in thickness is observed in the pericardial space.",
        ),
    },
    "Coronary artery wall calcification": {
        "any": (
            "{Mild} calcific plaques are observed in the wall of {at}.",
            "Coronary wall calcification of {mild} degree is present in {at}.",
            "There are {mild} atheromatous calcifications along the course of {at}.",
            "Calcified coronary plaque is visible in {at}.",
            "Coronary atherosclerosis with {mild} calcification is noted in {at}.",
            "The wall of {at} shows {mild} calcified coronary plaque.",
            "Hyperdense calcific foci of coronary atherosclerosis draw attention in {at}.",
        ),
    },
    "Hiatal hernia": {
        "any": (
            "A {mild} hiatal hernia is observed at the lower end of the esophagus.",
            "There is a sliding type hiatal hernia of {mild} degree.",
            "Herniation of the gastric fundus through the esophageal hiatus is seen.",
            "Part of the stomach protrudes above the diaphragm, consistent with a {mild} hiatal hernia.",
            "The esophagogastric junction lies above the diaphragm in keeping with hiatal hernia.",
            "{Mild} hiatal herniation is present behind the heart.",
            "A hiatal hernia with a diameter of {size} is noted.",
            "A {mild} hernia sac measuring {size} is observed at the esophageal hiatus.",
        ),
    },
    "Lymphadenopathy": {
        "one": (
            "An enlarged lymph node is observed {where}.",
            "There is a lymph node of pathological size {where}.",
            "{Where}, a pathologically enlarged lymph node is present.",
            "A lymph node larger than normal draws attention {where}.",
            "Lymphadenopathy is noted {where}.",
            "An enlarged node consistent with lymphadenopathy is seen {where}.",
            "A lymph node measuring {size} in its short axis is observed {where}.",
            "A pathological lymph node with a short diameter of {size} is present {where}.",
        ),
        "many": (
            "Enlarged lymph nodes are observed {where}.",
            "There are {count} lymph nodes of pathological size {where}.",
            "{Where}, {count} pathologically enlarged lymph nodes are present.",
            "Lymph nodes larger than normal draw attention {where}.",
            "{Count} lymphadenopathies are noted {where}.",
            "Multiple enlarged nodes consistent with lymphadenopathy are seen {where}.",
            "{Count} lymph nodes are observed {where}, the largest with a short axis of {size}.",
            "Pathological lymph nodes reaching {size} in short diameter are present {where}.",
        ),
    },
    "Emphysema": {
        "any": (
            "{Mild} emphysematous change is observed {where}.",
            "There are areas of {mild} emphysema {where}.",
            "{Where}, parenchymal lucencies consistent with {mild} emphysema are seen.",
            "Centriacinar lucent areas in keeping with {mild} emphysema are present {where}.",
            "Emphysematous destruction of {mild} degree is noted {where}.",
            "Wall-less low attenuation areas typical of emphysema are present {where}.",
            "Loss of parenchymal density due to {mild} emphysema is evident {where}.",
            "The parenchyma of {at} shows {mild} emphysema.",
        ),
    },
    "Atelectasis": {
        "any": (
            "{Mild} atelectasis is observed {where}.",
            "There is an atelectatic area of {mild} extent {where}.",
            "{Where}, volume loss with {mild} atelectasis is seen.",
            "Subsegmental atelectatic change is present {where}.",
            "Band-like density consistent with atelectasis is noted {where}.",
            "Passive atelectatic density of {mild} degree draws attention {where}.",
            "The parenchyma of {at} shows {mild} atelectasis.",
            "Atelectasis with a thickness of {size} is observed {where}.",
        ),
    },
    "Lung nodule": {
        "one": (
            "A pulmonary nodule is observed {where}.",
            "There is a nonspecific parenchymal nodule {where}.",
            "{Where}, a solitary well-circumscribed nodule is seen.",
            "A solid nodule draws attention {where}.",
            "A round nodular lesion is present {where}.",
            "A single parenchymal nodule is noted {where}.",
            "A nodule measuring {size} in diameter is observed {where}.",
            "{Where}, a nodule with a diameter of {size} is present.",
            "There is a {size} solid nodule {where}.",
            "A nonspecific nodule of approximately {size} is seen {where}.",
        ),
        "many": (
            "{Count} pulmonary nodules are observed {where}.",
            "There are {count} nonspecific parenchymal nodules {where}.",
            "{Where}, {count} well-circumscribed nodules are seen.",
            "{Count} solid nodules draw attention {where}.",
            "{Count} round nodular lesions are present {where}.",
            "Parenchymal nodules, {count} in number, are noted {where}.",
            "{Count} nodules are observed {where}, the largest of which measures {size} in diameter.",
            "{Where}, {count} nodules with a diameter of up to {size} are present.",
            "There are {count} nodules {where}, the largest being approximately {size}.",
            "Nodules of different sizes, the biggest {size}, are seen {where}.",
        ),
    },
    "Lung opacity": {
        "any": (
            "{Mild} ground glass density is observed {where}.",
            "There is a ground-glass opacity of {mild} extent {where}.",
            "{Where}, {mild} ground glass opacification with preserved vessels is seen.",
            "A hazy increase in parenchymal density of ground glass type is present {where}.",
            "Ground-glass appearance of {mild} degree draws attention {where}.",
            "The parenchyma of {at} contains {mild} ground-glass opacity.",
            "An area of faintly increased density, of ground glass character, is noted {where}.",
            "A ground glass area measuring {size} is observed {where}.",
        ),
    },
    "Pulmonary fibrotic sequela": {
        "any": (
            "{Mild} fibrotic sequela changes are observed {where}.",
            "There are sequela parenchymal bands {where}.",
            "{Where}, linear fibrotic densities of sequela nature are seen.",
            "Pleuroparenchymal sequela fibrosis of {mild} degree is present {where}.",
            "Fibrotic recessions and streaks evaluated as sequelae draw attention {where}.",
            "The parenchyma of {at} shows {mild} sequela fibrosis.",
            "Scar-like fibrotic bands are noted {where}.",
            "A fibrotic sequela band measuring {size} is observed {where}.",
        ),
    },
    "Pleural effusion": {
        "any": (
            "A pleural effusion of {mild} size is observed {where}.",
            "There is {mild} pleural fluid {where}.",
            "{Where}, an effusion of {mild} amount is seen between the pleural leaves.",
            "A {mild} amount of free pleural fluid is present {where}.",
            "Pleural effusion of {mild} extent draws attention {where}.",
            "Fluid consistent with {mild} pleural effusion is noted {where}.",
            "Pleural effusion reaching {size} in thickness is observed {where}.",
            "{Where}, pleural effusion measuring {size} at its deepest point is present.",
        ),
    },
    "Mosaic attenuation pattern": {
        "any": (
            "{Mild} mosaic attenuation is observed {where}.",
            "There is a mosaic attenuation pattern of {mild} degree {where}.",
            "{Where}, patchy alternation of lighter and darker parenchyma in a mosaic pattern is seen.",
            "Heterogeneous aeration with a mosaic attenuation pattern is present {where}.",
            "A mosaic pattern of attenuation draws attention {where}.",
            "The parenchyma of {at} has a {mild} mosaic attenuation pattern.",
            "Geographic density differences forming a mosaic attenuation pattern are noted {where}.",
        ),
    },
    "Peribronchial thickening": {
        "any": (
            "{Mild} peribronchial thickening is observed {where}.",
            "There is {mild} thickening of the bronchial walls {where}.",
            "{Where}, the walls of the bronchi are {mildly} thickened.",
            "Increased peribronchial wall thickness of {mild} degree is present {where}.",
            "Peribronchial cuffing with {mild} wall thickening draws attention {where}.",
            "The bronchi of {at} show {mild} wall thickening.",
            "Thickened peribronchial sheaths are noted {where}.",
        ),
    },
    "Consolidation": {
        "any": (
            "{Mild} consolidation is observed {where}.",
            "There is a consolidated area of {mild} extent {where}.",
            "{Where}, a dense consolidation that obscures the vessels is seen.",
            "Airspace consolidation containing air bronchograms is present {where}.",
            "A consolidative density of {mild} degree draws attention {where}.",
            "The parenchyma of {at} shows {mild} consolidation.",
            "Homogeneous consolidation is noted {where}.",
            "A consolidation area with a diameter of {size} is observed {where}.",
        ),
    },
    "Bronchiectasis": {
        "any": (
            "{Mild} bronchiectasis is observed {where}.",
            "There are {mildly} dilated bronchi consistent with bronchiectasis {where}.",
            "{Where}, bronchiectatic changes of {mild} degree are seen.",
            "Tubular bronchiectasis is present {where}.",
            "Bronchial dilatation in keeping with {mild} bronchiectasis draws attention {where}.",
            "The bronchi of {at} show {mild} bronchiectatic enlargement.",
            "Ectatic bronchi wider than the accompanying vessels are noted {where}.",
        ),
    },
    "Interlobular septal thickening": {
        "any": (
            "{Mild} interlobular septal thickening is observed {where}.",
            "There is {mild} thickening of the interlobular septa {where}.",
            "{Where}, the interlobular septa are {mildly} thickened.",
            "Smooth septal lines due to interlobular septal thickening are present {where}.",
            "Prominent interlobular septa of {mild} degree draw attention {where}.",
            "The interlobular septa of {at} show {mild} thickening.",
            "A fine network of thickened interlobular septa is noted {where}.",
        ),
    },
}  # fmt: skip

DEVICES: dict[str, tuple[str, ...]] = {
    "pacemaker": ("a cardiac pacemaker", "a pacemaker with its electrodes", "a pacemaker lead extending to the heart"),
    "central venous catheter": ("a central venous catheter", "a venous catheter ending in the superior vena cava", "a central line"),
    "sternal wires": ("sternotomy wires", "metallic sternal sutures", "sternal cerclage wires"),
    "coronary stent": ("a coronary stent", "a metallic stent in the coronary artery"),
    "port": ("a port catheter", "a venous port", "an implanted port"),
    "valve prosthesis": ("a prosthetic heart valve", "a metallic valve prosthesis"),
    "nasogastric tube": ("a nasogastric tube", "a feeding tube passing to the stomach"),
    "surgical clips": ("surgical clips", "metallic surgical clips"),
}  # fmt: skip
"""Words for a device; a place that is not listed is used as it stands."""

SEVERITY_WORDS = {
    1: ("mild", "slight", "minimal"),
    2: ("moderate", "moderate", "medium-grade"),
    3: ("marked", "severe", "pronounced"),
}
SEVERITY_ADVERBS = {1: ("mildly", "slightly", "minimally"), 2: ("moderately",), 3: ("markedly", "severely", "considerably")}
