"""Rows of the table about data: preprocessing, items of a training, report text, effective rank."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from asapkit import analysis, ct, organs, store
from asapkit import batch as batches
from asapkit.config import Config, Contract
from asapkit.datasets import ct_rate
from asapkit.language import tokenizer
from asapkit.masking import hidden_words
from asapkit.phantom import cohort
from asapkit.reports import meanings
from asapkit.types import Volume
from benchmarks import reference_data
from benchmarks.measure import Row, compared, rounds
from benchmarks.reference import released_labels

FINDINGS = (
    "Trachea and both main bronchi are open. Heart size is normal. Calcified atheroma plaques up to {n} mm are observed in the aortic arch. "
    "There is no pericardial effusion. Lymph nodes are seen in the mediastinum, the largest measuring {n}.5 mm in short diameter. "
    "When examined in the lung window, a nodule of {n} mm is observed in segment 5. There is a pleural effusion on the left reaching {n}.25 mm. "
    "Linear atelectasis of {n} mm is observed in both lower lobes. A simple cyst of {n} mm was seen in the liver. Osteophytes reach {n} mm."
)
"""Six of ten sentences differ between any two reports, as about two thirds do in real ones."""
BATCH = 8
"""Reports of a step."""
IMPRESSION = "Atherosclerosis. Nodule in the right middle lobe. Left pleural effusion."
SIZES = ((512, 512, 300), (96, 80, 70))
"""Voxels of the scan that is preprocessed, full and quick."""


@dataclass
class Folder:
    """What the rows read, written to a temporary folder when first asked for."""

    path: Path
    quick: bool

    @property
    def config(self) -> Config:
        return Config.at("toy" if self.quick else "base")

    def scan(self, *, axes: str) -> Path:
        """A made CT as .nii.gz, stored in RAS or LPS order."""
        file = self.path / f"{axes}.nii.gz"
        if not file.exists():
            shape = SIZES[self.quick]
            spacing = np.array([350, 350, 360]) / shape
            sign = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}[axes]
            _write(file, made_ct(shape), np.diag([*(spacing * sign), 1.0]))
        return file

    @cached_property
    def store(self) -> store.Store:
        """One phantom patient with organs at the contract's spacing."""
        dataset = cohort.make(self.path / "cohort", volumes=1, seed=0, scale=self.config.scale)
        store.write(ct_rate.scans(dataset), self.path / "store", config=self.config, progress=False)
        return store.open(self.path / "store")

    @cached_property
    def files(self) -> dict[str, str]:
        """The store's arrays as the released code keeps them: .nii.gz, labels 0 to 8."""
        import torch

        (id,) = self.store.ids
        arrays = {"image": self.store.ct(id), "organs": released_labels(torch.from_numpy(self.store.organs(id))).numpy().astype(np.uint8)}
        for name, array in arrays.items():
            _write(self.path / f"released_{name}.nii.gz", array, self.store.affine(id))
        return {name: str(self.path / f"released_{name}.nii.gz") for name in arrays}


def made_ct(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth tissue with noise of 20 HU, int16."""
    from scipy.ndimage import zoom

    rng = np.random.default_rng(0)
    coarse = rng.normal(-300, 500, tuple(-(-n // 32) + 1 for n in shape)).astype(np.float32)
    smooth = zoom(coarse, [n / c for n, c in zip(shape, coarse.shape, strict=True)], order=1)
    return (smooth + 20 * rng.standard_normal(smooth.shape, dtype=np.float32)).clip(-1024, 3000).astype(np.int16)


def _write(file: Path, array: np.ndarray, affine: np.ndarray) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(array, affine), file)


def preprocess(quick: bool, count: int) -> list[Row]:
    """One scan on disk to int16 HU at the contract's spacing, by the released grid and values."""
    contract = Contract(spacing_mm=(1.5, 1.5, 3.0), crop=(224, 224, 112), resampler="official")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place), quick)
        for axes, asked in (("LPS", 5.0), ("RAS", 3.0)):
            file = folder.scan(axes=axes)
            found = {}
            t = rounds({
                "released": lambda file=file, found=found: found.update(released=reference_data.preprocess(file, contract)),
                "ours": lambda file=file, found=found: found.update(ours=ours_preprocess(file, contract)),
            }, count=max(count, 7))  # fmt: skip
            apart = np.abs(found["ours"].array.astype(int) - found["released"]).max()
            name = f"preprocess {'x'.join(map(str, SIZES[quick]))} .nii.gz, {axes}"
            rows.append(compared(name, t["released"], t["ours"], at_least=asked, note=f"at most {apart} HU apart"))
    return rows


def ours_preprocess(file: Path, contract: Contract) -> Volume:
    return ct.to_contract(ct.read(file), contract)


def item(quick: bool, count: int) -> list[Row]:
    """One item of a training: the released code reads .nii.gz and hands voxel labels on, ours reads the store and counts organ shares as well."""
    epochs = itertools.count()  # other random numbers every time
    with tempfile.TemporaryDirectory() as place:
        folder = Folder(Path(place), quick)
        files, items = folder.files, batches.Items(folder.store, folder.config)
        made = reference_data.transforms(folder.config)
        t = rounds({"released": lambda: made(dict(files)), "ours": lambda: items[folder.store.ids[0], next(epochs)]}, count=max(count, 15))
        note = "equal with randomness off" if equal_items(folder) else "NOT EQUAL with randomness off"
    return [compared("training item from the store", t["released"], t["ours"], at_least=4.5, note=note)]


