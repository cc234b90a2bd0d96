"""The words of the house: axes, array types, `Scan`, `Volume`, `Batch`, `Losses`, and the one error for unusable input.

Arrays are x, y, z in RAS+: x grows to the patient's Right, y to Anterior, z to Superior. Axis letters have one meaning each:
    B volumes of a batch   X Y Z voxels   N patches of the whole grid, row-major x, y, z   V visible patches   P voxels of a patch
    S sentences of a report (padded)   T text tokens (padded)   D features   O organs (nine, `ORGANS` order)   K selected patches
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Losses = dict[str, Tensor]

LOSSES = ("reconstruct", "organs", "align", "words", "match", "contrast", "normal", "codes", "labels")
"""The words that losses are called by, in the order in which they are shown."""

ORGANS = (
    "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right",
    "heart", "atrial_appendage_left", "esophagus", "aorta",
)  # fmt: skip
"""The nine organs of AKI (TotalSegmentator v2 names); label value in a store = index + 1, 0 is background."""

FINDINGS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion", "Coronary artery wall calcification",
    "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis", "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela",
    "Pleural effusion", "Mosaic attenuation pattern", "Peribronchial thickening", "Consolidation", "Bronchiectasis",
    "Interlobular septal thickening",
)  # fmt: skip
"""The 18 labels of CT-RATE in the order and spelling of its label table."""


class Refused(ValueError):
    """Input that cannot be used. The message is one line: which file or field, what is wrong, what to do."""


@dataclass(frozen=True)
class Scan:
    """One volume on disk with its study's report, labels, patient and optional organ masks. Light and picklable: paths, no voxels."""

    id: str  # unique, no path separators; "train_1_a_1"
    patient: str
    study: str  # all reconstructions of a study share its report
    path: Path
    findings: str = ""
    impression: str = ""
    split: str = "train"
    labels: dict[str, int] = field(default_factory=dict)
    organs: Path | None = None  # multi-label file, or a folder of one mask file per organ
    lesions: Path | None = None  # a mask that a dataset brings, or a folder of them: what is not 0 is lesion
    truth: Path | None = None  # phantom only: uint32, one bit per finding instance; never enters a Batch
    slope: float | None = None  # rescale slope / intercept from a metadata table, to be applied because the file holds stored values
    intercept: float | None = None
    spacing_mm: tuple[float, float, float] | None = None  # from a metadata table; used when the header has none
    extra: dict[str, object] = field(default_factory=dict)  # further columns (time_days, event, severity, kernel ...): numbers, texts, None


@dataclass(frozen=True)
class Volume:
    """Voxels (X, Y, Z), axes in RAS+ order, with the 4 x 4 affine from voxel index to world RAS millimetres."""

    array: np.ndarray
    affine: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return tuple(float(s) for s in np.sqrt((self.affine[:3, :3] ** 2).sum(0)))

    def with_array(
        self,
        array: np.ndarray,
        affine: np.ndarray | None = None,
        warnings: tuple[str, ...] = (),
    ) -> Volume:
        return replace(
            self,
            array=array,
            affine=self.affine if affine is None else affine,
            warnings=self.warnings + warnings,
        )


@dataclass
class Batch:
    """Tensors of one step. Everything random was drawn when the batch was made; nothing here is phantom truth.

    `findings_*` is the text that is aligned, `report_*` (findings and impression) the text whose words are hidden and restored.
    """

    ids: tuple[str, ...]
    image: Float[Tensor, "B 1 X Y Z"]  # HU window scaled to [-1, 1]
    patch_order: Float[Tensor, "B N"]  # one uniform number per patch from the volume's own stream: lowest are visible
    in_body: Bool[Tensor, "B N"]  # patches that hold some of the body, not only air around it
    organs: Float[Tensor, "B N O"]  # share of a patch's voxels in each organ, [0, 1]
    has_organs: Bool[Tensor, " B"]
    lesions: Float[Tensor, "B N"]  # share of a patch's voxels that a dataset marked as lesion
    has_lesions: Bool[Tensor, " B"]
    labels: Float[Tensor, "B F"]  # 1 present, 0 absent, -1 unknown, `FINDINGS` order
    findings_tokens: Int[Tensor, "B T"]
    findings_real: Bool[Tensor, "B T"]  # not padding
    findings_sentence: Int[Tensor, "B T"]  # sentence index of a token, -1 none (CLS, SEP, padding)
    sentence_real: Bool[Tensor, "B S"]
    sentence_meaning: Int[Tensor, "B S"]  # sentences with the same number say the same, whatever the batch; -1 padding
    sentence_positive: Bool[Tensor, "B S"]  # states that something is there (not a denial, a doubt or normal anatomy)
    sentence_organs: Bool[Tensor, "B S O"]  # organs that the sentence may speak of (all True where it names none)
    report_tokens: Int[Tensor, "B R"]
    report_real: Bool[Tensor, "B R"]
    report_special: Bool[Tensor, "B R"]  # CLS, SEP: never hidden
    report_order: Float[Tensor, "B R"]  # one uniform number per position: lowest real words are hidden

    def to(self, device: torch.device | str) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which `to` copies beside a GPU's work; a loader with pin_memory=True calls it."""
        return replace(self, **{f.name: value.pin_memory() for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)})

    @property
    def names_organs(self) -> Bool[Tensor, "B S"]:
        """Sentences that name an organ; of one that names none, `sentence_organs` says all."""
        return ~self.sentence_organs.all(-1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, volumes: slice) -> Batch:
        """Some of the volumes."""
        return Batch(**{f.name: getattr(self, f.name)[volumes] for f in fields(self)})
