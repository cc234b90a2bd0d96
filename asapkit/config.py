"""One flat frozen `Config`, one dial `scale`; any field overridden by name; saved beside the weights and read back.

Source: ASAP (arXiv 2606.00602) section 4 for the values at `base`; `small` was tuned on training patients of a phantom cohort on which no claim is
measured (LOG.md).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

STEMS = ("linear", "statistics")
OPTIMISERS = ("recipe", "adamw", "muon")
ENCODERS = ("vit", "swin", "resnet18", "rotary")
ATTENDS = ("volume", "slices")


@dataclass(frozen=True)
class Contract:
    """How voxels become network input: declared once, hashed, used by training, inference and viewing alike."""

    spacing_mm: tuple[float, float, float]
    crop: tuple[int, int, int]  # voxels
    window_hu: tuple[float, float] = (
        -1000.0,
        1000.0,
    )  # clipped, then scaled to [-1, 1]
    resampler: str = "clean"  # clean (area-averaging, half-voxel exact) | official (trilinear as the released code, true affine)
    fit: str = "crop_pad"  # crop_pad | resize
    orientation: str = "RAS"
    version: int = 1

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Config:
    """Every number of a run. `Config.at("small", lr=3e-4)` is the only way to make one."""

    scale: str
    # geometry
    spacing_mm: tuple[float, float, float]
    crop: tuple[int, int, int]
    patch: tuple[int, int, int]  # voxels
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    resampler: str = "clean"
    fit: str = "crop_pad"
    # networks
    encoder: str = "vit"  # vit (the paper) | swin, resnet18 (in stages, MONAI's: for recipes that hide no patches) | rotary (sigvlp's)
    pool: int = 1  # voxels along each axis that a vit averages before it embeds a patch (mrm: 2)
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 768
    decoder_depth: int = 4
    decoder_heads: int = 16
    stem: str = "linear"  # linear (the paper) | statistics (a small network on each patch's HU histogram beside the linear embedding)
    attend: str = "volume"  # volume (every block over all patches) | slices (most blocks within a slice of patches: recipe hlip sets it)
    residual_init: float = 1.0  # factor on the encoder's residual branches at the start; below 1 a shallow budget keeps what the stem says
    decoder_init: float = 1.0  # factor on the image decoder's residual branches and on its answer at the start: for short trainings
    position_scale: float = 1.0  # factor on the encoder's sin-cos code; the decoder, which must place what it restores, keeps it whole
    text_encoder: str = "minilm"  # minilm (packaged) | a Hugging Face folder or hub name, e.g. microsoft/BiomedVLP-CXR-BERT-specialized
    align_width: int = 768
    word_width: int = 768
    word_depth: int = 6
    word_heads: int = 6
    max_tokens: int = 512
    max_sentences: int = 48
    # what is hidden, what is selected
    hide: float = 0.75  # share of patches
    hide_words: float = 0.75
    hide_air_first: bool = False  # patches without body are hidden before any other
    top_k: tuple[int, ...] = (16, 32, 64)  # visible patches, absolute
    # optimisation
    batch_size: int = 16
    accumulate: int = 1
    steps: int = 1000
    warmup: float = 0.1  # share of the steps
    lr: float = 1.5e-4
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float = 1.0
    optimiser: str = "recipe"  # recipe (AdamW unless the recipe asks for another) | adamw | muon
    precision: str = "fp32"  # fp32 | bf16
    seed: int = 0
    augment: bool = True  # random scale crop and intensity jitter; never a left-right flip

    @classmethod
    def at(cls, scale: str, **changes) -> Config:
        """The configuration of a scale with fields changed by name.

        Raises: ValueError for an unknown scale or field (the message lists the known ones).
        """
        if scale not in SCALES:
            raise ValueError(f"unknown scale {scale!r}; there are {', '.join(SCALES)}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"unknown setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        values = SCALES[scale] | OWN_SIZES.get((scale, changes.get("encoder")), {}) | changes
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = cls(scale=scale, **values)
        config.require_ranges()
        if any(c % p for c, p in zip(config.crop, config.patch, strict=True)):
            raise ValueError(f"crop {config.crop} is not a multiple of patch {config.patch}")
        if config.encoder not in ENCODERS:
            raise ValueError(f"unknown encoder {config.encoder!r}; there are {', '.join(ENCODERS)}")
        if config.stem not in STEMS:
            raise ValueError(f"unknown stem {config.stem!r}; there are {', '.join(STEMS)}")
        if config.optimiser not in OPTIMISERS:
            raise ValueError(f"unknown optimiser {config.optimiser!r}; there are {', '.join(OPTIMISERS)}")
        if config.attend not in ATTENDS:
            raise ValueError(f"unknown attend {config.attend!r}; there are {', '.join(ATTENDS)}")
        if config.stem == "statistics" and min(config.patch) < 2:
            raise ValueError(f"stem 'statistics' needs patches of at least 2 voxels along each axis, not {config.patch}")
        return config

    def require_ranges(self) -> None:
        """Raises: ValueError naming the first field whose value makes no training."""
        counted = (
            "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "align_width", "word_width", "word_depth", "word_heads",
            "max_tokens", "max_sentences", "batch_size", "accumulate", "steps", "pool",
        )  # fmt: skip
        for name in counted:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: give a number of at least 1")
        for name in ("spacing_mm", "crop", "patch", "top_k"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or min(value) <= 0:
                raise ValueError(f"{name} {value!r}: give numbers above 0, as 2,4,8")
        for name in ("lr", "hide", "hide_words", "clip_grad"):
            below = math.inf if name in ("lr", "clip_grad") else 1.0
            if not 0.0 < getattr(self, name) < below:
                raise ValueError(f"{name} {getattr(self, name)}: give a number above 0{'' if below == math.inf else ' and below 1'}")
        for name, low, high in (("warmup", 0.0, 1.0), ("weight_decay", 0.0, math.inf), ("seed", 0, 2**63)):
            if not low <= getattr(self, name) < high:
                limit = "" if high == math.inf else f" and below {'1' if high == 1.0 else '2^63'}"
                raise ValueError(f"{name} {getattr(self, name)}: give a {'whole ' if name == 'seed' else ''}number of at least 0{limit}")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas {self.betas}: give two numbers of at least 0 and below 1")
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads"), ("word_width", "word_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{width} {getattr(self, width)} is not a multiple of {heads} {getattr(self, heads)}")

    def volumes_on_each(self, processes: int) -> int:
        """Volumes of a step on each of so many processes, which share a batch evenly.  Raises: ValueError where they cannot."""
        if self.batch_size % processes:
            fitting = math.ceil(self.batch_size / processes) * processes
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of {processes} processes; set batch_size={fitting}")
        return self.batch_size // processes

    @property
    def grid(self) -> tuple[int, int, int]:
        return tuple(c // p for c, p in zip(self.crop, self.patch, strict=True))

    @property
    def patches(self) -> int:
        return int(np.prod(self.grid))

    @property
    def visible(self) -> int:
        return round(self.patches * (1 - self.hide))

    @property
    def patch_mm(self) -> tuple[float, float, float]:
        return tuple(p * s for p, s in zip(self.patch, self.spacing_mm, strict=True))

    @property
    def contract(self) -> Contract:
        return Contract(self.spacing_mm, self.crop, self.window_hu, self.resampler, self.fit)

    def save(self, path: Path) -> None:
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Config:
        values = json.loads(Path(path).read_text())
        return cls.at(values.pop("scale"), **values)


SCALES: dict[str, dict] = {
    "toy": dict(
        spacing_mm=(6.0, 6.0, 12.0), crop=(60, 48, 24), patch=(12, 12, 6), width=48, depth=2, heads=4,
        decoder_width=48, decoder_depth=2, decoder_heads=4, align_width=48, word_width=48, word_depth=1, word_heads=4,
        max_tokens=256, top_k=(1, 2, 4), batch_size=4, steps=4, lr=1e-3,
    ),
    "small": dict(
        spacing_mm=(3.5, 3.5, 7.0), crop=(96, 72, 40), patch=(8, 8, 4), width=96, depth=4, heads=4,
        decoder_width=64, decoder_depth=2, decoder_heads=4, align_width=96, word_width=96, word_depth=2, word_heads=4,
        stem="statistics", residual_init=0.1, position_scale=0.2, max_tokens=320, hide=0.7, hide_air_first=True, top_k=(2, 4, 8),
        batch_size=16, steps=200, lr=1.5e-3,
    ),
    "base": dict(spacing_mm=(1.5, 1.5, 3.0), crop=(224, 224, 112), patch=(16, 16, 8), batch_size=14, steps=100_000),
}  # fmt: skip

OWN_SIZES = {("base", "resnet18"): {"width": 512, "heads": 8}}
"""What a scale is for an encoder whose published sizes are not the ViT's."""