def equal_items(folder: Folder) -> bool:
    """Same image to 1e-6 and same organ shares, nothing random; the left atrial appendage counted as heart."""
    import torch

    released = reference_data.transforms(folder.config, augment=False)(dict(folder.files))
    ours = batches.Items(folder.store, folder.config, augment=False)[folder.store.ids[0], 0]
    same = np.abs(np.asarray(released["image"][0]) - ours["image"]).max() < 1e-6
    labels = torch.as_tensor(np.asarray(released["organs"][0])).round().to(torch.uint8).numpy()
    share = organs.proportions(labels, folder.config.patch)
    own = np.concatenate([ours["organs"][:, :5], ours["organs"][:, 5:7].sum(1, keepdims=True), ours["organs"][:, 7:]], axis=1)
    return bool(same and np.abs(share[:, :8] - own).max() < 1e-6)


def report(quick: bool, count: int) -> list[Row]:
    """Reports to sentences, tokens, indices and hidden words; with what else ours reads in a sentence: meaning, polarity, organs."""
    words, texts = tokenizer("minilm"), [(FINDINGS.format(n=n), IMPRESSION) for n in range(11, 15 if quick else 51)]
    remembered = batches.Items.__new__(batches.Items)
    remembered.config, remembered.text = Config.at("base"), {}

    def released() -> None:
        for findings, impression in texts:
            reference_data.encode(findings, impression, words)

    def tokens() -> None:
        found = [batches.tokenised(findings, impression, "minilm", 512) for findings, impression in texts]
        for start in range(0, len(found), BATCH):  # words are hidden in a batch at once
            report, special = (batches.pad([one[name] for one in found[start : start + BATCH]]) for name in ("report_tokens", "report_special"))
            hidden = hidden_words(torch.rand(report.shape), report > 0, special, share=0.75)
            report.masked_fill(hidden, words.mask_token_id)

    def first() -> None:
        for rule in (meanings.meaning, meanings.organs_named, meanings.statements, meanings.clauses):
            rule.cache_clear()
        for findings, impression in texts:
            batches.encode(findings, impression, "minilm", 512)

    def later() -> None:
        for n, (findings, impression) in enumerate(texts):
            remembered.words(str(n), findings, impression)

    t = rounds({"released": released, "tokens": tokens, "first": first, "later": later}, count=max(count, 5))
    return [
        compared("report to sentences, tokens, indices", t["released"], t["tokens"], at_least=4, items=len(texts)),
        compared("the same, and what ours reads in sentences", t["released"], t["first"], items=len(texts), note="first epoch"),
        compared("the same, every later epoch", t["released"], t["later"], items=len(texts), note="remembered"),
    ]


def rank(quick: bool, count: int) -> list[Row]:
    """Effective rank of one layer's tokens."""
    n, d = (300, 48) if quick else (2744, 768)
    rng = np.random.default_rng(0)
    tokens = (rng.standard_normal((n, d)) * np.logspace(0, -4, d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]).astype(np.float32)

    def full() -> float:
        _, s, _ = np.linalg.svd(tokens.astype(np.float64), full_matrices=False)
        share = s / s.sum()
        return float(np.exp(-(share * np.log(share)).sum()))

    error = abs(analysis.effective_rank(tokens) / full() - 1)
    t = rounds({"full": full, "ours": lambda: analysis.effective_rank(tokens)}, count=count)
    return [compared(f"effective rank of {n} x {d} tokens", t["full"], t["ours"], at_least=2.2, note=f"error {error:.0e}")]


RELEASED_PROBE = (100_000, 128, 47_149)
"""Steps, volumes a step and training volumes of the released linear probe at 100 % of CT-RATE: the backbone runs for each volume of each step."""


def probe(quick: bool, count: int) -> list[Row]:
    """How often a linear probe with five seeds and three shares of the labels runs the backbone, per volume: counted on a small phantom store."""
    from asapkit import evidence
    from asapkit.tasks import classify
    from asapkit.vit3d import Encoder

    seen = 0

    def note(_module, arguments) -> None:
        nonlocal seen
        seen += len(arguments[0])

    with tempfile.TemporaryDirectory() as folder:
        held = evidence.data(folder, plan=evidence.Plan("toy", volumes=12, workers=1))
        encoder = Encoder(Config.at("toy")).eval()
        encoder.blocks[0].register_forward_pre_hook(note)
        classify.compare({"random": encoder}, held, shares=(0.5, 0.75, 1.0), seeds=5, draws=2, progress=False)
    steps, size, volumes = RELEASED_PROBE
    theirs, ours = steps * size / volumes, seen / len(held)
    what = "linear probe: backbone forwards per volume"
    return [
        Row(what, f"{theirs:.0f}", f"{ours:g}", theirs / ours, "1 per view", ours <= 1, "counted; V = 1 view; five seeds and three shares share them")
    ]
