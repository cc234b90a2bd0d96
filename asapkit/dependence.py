"""Does the alignment look at the patient, or does each kind of sentence point to one place in every patient?

Three measures on arrays, no network and no file: what the alignment loss does when images are exchanged across reports, how alike the maps of one
sentence are in different patients, and how much of the loss positions alone explain. Source: the pilot of spec/learnability.md; not published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asapkit import metrics, objectives
from asapkit.metrics import Interval
from asapkit.selection import top_k_weights

FORMS = ("report", "batch")
ROWS = 32  # sentences at a time: their maps in every patient are what fills the memory
MOST = 200  # sentences whose maps are compared between patients
FALL = 0.05  # nats below the chance level: a smaller fall cannot be parted among what explains it


@dataclass(frozen=True)
class View:
    """One volume each of some patients, and the sentences of their reports, in the space where both are compared.

    inside, named: groups of patches, and the groups among which a sentence may choose (all patches, or the body's, or an organ's). Volumes of one
    patient have one name in `patient`. form: whether a sentence was contrasted within its `report` or over the images of a `batch` of `size`.
    """

    patches: Float[Tensor, "P N E"]
    body: Bool[Tensor, "P N"]
    inside: Bool[Tensor, "P N G"]
    sentences: Float[Tensor, "S E"]
    named: Bool[Tensor, "S G"]
    owner: Int[Tensor, " S"]
    meaning: Int[Tensor, " S"]
    positive: Bool[Tensor, " S"]
    k: Int[Tensor, " S"]
    patient: tuple[str, ...]
    form: str = "report"
    size: int = 16
    temperature: float = 0.07
    mean: str = "report"

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form {self.form!r}: there are {', '.join(FORMS)}")
        if not len(self.sentences) or len(set(self.patient)) < 2:
            raise ValueError(f"{len(self.sentences)} sentences of {len(set(self.patient))} patients: give at least one sentence, and two patients")

    def some(self, rows: slice | Tensor) -> View:
        """The same patients with some of the sentences."""
        return replace(self, **{name: getattr(self, name)[rows] for name in ("sentences", "named", "owner", "meaning", "positive", "k")})


# --- what every sentence selects in every patient


def chosen(view: View) -> tuple[Float[Tensor, "S P N"], Float[Tensor, "S P N"], Bool[Tensor, "S P N"]]:
    """Cosine of every sentence with every patch of every patient, the weights of the K patches that it selects there, and those it may choose."""
    similarity = torch.einsum("se,pne->spn", objectives.unit(view.sentences), objectives.unit(view.patches))
    allowed = torch.einsum("sg,png->spn", view.named.float(), view.inside.float()) > 0
    allowed = allowed | ~allowed.any(-1, keepdim=True)
    ks = sorted(set(view.k.tolist()))
    mixture = torch.stack([view.k == k for k in ks], dim=-1).float()
    weights = top_k_weights(similarity, mixture.unsqueeze(1).expand(-1, len(view.patches), -1), tuple(ks), allowed=allowed)
    return similarity, weights, allowed


def evidence(view: View) -> Float[Tensor, "S P E"]:
    """Mean of the patches that each sentence selects in each patient's image."""
    parts = []
    for some in _parts(view):
        parts.append(torch.einsum("spn,pne->spe", chosen(some)[1], view.patches.float()))
    return torch.cat(parts)


def tops(view: View) -> Int[Tensor, "S P"]:
    """The patch that each sentence finds most similar in each patient, among those it may choose."""
    return torch.cat([s.masked_fill(~allowed, -2.0).argmax(-1) for some in _parts(view) for s, _, allowed in [chosen(some)]])


def _parts(view: View) -> Iterator[View]:
    for start in range(0, len(view.sentences), ROWS):
        yield view.some(slice(start, start + ROWS))


# --- the loss with other images


