"""Numbers out of features: effective rank, spectra, PCA maps, sentence maps, and the way from patches back to millimetres.

Pure functions on arrays; no network, no file, no picture. Tokens are (N, D), patches row-major in x, y, z.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

Grid = tuple[int, int, int]
SMALLEST = 1e-12  # of s_1: what a log sees in place of a singular value of zero
FOREGROUNDS = ("body", "component")  # of `pca_maps`
CLIPPED = (1, 99)  # percentiles of a component that are no and full colour
STEEP = 1e-6  # of s_1: below it a Gram matrix knows a singular value too badly


def singular_values(tokens: Float[np.ndarray, "N D"], *, center: bool = False) -> Float[np.ndarray, " q"]:
    """Singular values in float64, largest first, q = min(N, D). `center` removes the mean token first.

    Raises: ValueError if tokens are no matrix, hold no number, or hold NaN or infinity.
    """
    x = np.asarray(tokens, dtype=np.float64)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"tokens must be (patches, features), not {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("tokens hold NaN or infinity")
    return np.linalg.svd(x - x.mean(0) if center else x, compute_uv=False)


def _values(tokens: Float[np.ndarray, "N D"], *, center: bool = False) -> Float[np.ndarray, " q"]:
    """`singular_values` from the eigenvalues of the smaller Gram matrix in float64, several times faster; from the matrix itself where they fall
    below `STEEP` of the largest, since squaring loses them. Errors of a rank stay below 1e-6 of it (float32 would be wrong by a hundredth).
    """
    x = np.asarray(tokens, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        return singular_values(tokens, center=center)  # says what is wrong
    x = x - x.mean(0) if center else x
    squares = np.linalg.eigvalsh(x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T)[::-1]
    return np.sqrt(squares) if squares[-1] > STEEP**2 * squares[0] else singular_values(tokens, center=center)


def effective_rank(tokens: Float[np.ndarray, "N D"], *, center: bool = False, normalised: bool = False) -> float:
    """exp of the entropy of the singular values taken as shares of their sum: 1 for rank one, q = min(N, D) for equal values.

    `normalised` divides by q, to compare token sets of different size. All-zero tokens have no spread: 0.
    Source: Roy and Vetterli 2007; ASAP figure 6a. The paper does not say whether columns are centred; as they are is the original definition.
    """
    rank = _entropy_rank(s := _values(tokens, center=center))
    return rank / len(s) if normalised else rank


def _entropy_rank(s: Float[np.ndarray, " q"]) -> float:
    if not s.sum():
        return 0.0
    share = s / s.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def energy_rank(tokens: Float[np.ndarray, "N D"], *, share: float = 0.9, center: bool = False) -> int:
    """How many leading singular directions hold `share` of the energy (the sum of squared singular values)."""
    return _energy_rank(_values(tokens, center=center), share=share)


def _energy_rank(s: Float[np.ndarray, " q"], *, share: float) -> int:
    energy = np.cumsum(s**2)
    return int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12)) + 1)


def spectrum(tokens: Float[np.ndarray, "N D"], *, center: bool = False) -> Float[np.ndarray, " q"]:
    """Singular values divided by the largest: starts at 1 and falls."""
    s = singular_values(tokens, center=center)
    return s / s[0] if s[0] else s


def layer_values(layers: Sequence[Float[np.ndarray, "N D"]], *, center: bool = False) -> Float[np.ndarray, "L q"]:
    """Singular values of every layer's tokens, first layer first: all that `ranks` and `spectra_of` need to remember of a volume.

    Raises: ValueError if layers differ in q, or as `singular_values`.
    """
    values = [_values(tokens, center=center) for tokens in layers]
    if len({len(s) for s in values}) > 1:
        raise ValueError("layers differ in their number of singular values")
    return np.stack(values)


def spectra_of(volumes: Iterable[Float[np.ndarray, "L q"]]) -> Float[np.ndarray, "L q"]:
    """One curve per layer from the `layer_values` of volumes: the geometric mean over volumes of s_k / s_1.

    Raises: ValueError without volumes, or if volumes differ in layers or q. Source: ASAP figure 6b.
    """
    logs = [np.log10(np.maximum(s / np.where(s[:, :1] > 0, s[:, :1], 1.0), SMALLEST)) for s in volumes]
    if not logs:
        raise ValueError("no volume to take a spectrum of")
    if len({s.shape for s in logs}) > 1:
        raise ValueError("volumes differ in layers or in number of singular values: their spectra cannot be averaged")
    return 10.0 ** np.mean(logs, axis=0)


def spectra(volumes: Iterable[Sequence[Float[np.ndarray, "N D"]]], *, center: bool = False) -> Float[np.ndarray, "L q"]:
    """`spectra_of` volumes that are each their layers' tokens, first layer first."""
    return spectra_of([layer_values(layers, center=center) for layers in volumes])


