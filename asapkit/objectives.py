"""Pure loss functions: tensors in, scalar out. Each has a loop-written oracle in tests/test_objectives.py.

Equation numbers are the ASAP paper's (arXiv 2606.00602); what the released code does otherwise is a keyword.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def reconstruction(
    predicted: Float[Tensor, "B N P"], target: Float[Tensor, "B N P"], hidden: Bool[Tensor, "B N"], *, on: str = "hidden", norm_pixels: bool = False
) -> Float[Tensor, ""]:
    """Mean squared error over hidden patches (eq. 1), in squared network units.

    on="all": the released form, mean over all voxels with visible ones zeroed, i.e. the hidden share times the default.
    norm_pixels: targets standardised per patch (MAE).
    """
    if norm_pixels:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    error = (predicted - target).square().mean(-1) * hidden
    return error.sum() / (hidden.sum().clamp(min=1) if on == "hidden" else hidden.numel())


def restored(
    predicted: Float[Tensor, "B H P"], target: Float[Tensor, "B H P"], *, patches: int, on: str = "hidden", norm_pixels: bool = False
) -> Float[Tensor, ""]:
    """`reconstruction` from the hidden patches alone, of `patches` in all: visible ones count for nothing in either form."""
    everything = torch.ones(predicted.shape[:2], dtype=torch.bool, device=predicted.device)
    share = predicted.shape[1] / patches if on == "all" else 1.0
    return reconstruction(predicted, target, everything, norm_pixels=norm_pixels) * share


def organ_proportions(
    logits: Float[Tensor, "B N O"], share: Float[Tensor, "B N O"], known: Bool[Tensor, "B K"], *, reduction: str = "sum"
) -> Float[Tensor, ""]:
    """Binary cross-entropy against the share of each patch that every organ fills (eq. 3): summed over organs, mean over patches and volumes.

    known: organs of which a volume has masks (K = O, or 1 for all); others count for nothing, and so do volumes without any.
    reduction="mean": also averaged over organs, as released.
    """
    known = known.expand(-1, logits.shape[-1])
    loss = (F.binary_cross_entropy_with_logits(logits.float(), share, reduction="none").mean(1) * known).sum(-1)
    loss = loss if reduction == "sum" else loss / known.sum(-1).clamp(min=1)
    return loss.sum() / known.any(-1).sum().clamp(min=1)


def cosine(a: Float[Tensor, "*L E"], b: Float[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Cosine with a floor on the norms, so that a zero vector has a bounded gradient."""
    return (unit(a) * unit(b)).sum(-1)


def unit(x: Float[Tensor, "*L E"]) -> Float[Tensor, "*L E"]:
    """x / max(|x|, 1e-6) in float32."""
    return F.normalize(x.float(), dim=-1, eps=1e-6)


def align_in_report(
    sentence: Float[Tensor, "B S E"],
    evidence: Float[Tensor, "B S E"],
    real: Bool[Tensor, "B S"],
    *,
    meaning: Int[Tensor, "B S"] | None = None,
    temperature: float = 0.07,
    pad_columns: bool = False,
    mean: str = "report",
    worth: Float[Tensor, "B S"] | None = None,
    other: Float[Tensor, "B S E"] | None = None,
    wrong: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, ""]:
    """InfoNCE between the sentences of a report and the mean of the patches that each selected, both directions summed (eq. 8, 10).

    Sentences with equal `meaning` are no negatives of one another. mean, worth: see `sentence_mean`. pad_columns: every other slot is a
    negative, as released: padding, and sentences of equal meaning too. other: what each sentence selected in another image, one more negative
    of its own where `wrong`.
    """
    terms = report_terms(
        sentence, evidence, real, meaning=meaning, temperature=temperature, pad_columns=pad_columns, other=other, wrong=wrong
    )  # fmt: skip
    return sentence_mean(terms, real, mean=mean, worth=worth)


