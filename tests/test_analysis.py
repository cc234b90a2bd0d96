"""What an effective rank, a PCA map and a sentence map must be, from their definitions."""

import numpy as np
import pytest
from scipy.stats import ortho_group

from asapkit import analysis

GRID, PATCH = (5, 4, 3), (12, 10, 6)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(width, seed=0):
    return ortho_group.rvs(width, random_state=seed)


def test_effective_rank_of_rank_one_is_one():
    assert analysis.effective_rank(np.outer(draw(40), draw(12))) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("shape", [(12, 12), (40, 12), (12, 40)])
def test_effective_rank_of_orthonormal_rows_or_columns_is_full(shape):
    q = min(shape)
    x = rotation(max(shape))[: shape[0], : shape[1]]
    assert analysis.effective_rank(x) == pytest.approx(q)
    assert analysis.effective_rank(x, normalised=True) == pytest.approx(1)


def test_effective_rank_is_the_written_out_entropy():
    x = draw(30, 7) * np.arange(1, 8)
    s = [np.sqrt(value) for value in np.linalg.eigvalsh(x.T @ x)]
    entropy = 0.0
    for value in s:
        p = value / sum(s)
        entropy -= p * np.log(p)
    assert analysis.effective_rank(x) == pytest.approx(np.exp(entropy))


@pytest.mark.parametrize("shape", [(300, 40), (30, 70)])
@pytest.mark.parametrize("steepness", [0, 2, 5, 9, None])
def test_ranks_are_those_of_the_singular_values_however_steep(shape, steepness):
    rng = np.random.default_rng(0)
    q = min(shape)
    u, v = (np.linalg.qr(rng.standard_normal((n, q)))[0] for n in shape)
    s = np.ones(q) * (np.arange(q) < 3) if steepness is None else np.logspace(0, -steepness, q)
    tokens = (u * s) @ v.T
    share = s[s > 0] / s.sum()
    assert analysis.effective_rank(tokens) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)
    exact = np.linalg.svd(tokens, compute_uv=False)
    assert analysis.energy_rank(tokens) == int(np.searchsorted(np.cumsum(exact**2), 0.9 * (exact**2).sum() * (1 - 1e-12)) + 1)


def test_effective_rank_ignores_rotation_scale_and_order():
    x = draw(50, 9) * np.linspace(0.1, 3, 9)
    rank = analysis.effective_rank(x)
    for same in (x @ rotation(9), 1e4 * x, 1e-4 * x, x[::-1], rotation(50) @ x):
        assert analysis.effective_rank(same) == pytest.approx(rank)


def test_centering_removes_a_common_token():
    x = draw(60, 8)
    assert analysis.effective_rank(x + 100) < 2
    assert analysis.effective_rank(x + 100, center=True) == pytest.approx(analysis.effective_rank(x, center=True))


def test_effective_rank_refuses_what_has_none():
    assert analysis.effective_rank(np.zeros((4, 3))) == 0
    with pytest.raises(ValueError, match="NaN"):
        analysis.effective_rank(np.full((4, 3), np.nan))


def test_energy_rank_counts_directions_to_the_share():
    x = np.zeros((6, 4))
    x[range(4), range(4)] = np.sqrt([60, 30, 9, 1])
    assert [analysis.energy_rank(x, share=s) for s in (0.5, 0.6, 0.9, 0.95, 1.0)] == [1, 1, 2, 3, 4]


def test_spectra_are_geometric_means_over_volumes_per_layer():
    volumes = [[draw(20, 6, seed=v + 10 * layer) for layer in range(3)] for v in range(4)]
    curves = analysis.spectra(volumes)
    assert curves.shape == (3, 6) and np.allclose(curves[:, 0], 1) and (np.diff(curves) <= 0).all()
    second = np.prod([np.linalg.svd(v[1])[1][2] / np.linalg.svd(v[1])[1][0] for v in volumes]) ** 0.25
    assert curves[1, 2] == pytest.approx(second)
    with pytest.raises(ValueError, match="differ"):
        analysis.spectra([[draw(20, 6)], [draw(20, 5)]])


def test_rank_table_agrees_with_single_calls():
    layers = [draw(20, 6, seed=s) for s in range(2)]
    table = analysis.rank_table({"a": layers, "b": layers[::-1]})
    assert list(table.layer) == [1, 2, 1, 2]
    row = table.query("id == 'b' and layer == 1").iloc[0]
    assert row.effective_rank == pytest.approx(analysis.effective_rank(layers[1]))
    assert row.energy_rank_90 == analysis.energy_rank(layers[1]) and row.normalised == pytest.approx(row.effective_rank / 6)


