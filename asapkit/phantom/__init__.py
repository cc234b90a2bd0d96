"""The embedded cohort: procedural chest CT in HU with organs, findings, reports, and the voxel-exact truth of every sentence.

`anatomy` draws a patient, `findings` draws disease into it, `sentences` writes the report from the truth, `cohort` writes it all to disk
in CT-RATE's layout. Same seed and `VERSION`, same bytes; any change that alters a byte bumps `VERSION`.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSION = 5
SIDES = ("left", "right", "both", "none")
SEVERITIES = ("mild", "moderate", "severe")  # Instance.severity 1, 2, 3


@dataclass(frozen=True)
class Instance:
    """One finding instance: what the truth knows of it. Bit `bit` of `truth/<id>.nii.gz` marks its voxels."""

    finding: str  # one of `types.FINDINGS`
    bit: int  # 0..31
    side: str  # one of SIDES
    lobe: str  # a lobe of `types.ORGANS`, or "" for what is in no lobe or in several
    place: str  # what it lies in, in words: "right upper lobe", "aorta", "left anterior descending artery", "subcarinal", "pacemaker"
    severity: int  # 1 mild, 2 moderate, 3 severe
    count: int = 1  # lesions that this instance stands for (nodules in a lobe, plaques on a vessel)
    size_mm: float = float("nan")  # largest diameter or thickness, measured on the geometry; nan where reports give none