def ranks(volumes: Mapping[str, Float[np.ndarray, "L q"]]) -> pd.DataFrame:
    """id, layer (from 1), effective_rank, normalised, energy_rank_90, one row per volume and layer, from the `layer_values` of volumes."""
    rows = []
    for id, layers in volumes.items():
        for number, s in enumerate(layers, start=1):
            rank = _entropy_rank(s)
            rows.append((id, number, rank, rank / len(s), _energy_rank(s, share=0.9)))
    return pd.DataFrame(rows, columns=["id", "layer", "effective_rank", "normalised", "energy_rank_90"])


def rank_table(volumes: Mapping[str, Sequence[Float[np.ndarray, "N D"]]], *, center: bool = False) -> pd.DataFrame:
    """`ranks` of volumes that are each their layers' tokens, first layer first."""
    return ranks({id: layer_values(layers, center=center) for id, layers in volumes.items()})


def pca_map(
    tokens: Float[np.ndarray, "N D"], body: Bool[np.ndarray, " N"], grid: Grid, *, foreground: str = "body"
) -> Float[np.ndarray, "gx gy gz 3"]:
    """The colours of one volume on its own basis; see `pca_maps`."""
    return pca_maps([tokens], [body], grid, foreground=foreground)[0][0]


def pca_maps(
    tokens: Sequence[Float[np.ndarray, "N D"]], body: Sequence[Bool[np.ndarray, " N"]], grid: Grid, *, foreground: str = "body",
    density: Sequence[Float[np.ndarray, " N"]] | None = None,
) -> tuple[list[Float[np.ndarray, "gx gy gz 3"]], Float[np.ndarray, " 3"]]:  # fmt: skip
    """First three principal components of foreground tokens as red, green, blue in [0, 1], background black; one basis for all volumes.

    `foreground` is "body" (patches marked in `body`), or "component" (the first component of all tokens, above 0, its sign turned so that
    body patches score higher than the rest). Returns the maps and the share of the foreground's variance that each colour carries.
    Two encoders never share a basis: compare structure between them, not colours. With `density`, the mean value of every patch, the component
    that follows it most is red and rises with it, and green and blue fall with it: lung is then greenish and bone reddish in every encoder.
    Source: the recipe of DINOv2 (ASAP figure 7). Differs: on CT the body is known, so it replaces the first component unless asked for;
    signs come from the scores, so that a rotation of feature space changes nothing.
    """
    if foreground not in FOREGROUNDS:
        raise ValueError(f"unknown foreground {foreground!r}; there are {', '.join(FOREGROUNDS)}")
    x = np.concatenate([np.asarray(t, dtype=np.float64) for t in tokens])
    inside = np.concatenate([np.asarray(b, dtype=bool) for b in body])
    if len(x) != len(inside) or len(x) != len(tokens) * int(np.prod(grid)):
        raise ValueError(f"{len(x)} tokens, {len(inside)} body marks: a grid of {grid} needs {int(np.prod(grid))} of each per volume")
    shown = _first_component(x, inside) if foreground == "component" else inside
    scores, shares = _components(x, shown, count=3)
    if density is not None:
        order, signs = _towards(scores[shown], np.concatenate([np.asarray(d, dtype=np.float64) for d in density])[shown])
        scores, shares = scores[:, order] * signs, shares[order]
    low, high = np.percentile(scores[shown], CLIPPED, axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1) * shown[:, None]
    return list(colours.reshape(len(tokens), *grid, 3)), shares