def test_values_of_layers_are_all_that_ranks_and_spectra_need():
    volumes = {name: [draw(30, 5, seed=v + 7 * layer) for layer in range(2)] for v, name in enumerate("ab")}
    values = {name: analysis.layer_values(layers) for name, layers in volumes.items()}
    assert values["a"].shape == (2, 5)
    assert np.allclose(values["b"][1], np.linalg.svd(volumes["b"][1])[1])
    assert analysis.ranks(values).equals(analysis.rank_table(volumes))
    assert np.allclose(analysis.spectra_of(values.values()), analysis.spectra(volumes.values()))
    with pytest.raises(ValueError, match="layers differ"):
        analysis.layer_values([draw(20, 6), draw(20, 5)])
    with pytest.raises(ValueError, match="no volume"):
        analysis.spectra_of([])


def test_attention_distance_and_spread_are_their_definitions_in_a_loop():
    rng = np.random.default_rng(0)
    shares, centres = rng.random((3, 24)) * 0.04, rng.normal(size=(24, 3)) * 50
    distance, spread = analysis.attention_distance_mm(shares, centres, 5), analysis.attention_spread(shares)
    for head in range(3):
        total = sum(float(s) for s in shares[head])
        far = sum(shares[head, n] * sum((centres[n, a] - centres[5, a]) ** 2 for a in range(3)) ** 0.5 for n in range(24)) / total
        entropy = -sum(shares[head, n] / total * np.log(shares[head, n] / total) for n in range(24))
        assert distance[head] == pytest.approx(far) and spread[head] == pytest.approx(np.exp(entropy))


def test_a_head_that_looks_at_itself_looks_nowhere_far_and_an_even_one_at_all():
    centres = analysis.patch_centres_mm(GRID, PATCH, np.diag([2.0, 2, 2, 1]))
    shares = np.zeros((3, len(centres)))
    shares[0, 7], shares[1] = 0.3, 0.01
    assert analysis.attention_distance_mm(shares, centres, 7)[:2] == pytest.approx([0, np.linalg.norm(centres - centres[7], axis=1).mean()])
    assert analysis.attention_spread(shares)[:2] == pytest.approx([1, len(centres)])
    assert np.isnan(analysis.attention_distance_mm(shares, centres, 7)[2]) and np.isnan(analysis.attention_spread(shares)[2])


def body_and_tokens(seed=0, width=16):
    n = int(np.prod(GRID))
    body = np.random.default_rng(5).random(n) < 0.6
    return body, draw(n, width, seed=seed) * np.linspace(3, 0.2, width) + 8 * np.outer(body, draw(width, seed=9))


@pytest.mark.parametrize("foreground", ["body", "component"])
def test_pca_map_is_black_outside_the_body_and_spans_the_colours_inside(foreground):
    body, tokens = body_and_tokens()
    colours = analysis.pca_map(tokens, body, GRID, foreground=foreground)
    assert colours.shape == (*GRID, 3) and colours.min() == 0 and colours.max() == 1
    flat = colours.reshape(-1, 3)
    assert not flat[~body].any() and flat[body].any(axis=1).mean() > 0.95


@pytest.mark.parametrize("foreground", ["body", "component"])
def test_pca_map_ignores_rotation_scale_and_shift_of_feature_space(foreground):
    body, tokens = body_and_tokens()
    moved = 7 * tokens @ rotation(16) + draw(16, seed=3)
    assert np.allclose(analysis.pca_map(tokens, body, GRID, foreground=foreground), analysis.pca_map(moved, body, GRID, foreground=foreground))


def test_pca_maps_of_several_volumes_share_one_basis():
    body, tokens = body_and_tokens()
    other = tokens[::-1].copy()
    (first, second), shares = analysis.pca_maps([tokens, other], [body, body[::-1]], GRID)
    assert np.allclose(second.reshape(-1, 3)[::-1], first.reshape(-1, 3))
    assert (np.diff(shares) <= 0).all() and 0 < shares.sum() <= 1


def test_density_turns_the_colours_whatever_the_signs_and_order_of_the_components():
    body, tokens = body_and_tokens()
    density = tokens @ draw(16, seed=4)
    (colours,), shares = analysis.pca_maps([tokens], [body], GRID, density=[density])
    red, green, blue = (np.corrcoef(colours.reshape(-1, 3)[body, c], density[body])[0, 1] for c in range(3))
    assert red > 0 > max(green, blue) and red > max(-green, -blue) - 0.05, "red follows density most"
    plain = analysis.pca_maps([tokens], [body], GRID)[1]
    assert sorted(shares) == pytest.approx(sorted(plain))
    (turned,), _ = analysis.pca_maps([-tokens], [body], GRID, density=[density])
    assert np.allclose(turned, colours)
    (fallen,), _ = analysis.pca_maps([tokens], [body], GRID, density=[-density])
    assert np.allclose(fallen.reshape(-1, 3)[body], 1 - colours.reshape(-1, 3)[body])