def report_terms(
    sentence: Float[Tensor, "B S E"],
    evidence: Float[Tensor, "B S E"],
    real: Bool[Tensor, "B S"],
    *,
    meaning: Int[Tensor, "B S"] | None = None,
    temperature: float = 0.07,
    pad_columns: bool = False,
    other: Float[Tensor, "B S E"] | None = None,
    wrong: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B S"]:
    """What `align_in_report` is the mean of: one term per sentence; those of padding mean nothing."""
    logits = unit(sentence) @ unit(evidence).mT / temperature
    same = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    blocked = torch.zeros_like(same).expand(logits.shape) if pad_columns else ~real.unsqueeze(1).expand(logits.shape)
    if meaning is not None and not pad_columns:
        blocked = blocked | ((meaning.unsqueeze(2) == meaning.unsqueeze(1)) & ~same)
    blocked = blocked & ~same
    rows = logits.masked_fill(blocked, -math.inf)
    columns = logits.mT.masked_fill(blocked, -math.inf)
    if other is not None:
        elsewhere = cosine(sentence, other) / temperature
        rows = torch.cat([rows, (elsewhere if wrong is None else elsewhere.masked_fill(~wrong, -math.inf)).unsqueeze(2)], dim=2)
    diagonal = logits.diagonal(dim1=1, dim2=2)
    return rows.logsumexp(2) + columns.logsumexp(2) - 2 * diagonal


def align_over_images(
    logits: Float[Tensor, "L B"], own: Int[Tensor, " L"], meaning: Int[Tensor, " L"], *, weight: Float[Tensor, " L"]
) -> Float[Tensor, ""]:
    """Contrast of every sentence over images and of every image over sentences, both directions summed, weighted mean over sentences.

    `logits[l, b]` is the scaled cosine of sentence l with the mean of *its own best patches in image b*; `own[l]` its image. Image b is no
    negative of l if a sentence of b means the same; nor is such a sentence a negative of b. Closes the position shortcut of `align_in_report`.
    """
    return (image_terms(logits, own, meaning) * weight).sum() / weight.sum().clamp(min=1e-6)


def image_terms(logits: Float[Tensor, "L B"], own: Int[Tensor, " L"], meaning: Int[Tensor, " L"]) -> Float[Tensor, " L"]:
    """What `align_over_images` is the mean of: one term per sentence."""
    images = logits.shape[1]
    says = F.one_hot(own, images).bool()  # (L, B) sentence l belongs to image b
    same = meaning.unsqueeze(1) == meaning.unsqueeze(0)  # (L, L)
    stated = (same.float() @ says.float()) > 0  # (L, B) image b has a sentence that means what l means
    free = ~stated | says
    over_images = logits.masked_fill(~free, -math.inf).logsumexp(1)
    # image own[l] against l and every sentence that the image does not state
    negatives = logits.masked_fill(stated, -math.inf).logsumexp(0)  # (B,)
    positive = logits.gather(1, own.unsqueeze(1)).squeeze(1)
    over_sentences = torch.logaddexp(positive, negatives[own])
    return over_images + over_sentences - 2 * positive


def sentence_mean(
    loss: Float[Tensor, "B S"], real: Bool[Tensor, "B S"], *, mean: str = "report", worth: Float[Tensor, "B S"] | None = None
) -> Float[Tensor, ""]:
    """Mean over real sentences: within each report first, then over the reports that have any ("report"), or all at once ("batch").

    worth: how much each sentence counts beside the others, default 1; 0 where it is not real.
    """
    worth = real.float() if worth is None else worth
    loss = loss.masked_fill(~real, 0.0) * worth
    if mean == "batch":
        return loss.sum() / worth.sum().clamp(min=1e-6)
    per_report = loss.sum(1) / worth.sum(1).clamp(min=1e-6)
    return per_report.sum() / real.any(1).sum().clamp(min=1)


def words(logits: Float[Tensor, "M W"], target: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the counted positions of all reports (eq. 14: the hidden words), 0 for none; a target of -1 does not count."""
    return F.cross_entropy(logits.float(), target, ignore_index=-1, reduction="sum") / (target >= 0).sum().clamp(min=1)


def labels_bce(logits: Float[Tensor, "B F"], labels: Float[Tensor, "B F"]) -> Float[Tensor, ""]:
    """Multi-label binary cross-entropy, mean over known labels; -1 is unknown and has no gradient."""
    known = labels >= 0
    loss = F.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0), reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def matching(logits: Float[Tensor, " B"], matched: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Binary cross-entropy of whether an image and a report belong together, mean over pairs (M3AE's image-text matching; methods.md E4)."""
    return F.binary_cross_entropy_with_logits(logits.float(), matched.float())


def contrast(logits: Float[Tensor, "B B"], same: Bool[Tensor, "B B"], *, target: Float[Tensor, "B B"] | None = None) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between volumes (rows) and reports (columns) of a batch, the mean of both directions.

    `same[i, j]`: volumes i and j share one report; they are no negatives of one another. target: rows and columns pull towards these shares
    (>= 0, the diagonal above 0), normalised along each direction; without it each volume's own report is the one right answer.

    Source: CLIP's loss, as CT-CLIP, M3D-CLIP, Merlin, HLIP and fVLM use it (methods.md D, E6 to E11).
    """
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    share = own.float() if target is None else target.float()
    left_out = same & ~own & (share <= 0)
    loss = logits.new_zeros((), dtype=torch.float32)
    for scores, wanted, gone in ((logits.float(), share, left_out), (logits.float().mT, share.mT, left_out.mT)):
        spread = scores.masked_fill(gone, -math.inf).log_softmax(1).masked_fill(gone, 0.0)
        loss = loss - 0.5 * (wanted / wanted.sum(1, keepdim=True) * spread).sum(1).mean()
    return loss


def alike_targets(normal: Bool[Tensor, " B"], text: Int[Tensor, " B"]) -> Float[Tensor, "B B"]:
    """Targets of `contrast` for one organ: itself, any other normal one of a normal one, any of identical `text` are right alike; rows sum to 1.

    Source: fVLM's treatment of false negatives (methods.md E9).
    """
    alike = torch.eye(len(normal), dtype=torch.bool, device=normal.device) | (normal[:, None] & normal) | (text[:, None] == text)
    return alike / alike.sum(1, keepdim=True)


def class_contrast(feature: Float[Tensor, "B E"], of: Int[Tensor, " B"], *, temperature: float = 0.07) -> Float[Tensor, ""]:
    """Unit features of one class (`of`) against all others: -log of the share that its own class has in the sum of exponentials, itself left out.

    Mean over volumes that have another of their class.

    Source: Supervised contrastive learning (2004.11362), the form whose sum is inside the logarithm; ViSD-Boost's first stage (methods.md E10).
    """
    own = torch.eye(len(feature), dtype=torch.bool, device=feature.device)
    mates = (of[:, None] == of) & ~own
    scored = mates.any(1)
    if not scored.any():
        return feature.sum() * 0.0
    logits = (feature @ feature.mT).float() / temperature
    everyone = logits.masked_fill(own, -math.inf)[scored].logsumexp(1)
    return (everyone - logits.masked_fill(~mates, -math.inf)[scored].logsumexp(1)).mean()


def sigmoid_contrast(
    logits: Float[Tensor, "B B"], same: Bool[Tensor, "B B"], *, target: Float[Tensor, "B B"] | None = None, weight: Float[Tensor, "B B"] | None = None
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every pair of volume and report, summed over reports and averaged over volumes.

    `same[i, j]`: one report; such pairs off the diagonal do not count. target: how far a pair matches, [0, 1], default 1 on the diagonal and 0
    elsewhere. weight: of every pair, default 1.

    Source: SigLIP's loss, as SigVLP and SCALE-VLP use it (methods.md A, B).
    """
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    wanted = own.float() if target is None else target.float()
    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    counted = (~same | own).float() * (1.0 if weight is None else weight.float())
    return (loss * counted).sum() / len(logits)


def agreement(
    first: tuple[Float[Tensor, "*L E"], Float[Tensor, "*L E"]], second: tuple[Float[Tensor, "*L E"], Float[Tensor, "*L E"]]
) -> Float[Tensor, "*L"]:
    """-(cos(p_a, z_b) + cos(p_b, z_a)) / 2 of two views (p, z), each: -1 where each predicts the other. What is predicted, z, has no gradient.

    Source: PCRLv2 (2301.00772), as methods.md E2 gives it; SimSiam (2011.10566).
    """
    (predicted_a, feature_a), (predicted_b, feature_b) = first, second
    return -(cosine(predicted_a, feature_b.detach()) + cosine(predicted_b, feature_a.detach())) / 2