def stands_out(colours: Float[np.ndarray, "gx gy gz 3"], lesions: Bool[np.ndarray, " N"], body: Bool[np.ndarray, " N"]) -> float:
    """How far lesions' patches are from their neighbours in colour, over the same for the other patches of the body: above 1 they stand out.

    Distance: Euclidean, from the mean of the body patches among the 26 neighbours. NaN without lesions in the body, or without other patches.
    """
    from scipy.ndimage import convolve

    inside, marked = (np.asarray(m, bool).reshape(colours.shape[:3]) for m in (body, lesions))
    ring = np.ones((3, 3, 3))
    ring[1, 1, 1] = 0
    count = convolve(inside.astype(float), ring, mode="constant")
    around = np.stack([convolve(np.where(inside, colours[..., c], 0.0), ring, mode="constant") for c in range(3)], -1)
    away = np.linalg.norm(colours - around / np.maximum(count, 1)[..., None], axis=-1)
    known = inside & (count > 0)
    ours, others = away[known & marked], away[known & ~marked]
    return float(ours.mean() / others.mean()) if len(ours) and len(others) and others.mean() else float("nan")


def _towards(scores: np.ndarray, density: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Which component is red, green, blue, and their signs: the one that follows density most is red and rises, the others fall."""
    follow = (scores - scores.mean(0)).T @ (density - density.mean()) / np.maximum(scores.std(0), 1e-12)
    red = int(np.abs(follow).argmax())
    order = [red, *(c for c in range(scores.shape[1]) if c != red)]
    return order, np.where(follow[order] < 0, -1.0, 1.0) * np.array([1.0, -1.0, -1.0])


def _first_component(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    if inside.all() or not inside.any():
        raise ValueError("the first component is turned by the body: mark some patches as body and some not")
    score = _components(x, np.ones(len(x), bool), count=1)[0][:, 0]
    return score > 0 if score[inside].mean() >= score[~inside].mean() else score < 0


def _components(x: np.ndarray, chosen: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all rows on the leading components of the chosen rows, and the share of variance of each. The largest score is positive."""
    if chosen.sum() <= count or x.shape[1] < count:
        raise ValueError(f"{count} components need more than {count} foreground patches and {count} features; there are {chosen.sum()}, {x.shape[1]}")
    mean = x[chosen].mean(0)
    _, s, directions = np.linalg.svd(x[chosen] - mean, full_matrices=False)
    scores = (x - mean) @ directions[:count].T
    extreme = np.abs(scores[chosen]).argmax(0)
    return scores * np.where(scores[chosen][extreme, range(count)] < 0, -1.0, 1.0), (s**2 / max((s**2).sum(), 1e-300))[:count]


def top_patches(similarity: Float[np.ndarray, " N"], k: int) -> Int[np.ndarray, " K"]:
    """Indices of the k highest patches, highest first; of equal patches the lowest index first. k is held within 1 and N; NaN is never chosen.

    Raises: ValueError if every patch is NaN.
    """
    known = int(np.isfinite(similarity).sum())
    if not known:
        raise ValueError("no patch has a similarity: every one is NaN")
    return np.argsort(-np.asarray(similarity, dtype=np.float64), kind="stable")[: min(max(1, k), known)]


def sentence_map(
    similarity: Float[np.ndarray, " N"], grid: Grid, *, patch: tuple[int, int, int], interpolation: str = "nearest"
) -> Float[np.ndarray, "X Y Z"]:
    """Similarity of every patch spread over its voxels: "nearest" paints whole patches, "linear" blends between patch centres (flat beyond)."""
    field = np.asarray(similarity, dtype=np.float32).reshape(grid)
    if interpolation not in ("nearest", "linear"):
        raise ValueError(f"unknown interpolation {interpolation!r}; there are nearest, linear")
    for axis, (n, p) in enumerate(zip(grid, patch, strict=True)):
        if interpolation == "nearest":
            field = np.repeat(field, p, axis=axis)
        else:
            at = np.clip((np.arange(n * p) + 0.5) / p - 0.5, 0, n - 1)
            low = np.minimum(at.astype(int), max(n - 2, 0))
            weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            field = np.take(field, low, axis=axis) * (1 - weight) + np.take(field, np.minimum(low + 1, n - 1), axis=axis) * weight
    return field


def patch_centres_mm(grid: Grid, patch: tuple[int, int, int], affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "N 3"]:
    """World RAS millimetres of every patch's centre; `affine` is that of the cropped volume."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid), indexing="ij"), -1).reshape(-1, 3)
    voxel = (index + 0.5) * np.asarray(patch) - 0.5
    return voxel @ affine[:3, :3].T + affine[:3, 3]


def attention_distance_mm(shares: Float[np.ndarray, "H N"], centres_mm: Float[np.ndarray, "N 3"], query: int) -> Float[np.ndarray, " H"]:
    """How far a patch looks on average: the mean distance of all patches from the patch `query`, weighted by what each head gives them, in mm.

    Shares need not sum to 1 (the class token has its own). A head that gives nothing to any patch looks nowhere: NaN.
    """
    away = np.linalg.norm(np.asarray(centres_mm, np.float64) - centres_mm[query], axis=1)
    shares = np.asarray(shares, np.float64)
    total = shares.sum(-1)
    return np.divide(shares @ away, total, out=np.full(total.shape, np.nan), where=total > 0)


def attention_spread(shares: Float[np.ndarray, "H N"]) -> Float[np.ndarray, " H"]:
    """On how many patches a head looks: exp of the entropy of its shares, 1 for a single patch, N for an even look. NaN where it gives nothing."""
    shares = np.asarray(shares, np.float64)
    total = shares.sum(-1, keepdims=True)
    share = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(-1)
    return np.where(total[..., 0] > 0, np.exp(entropy), np.nan)


def to_scan_grid(
    field: Float[np.ndarray, "gx gy gz"],
    crop_affine: Float[np.ndarray, "4 4"],
    scan_affine: Float[np.ndarray, "4 4"],
    *,
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    interpolation: str = "nearest",
    outside: float = np.nan,
) -> Float[np.ndarray, "X Y Z"]:
    """A patch map on the scan's own voxel grid, placed by world coordinates; `outside` where the crop does not reach.

    `scan_affine` may have any axis order and direction. Works plane by plane, so memory stays at the size of the answer.
    Raises: ValueError for an unknown interpolation or an affine that cannot be inverted.
    """
    from scipy.ndimage import map_coordinates

    if interpolation not in ("nearest", "linear"):
        raise ValueError(f"unknown interpolation {interpolation!r}; there are nearest, linear")
    if not np.linalg.det(np.asarray(crop_affine)[:3, :3]):
        raise ValueError("the crop's affine cannot be inverted")
    patches = np.diag([*(1 / np.asarray(patch, float)), 1.0])
    patches[:3, 3] = 0.5 / np.asarray(patch, float) - 0.5  # voxel (p - 1) / 2 is the centre of patch 0
    to_patch = patches @ np.linalg.inv(crop_affine) @ scan_affine
    size = np.asarray(field.shape)[:, None, None]
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    plane = np.einsum("ij,jxy->ixy", to_patch[:3, :2], np.stack([x, y])) + to_patch[:3, 3, None, None]
    out = np.full(shape, outside, np.float32)
    for z in range(shape[2]):
        at = plane + z * to_patch[:3, 2, None, None]
        within = ((at > -0.5 - 1e-6) & (at < size - 0.5 - 1e-6)).all(0)
        if within.any():
            out[..., z][within] = map_coordinates(field.astype(np.float32), at[:, within], order=int(interpolation == "linear"), mode="nearest")
    return out