def losses(view: View, found: Float[Tensor, "S P E"], images: Int[np.ndarray, " P"], *, block: Int[np.ndarray, " P"]) -> Float[Tensor, " S"]:
    """The alignment loss of every sentence where report p is given image `images[p]`, whose evidence is `found[:, images[p]]`.

    Images within one `block` are those of a batch; a loss within the report needs none. Zero evidence gives the chance level.
    """
    out = torch.zeros(len(view.sentences))
    units = objectives.unit(view.sentences)
    for group in np.unique(block) if view.form == "batch" else range(len(view.patient)):
        reports = np.flatnonzero(block == group) if view.form == "batch" else np.array([group])
        rows = torch.isin(view.owner, torch.from_numpy(reports)).nonzero()[:, 0]
        if not len(rows):
            continue
        given = found[rows][:, torch.from_numpy(images[reports])]
        if view.form == "batch":
            logits = torch.einsum("le,lbe->lb", units[rows], objectives.unit(given)) / view.temperature
            own = torch.searchsorted(torch.from_numpy(reports), view.owner[rows])
            out[rows] = objectives.image_terms(logits, own, view.meaning[rows])
        else:
            real, meaning = torch.ones(1, len(rows), dtype=torch.bool), view.meaning[None, rows]
            terms = objectives.report_terms(view.sentences[None, rows], given[None, :, 0], real, meaning=meaning, temperature=view.temperature)
            out[rows] = terms[0]
    return out