def test_lesions_stand_out_as_a_loop_over_neighbours_says():
    rng = np.random.default_rng(0)
    colours, body, lesions = rng.random((*GRID, 3)), rng.random(60) < 0.8, rng.random(60) < 0.2
    away = {True: [], False: []}
    for place in np.ndindex(GRID):
        near = [p for p in np.ndindex(GRID) if p != place and max(abs(np.subtract(p, place))) == 1 and body.reshape(GRID)[p]]
        if body.reshape(GRID)[place] and near:
            mean = sum(colours[p] for p in near) / len(near)
            away[bool(lesions.reshape(GRID)[place])].append(np.sqrt(((colours[place] - mean) ** 2).sum()))
    assert analysis.stands_out(colours, lesions, body) == pytest.approx(np.mean(away[True]) / np.mean(away[False]))
    assert np.isnan(analysis.stands_out(colours, np.zeros(60, bool), body))


def test_pca_map_says_what_is_missing():
    body, tokens = body_and_tokens()
    with pytest.raises(ValueError, match="foreground patches"):
        analysis.pca_map(tokens, np.zeros_like(body), GRID)
    with pytest.raises(ValueError, match="grid"):
        analysis.pca_map(tokens[:-1], body[:-1], GRID)
    with pytest.raises(ValueError, match="some not"):
        analysis.pca_map(tokens, np.ones_like(body), GRID, foreground="component")


def test_top_patches_are_highest_first_and_ties_lowest_index_first():
    assert analysis.top_patches(np.array([1, 5, 5, np.nan, 0, 5]), 4).tolist() == [1, 2, 5, 0]
    assert analysis.top_patches(np.zeros(3), 99).tolist() == [0, 1, 2]
    assert analysis.top_patches(np.arange(3.0), 0).tolist() == [2]
    assert analysis.top_patches(np.array([np.nan, 1, 2, np.nan]), 4).tolist() == [2, 1]
    with pytest.raises(ValueError, match="every one is NaN"):
        analysis.top_patches(np.full(3, np.nan), 1)


def test_sentence_map_paints_row_major_patches():
    similarity = np.arange(60, dtype=float)
    painted = analysis.sentence_map(similarity, GRID, patch=PATCH)
    assert painted.shape == (60, 40, 18)
    for x, y, z in [(0, 0, 0), (59, 0, 7), (13, 39, 17), (31, 22, 5)]:
        assert painted[x, y, z] == (x // 12) * 12 + (y // 10) * 3 + z // 6


def test_linear_sentence_map_keeps_patch_centres_and_bounds():
    similarity = draw(60)
    patch = (5, 3, 7)  # odd: a patch has a middle voxel
    smooth = analysis.sentence_map(similarity, GRID, patch=patch, interpolation="linear")
    assert np.allclose(smooth[2::5, 1::3, 3::7].ravel(), similarity, atol=1e-6)
    assert smooth.min() >= similarity.min() - 1e-6 and smooth.max() <= similarity.max() + 1e-6
    flat = analysis.sentence_map(np.ones(2), (1, 2, 1), patch=(2, 2, 2), interpolation="linear")
    assert (flat == 1).all()


def affine_of(spacing_mm, origin, turn=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) * spacing_mm
    affine[:3, 3] = origin
    return affine


def test_patch_centres_are_the_means_of_their_voxels():
    affine = affine_of((1.5, 2, 3), (-40, 10, 7), rotation(3, seed=2))
    index = np.stack(np.meshgrid(*(np.arange(g * p) for g, p in zip(GRID, PATCH, strict=True)), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    patches = world.reshape(5, 12, 4, 10, 3, 6, 3).mean((1, 3, 5)).reshape(-1, 3)
    assert np.allclose(analysis.patch_centres_mm(GRID, PATCH, affine), patches)


def test_scan_grid_of_the_crop_itself_is_the_sentence_map():
    field = draw(60).reshape(GRID).astype(np.float32)
    affine = affine_of((1.5, 2, 3), (-40, 10, 7))
    for interpolation in ("nearest", "linear"):
        back = analysis.to_scan_grid(field, affine, affine, shape=(60, 40, 18), patch=PATCH, interpolation=interpolation)
        assert np.allclose(back, analysis.sentence_map(field.ravel(), GRID, patch=PATCH, interpolation=interpolation), atol=1e-5)


def test_scan_grid_finds_patches_by_world_coordinates_in_any_axis_order():
    field = np.arange(60, dtype=np.float32).reshape(GRID)
    crop = affine_of((2, 2, 4), (-40, -30, 100))
    scan = np.array([[0, -1.0, 0, 90], [0, 0, 1.0, -60], [3.0, 0, 0, 80], [0, 0, 0, 1]])  # array axes: superior, left, anterior
    back = analysis.to_scan_grid(field, crop, scan, shape=(40, 150, 120), patch=PATCH)
    centres = analysis.patch_centres_mm(GRID, PATCH, crop)
    voxels = np.rint((np.c_[centres, np.ones(60)] @ np.linalg.inv(scan).T)[:, :3]).astype(int)
    assert np.array_equal(back[tuple(voxels.T)], field.ravel())
    seen = np.isfinite(back)
    assert seen.sum() * 3 == pytest.approx(60 * 40 * 18 * 16, rel=0.02)  # voxel volumes: 3 and 16 cubic millimetres
    assert not seen[0].any() and not seen[:, 0].any()