def blocks(view: View, *, seed: int = 0) -> Int[np.ndarray, " P"]:
    """Which batch each patient is in: at random, of at least `size` where there are so many. One for all where the loss is within the report."""
    names, index = np.unique(np.array(view.patient), return_inverse=True)
    if view.form == "report":
        return np.zeros(len(index), int)
    order = np.random.default_rng([seed, 21]).permutation(len(names))
    block = np.empty(len(names), int)
    for number, members in enumerate(np.array_split(order, max(1, len(names) // max(2, view.size)))):
        block[members] = number
    return block[index]


def exchange(patient: Sequence[str], *, rng: np.random.Generator) -> Int[np.ndarray, " P"]:
    """Which image each report is given, at random: each image once, and never one of the report's own patient.

    Raises: ValueError where one patient has more than half of the volumes, so that there is no such exchange.
    """
    names, index = np.unique(np.array(patient), return_inverse=True)
    count, most = len(index), int(np.bincount(index).max())
    if 2 * most > count:
        raise ValueError(f"{most} of {count} volumes are of one patient: their images cannot be exchanged with those of others")
    order = np.lexsort((rng.random(count), rng.permutation(len(names))[index]))  # every patient's volumes side by side, in a circle
    out = np.empty(count, int)
    out[order] = np.roll(order, int(rng.integers(most, count - most + 1)))  # turned by more than any patient has, both ways round
    return out


def exchanges(view: View, block: Int[np.ndarray, " P"], *, count: int = 10, seed: int = 0) -> Int[np.ndarray, "R P"]:
    """`count` exchanges, each within the blocks."""
    rng, out = np.random.default_rng([seed, 22]), np.empty((count, len(block)), int)
    for row in out:
        for group in np.unique(block):
            members = np.flatnonzero(block == group)
            row[members] = members[exchange([view.patient[m] for m in members], rng=rng)]
    return out


# --- positions alone


def position_code(view: View, block: Int[np.ndarray, " P"]) -> View:
    """The view with every patient's patches replaced by what is known of their positions: the mean over other patients' patches there.

    Others: those of other batches where there are several (all images of a batch have one code then, and nothing else tells them apart), else all
    other patients. A patch may be chosen where at least half of the others' may.
    """
    groups = np.array(view.patient) if len(set(block)) < 2 else block
    patches, inside = torch.empty_like(view.patches, dtype=torch.float32), torch.empty_like(view.inside)
    for group in np.unique(groups):
        own = torch.from_numpy(groups == group)
        patches[own] = view.patches[~own].float().mean(0)
        inside[own] = view.inside[~own].float().mean(0) >= 0.5
    return replace(view, patches=patches, inside=inside)


# --- one sentence in different patients


def agreement(view: View, *, most: int = MOST) -> tuple[Float[np.ndarray, "P P"], Float[np.ndarray, "P P"], Float[np.ndarray, "P P"]]:
    """Between patients, the mean over sentences of: the correlation of one sentence's maps over the patches that are body in both; the share of
    its selected patches that are the same; and that share for patches drawn at random from those it may choose (K / N where those are all N).

    Of more than `most` sentences, as many evenly spread ones. NaN where no sentence has a correlation, as that of a flat map.
    """
    rows = torch.linspace(0, len(view.sentences) - 1, min(most, len(view.sentences))).round().long()
    sums, known = torch.zeros(3, len(view.patient), len(view.patient)), torch.zeros(3, len(view.patient), len(view.patient))
    for some in _parts(view.some(rows)):
        similarity, weights, allowed = chosen(some)
        taken, free = (weights > 0).float(), allowed.float()
        size, room = taken.sum(-1), free.sum(-1)
        least = torch.minimum(size.unsqueeze(1), size.unsqueeze(2))
        density = size / room
        shared = torch.einsum("spn,sqn->spq", taken, taken) / least
        random = torch.einsum("spn,sqn->spq", free, free) * density.unsqueeze(2) * density.unsqueeze(1) / least
        for place, values in enumerate((_correlations(similarity, view.body), shared, random)):
            sums[place] += values.nan_to_num().sum(0)
            known[place] += (~values.isnan()).sum(0)
    return tuple(np.where(n > 0, s / np.maximum(n, 1), np.nan) for s, n in zip(sums.numpy(), known.numpy(), strict=True))


def _correlations(maps: Float[Tensor, "S P N"], body: Bool[Tensor, "P N"]) -> Float[Tensor, "S P P"]:
    """Pearson's correlation of every two patients' maps over the patches that are body in both; NaN for a map that is flat there."""
    inside = body.double()
    x = (maps - maps.mean(-1, keepdim=True)).double() * inside  # centred first, so that sums of squares keep their digits
    count = inside @ inside.mT
    sums = torch.einsum("spn,qn->spq", x, inside)
    squares = torch.einsum("spn,qn->spq", x * x, inside) - sums * sums / count
    products = torch.einsum("spn,sqn->spq", x, x) - sums * sums.mT / count
    spread = (squares.clamp(min=0) * squares.mT.clamp(min=0)).sqrt()
    return torch.where(spread > 1e-9, products / spread, torch.nan).float()


# --- all of it, with intervals


def measure(view: View, *, count: int = 10, draws: int = metrics.DRAWS, seed: int = 0) -> dict:
    """The three measures with intervals from a bootstrap over patients; see `said` for their words.

    own, exchanged, positions, chance: the loss with the report's own image, with `count` exchanges, with positions alone, and with no evidence.
    rise: exchanged - own. rise_positive: of positive sentences alone, where the other patient's report does not say the same. explained: of the fall
    below chance, chance - own, the share that positions alone give; NaN where there is none. correlation, overlap, overlap_chance: `agreement`.

    A sentence takes what is most like it, so that an untrained method falls below chance too: the rise tells whether the patient is looked at.
    """
    block, found, everyone = blocks(view, seed=seed), evidence(view), np.arange(len(view.patient))
    coded = position_code(view, block)
    own = losses(view, found, everyone, block=block)
    chance = losses(view, torch.zeros_like(found), everyone, block=block)
    positions = losses(coded, evidence(coded), everyone, block=block)
    exchanged, differing, compared = torch.zeros_like(own), torch.zeros_like(own), torch.zeros_like(own)
    for images in exchanges(view, block, count=count, seed=seed):
        loss = losses(view, found, images, block=block)
        exchanged += loss / count
        counted = view.positive & ~_says_too(view, images)
        differing += torch.where(counted, loss - own, 0.0)
        compared += counted
    differing = torch.where(compared > 0, differing / compared.clamp(min=1), torch.nan)
    terms = {"own": own, "exchanged": exchanged, "positions": positions, "chance": chance, "rise": exchanged - own, "rise_positive": differing}
    means = {name: _means(view, values, draws=draws, seed=seed) for name, values in terms.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        fall = means["chance"] - means["own"]
        means["explained"] = np.where(fall > FALL, (means["chance"] - means["positions"]) / fall, np.nan)
    result = {name: metrics.interval(float(v[0]), v[1:]).as_dict() for name, v in means.items()}
    for name, pairs in zip(("correlation", "overlap", "overlap_chance"), agreement(view), strict=True):
        result[name] = _between(pairs, view.patient, draws=draws, seed=seed).as_dict()
    counts = {"sentences": len(view.sentences), "positive": int(view.positive.sum()), "patients": len(set(view.patient)), "exchanges": count}
    return result | counts | {"form": view.form}


def _says_too(view: View, images: Int[np.ndarray, " P"]) -> Bool[Tensor, " S"]:
    """Whether the report of the image that a sentence is given says the same."""
    said = torch.zeros(len(view.patient), int(view.meaning.max()) + 1, dtype=torch.bool)
    said[view.owner, view.meaning] = True
    return said[torch.from_numpy(images)[view.owner], view.meaning]


def _means(view: View, values: Float[Tensor, " S"], *, draws: int, seed: int) -> Float[np.ndarray, " d"]:
    """Mean over reports of the mean over their sentences that have a value (mean="batch": over all sentences), then in every draw of patients."""
    known = ~values.isnan()
    number = torch.zeros(len(view.patient)).index_add(0, view.owner[known], torch.ones(int(known.sum()))).double().numpy()
    total = torch.zeros(len(view.patient)).index_add(0, view.owner[known], values[known]).double().numpy()
    weights, _ = metrics.cluster_weights(view.patient, draws=draws, seed=seed)
    weights = np.vstack([np.ones(len(number)), weights]) * (number > 0)
    part = total if view.mean == "batch" else total / np.maximum(number, 1)
    whole = weights @ (number if view.mean == "batch" else np.ones(len(number)))
    return np.where(whole > 0, weights @ part / np.maximum(whole, 1), np.nan)


def _between(pairs: Float[np.ndarray, "P P"], patient: Sequence[str], *, draws: int, seed: int) -> Interval:
    """Mean over pairs of different patients, with the interval of drawing patients: a pair counts as often as both were drawn."""
    names = np.array(patient)
    known = (names[:, None] != names[None]) & ~np.isnan(pairs)
    weights, _ = metrics.cluster_weights(patient, draws=draws, seed=seed)
    weights = np.vstack([np.ones(len(names)), weights])
    total = np.einsum("dp,pq,dq->d", weights, np.where(known, pairs, 0.0), weights)
    count = np.einsum("dp,pq,dq->d", weights, known.astype(float), weights)
    found = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return metrics.interval(float(found[0]), found[1:])


def said(measured: dict) -> str:
    """One line for a reader: what the loss does without the patient, and where the sentences point."""
    rise, own, chance = measured["rise"], measured["own"]["value"], measured["chance"]["value"]
    told = f"patient dependence: the loss rises by {rise['value']:.2f} ({rise['low']:.2f} to {rise['high']:.2f}) when images are exchanged"
    told += f" (own {own:.2f}, chance {chance:.2f})"
    if (share := measured["explained"]["value"]) == share:
        told += f"; positions alone give {max(share, 0):.0%} of its fall below chance"
    else:
        told += "; it is not below chance"
    return f"{told}; maps of one sentence correlate {measured['correlation']['value']:.2f} between patients"
