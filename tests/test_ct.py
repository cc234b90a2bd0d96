"""CT volumes are read the right way round, resampled where the affine says, and refused with one clear line when they cannot be used."""

from __future__ import annotations

import gzip
import itertools
import locale
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from asapkit import chest, ct, formats
from asapkit.config import Config, Contract
from asapkit.types import Refused, Volume

CHESTS = {
    "ts_chest_cta/example_ct.nii.gz": (),
    "pyradiomics_lung1/lung1_image.nrrd": (),
    "cip_ct64/ct-64.nrrd": ("coarse pixels: 4.2 mm",),
    "cip_ct64/ct-64Dicom": ("coarse pixels: 4.2 mm",),
    "lung_dx_a0002/Lung_Dx-A0002.zip#B40f": ("coarse slices: 8.0 mm",),
    "lung_dx_a0002/Lung_Dx-A0002.zip#B70f": ("coarse slices: 8.0 mm",),
    "lidc_idri_0314_every2nd/LIDC-IDRI-0314_every_second_slice.zip": ("1.00 mm thick by their tag",),
}


def body(shape=(40, 36, 32), seed=0) -> np.ndarray:
    """A box of soft tissue with an air pocket, asymmetric on every axis, in HU."""
    array = np.full(shape, -1000, np.int16)
    array[4:-6, 5:-3, 1:] = 40
    array[8:18, 9:20, 4:24] = -850
    array[12:14, 22:24, 10] = 700
    return array + np.random.default_rng(seed).integers(-9, 9, shape).astype(np.int16)


def ras(spacing=(3.0, 3.0, 5.0), origin=(-60.0, 20.0, 300.0)) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def write(path: Path, array, affine, **header) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def sphere(shape, affine, centre, radius=30.0, inside=50.0, outside=-900.0) -> np.ndarray:
    """An analytic ball, smooth over one millimetre at its rim so that sampling it is exact enough."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - centre, axis=-1)
    return (outside + (inside - outside) * np.clip((radius - distance) / 4 + 0.5, 0, 1)).astype(np.float32)


def centroid(volume: Volume, outside=-900.0) -> np.ndarray:
    weight = np.asarray(volume.array, float) - outside
    index = np.stack(np.meshgrid(*(np.arange(n) for n in weight.shape), indexing="ij"), -1)
    middle = (index * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    return volume.affine[:3, :3] @ middle + volume.affine[:3, 3]


# ------------------------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_all_48_axis_orders_of_a_file_give_the_same_volume(tmp_path, order):
    array, affine = body(), ras()
    for flips in itertools.product((1, -1), repeat=3):
        turn = np.stack([order, flips], 1)
        turned = nibabel.orientations.apply_orientation(array, turn)
        its_affine = affine @ nibabel.orientations.inv_ornt_aff(turn, array.shape)
        read = ct.read(write(tmp_path / "turned.nii.gz", turned, its_affine))
        np.testing.assert_array_equal(read.array, array)
        np.testing.assert_allclose(read.affine, affine, atol=1e-4)


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_resampling_gives_the_same_values_however_the_array_lies_in_memory(flips):
    array, affine = body(), ras()
    contract = Contract((4.0, 3.5, 8.0), (8, 8, 8))
    plain = ct.to_contract(Volume(array, affine), contract)
    for order in itertools.permutations(range(3)):
        stored = np.ascontiguousarray(array.transpose(order)[tuple(slice(None, None, f) for f in flips)])
        view = stored[tuple(slice(None, None, f) for f in flips)].transpose(np.argsort(order))
        other = ct.to_contract(Volume(view, affine), contract)
        difference = np.abs(plain.array.astype(int) - other.array)  # sums in another order may round the other way
        assert difference.max() <= 1 and (difference > 0).mean() < 0.002


# -------------------------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("resampler", ["clean", "official"])
@pytest.mark.parametrize("spacing", [(0.75, 0.8, 1.0), (1.5, 1.4, 5.0), (3.1, 0.9, 2.0)])
def test_the_centroid_of_a_sphere_stays_within_a_tenth_of_a_millimetre(resampler, spacing):
    shape = tuple(int(130 / s) + 1 for s in spacing)
    affine = ras(spacing, (-65.0, -60.0, 500.0))
    centre = np.array([1.3, 4.2, 566.1])
    before = Volume(sphere(shape, affine, centre), affine)
    after = ct.resample(before, (1.5, 1.5, 3.0), resampler=resampler)
    if resampler == "clean":
        np.testing.assert_allclose(after.spacing_mm, (1.5, 1.5, 3.0), rtol=1e-6)
    assert np.abs(centroid(after) - centroid(before)).max() < 0.1


@pytest.mark.parametrize(
    "shape, spacing, target", [((40, 30, 20), (0.7, 0.8, 2.5), (1.5, 1.5, 3.0)), ((17, 23, 31), (2.0, 1.5, 1.0), (1.5, 1.5, 3.0))]
)
def test_the_official_resampler_equals_torch_interpolate(shape, spacing, target):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours = ct.resample(Volume(array, ras(spacing)), target, resampler="official").array
    size = [int(np.floor(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True)]
    theirs = torch.nn.functional.interpolate(torch.from_numpy(array)[None, None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow  # MONAI takes ten seconds to import
def test_the_clean_resampler_agrees_with_monai_on_a_smooth_field():
    transforms = pytest.importorskip("monai.transforms")
    affine = ras((0.9, 0.9, 1.5), (-40.0, -35.0, 100.0))
    volume = Volume(sphere((90, 80, 60), affine, np.array([0.0, 1.0, 145.0]), radius=25), affine)
    ours = ct.resample(volume, (1.5, 1.5, 3.0))
    from monai.data import MetaTensor

    theirs = transforms.Spacing((1.5, 1.5, 3.0), mode="bilinear")(MetaTensor(volume.array[None], affine=affine))
    other = Volume(np.asarray(theirs[0]), np.asarray(theirs.affine))
    assert np.abs(centroid(ours) - centroid(other)).max() < 0.15


def test_the_clean_resampler_smooths_noise_that_linear_sampling_keeps():
    noise = np.random.default_rng(0).normal(0, 30, (96, 96, 60)).astype(np.float32)
    volume = Volume(noise, ras((0.75, 0.75, 1.0)))
    clean, official = (ct.resample(volume, (1.5, 1.5, 3.0), resampler=r).array.std() for r in ("clean", "official"))
    assert clean < 10 < official


def test_nothing_changes_at_the_same_spacing():
    array, affine = body(), ras((1.5, 1.5, 3.0))
    for resampler in ("clean", "official"):
        same = ct.to_contract(Volume(array, affine), Contract((1.5, 1.5, 3.0), (8, 8, 8), resampler=resampler))
        np.testing.assert_array_equal(same.array, array.clip(-1000, 1000))
        np.testing.assert_allclose(same.affine, affine)


def test_a_constant_stays_constant_up_to_the_border_and_values_are_rounded():
    volume = Volume(np.full((30, 31, 32), 7.6, np.float32), ras((0.7, 1.9, 4.0)))
    assert (ct.to_contract(volume, Contract((1.5, 1.5, 3.0), (8, 8, 8))).array == 8).all()


def test_the_window_is_clipped_before_averaging():
    array = np.full((32, 32, 32), 40, np.int16)
    array[:16] = -3024  # padding outside the field of view, as scanners write it
    result = ct.to_contract(Volume(array, ras((1.0, 1.0, 1.0))), Contract((2.0, 2.0, 2.0), (8, 8, 8)))
    assert result.array.min() == -1000 and result.array.dtype == np.int16 and result.array.flags.c_contiguous


def test_the_field_keeps_its_place_under_both_resamplers():
    volume = Volume(body((41, 37, 33)), ras((0.9, 1.1, 2.3)))

    def ends(v):
        return np.array([v.affine @ [-0.5, -0.5, -0.5, 1], v.affine @ [*(np.array(v.array.shape) - 0.5), 1]])[:, :3]

    np.testing.assert_allclose(ends(ct.resample(volume, (1.5, 1.5, 3.0), resampler="official")), ends(volume), atol=1e-6)
    middle = ends(ct.resample(volume, (1.5, 1.5, 3.0))).mean(0)
    np.testing.assert_allclose(middle, ends(volume).mean(0), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ crop and pad


@pytest.mark.parametrize("shape", [(10, 30, 20), (40, 7, 3), (24, 24, 24), (1, 50, 25)])
def test_cropping_and_padding_keep_voxels_where_the_affine_says(shape):
    array, affine, crop = np.arange(np.prod(shape), dtype=np.int32).reshape(shape), ras(), (24, 20, 12)
    fitted, moved = ct.fit(array, crop, pad=-1.0), ct.fit_affine(affine, shape, crop)
    assert fitted.shape == crop
    kept = np.argwhere(fitted >= 0)
    assert len(kept) == np.prod(np.minimum(shape, crop))
    world = kept @ moved[:3, :3].T + moved[:3, 3]
    back = np.rint((world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    np.testing.assert_array_equal(array[tuple(back.T)], fitted[tuple(kept.T)])


@pytest.mark.slow
def test_centre_crop_and_reflect_pad_equal_monai():
    transforms = pytest.importorskip("monai.transforms")
    for shape in [(30, 9, 20), (25, 24, 7), (12, 40, 11)]:
        array, crop = np.random.default_rng(1).integers(0, 99, shape).astype(np.int16), (16, 16, 12)
        theirs = transforms.SpatialPad(crop, mode="reflect")(transforms.CenterSpatialCrop(crop)(array[None]))
        np.testing.assert_array_equal(ct.fit(array, crop), np.asarray(theirs)[0])


def test_a_start_places_the_crop_and_one_outside_raises():
    array = np.arange(1000).reshape(10, 10, 10)
    np.testing.assert_array_equal(ct.fit(array, (4, 10, 2), start=(6, 0, 3)), array[6:10, :, 3:5])
    with pytest.raises(ValueError, match="between 0 and 6"):
        ct.fit(array, (4, 10, 2), start=(7, 0, 3))
    np.testing.assert_allclose(ct.fit_affine(np.eye(4), (10, 10, 10), (4, 10, 2), start=(6, 0, 3))[:3, 3], (6, 0, 3))


def test_resize_squeezes_the_whole_field_and_never_averages_labels():
    affine = ras((1.0, 1.0, 2.0), (-45.0, -40.0, 0.0))
    before = Volume(sphere((90, 80, 40), affine, np.array([0.5, 1.0, 39.0]), radius=20), affine)
    crop = (45, 60, 30)
    after = Volume(ct.fit(before.array, crop, fit="resize"), ct.fit_affine(affine, (90, 80, 40), crop, fit="resize"))
    assert after.array.shape == crop and np.abs(centroid(after) - centroid(before)).max() < 0.1
    labels = np.random.default_rng(0).choice(np.array([0, 3, 9], np.uint8), (9, 8, 7))
    assert set(np.unique(ct.fit(labels, (20, 5, 4), fit="resize"))) <= {0, 3, 9}


def test_unknown_words_raise_with_the_known_ones():
    with pytest.raises((ValueError, TypeError), match="crop_pad"):
        ct.fit(np.zeros((4, 4, 4)), (2, 2, 2), fit="squash")
    with pytest.raises((ValueError, TypeError), match="clean"):
        ct.resample(Volume(body(), ras()), (1.0, 1.0, 1.0), resampler="cubic")


# ------------------------------------------------------------------------------------------------------------------ labels


def test_labels_are_placed_by_world_coordinates_on_any_grid():
    like = Volume(body((40, 36, 30)), ras((1.5, 1.5, 3.0)))
    truth = np.zeros((40, 36, 30), np.uint32)
    truth[10:20, 12:30, 5:9] = 1 << 31
    truth[25:30, 3:9, 20:28] = 5
    cut = Volume(truth[8:35, 2:31, 4:29], ct.fit_affine(like.affine, truth.shape, (27, 29, 25), start=(8, 2, 4)))
    placed = ct.resample_labels(cut, like)
    assert placed.dtype == np.uint32
    np.testing.assert_array_equal(placed, truth)
    turned = Volume(*(np.flip(cut.array, 0), cut.affine @ nibabel.orientations.inv_ornt_aff([[0, -1], [1, 1], [2, 1]], cut.array.shape)))
    np.testing.assert_array_equal(ct.resample_labels(turned, like), truth)
    far = replace(cut, affine=ras((1.5, 1.5, 3.0), (9000.0, 0.0, 0.0)))
    assert not ct.resample_labels(far, like).any()


def test_labels_on_a_rotated_grid_go_the_general_way():
    from scipy.spatial.transform import Rotation

    like = Volume(body((50, 50, 50)), ras((2.0, 2.0, 2.0), (-50.0, -50.0, -50.0)))
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [10, -14, 22], degrees=True).as_matrix()
    affine = turn @ ras((1.0, 1.0, 1.0), (-60.0, -60.0, -60.0))
    ball = (sphere((120, 120, 120), affine, np.array([10.0, -5.0, 8.0]), radius=20) > -400).astype(np.uint8)
    placed = ct.resample_labels(Volume(ball, affine), like)
    assert np.abs(centroid(Volume(placed, like.affine), outside=0.0) - [10, -5, 8]).max() < 0.3
    assert placed.sum() * 8 == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.05)


# ------------------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.mhd"])
def test_every_single_file_format_gives_the_same_volume(tmp_path, name):
    array, affine = body(), ras()
    if ".nii" in name:
        ct.save(Volume(array, affine), tmp_path / name)
    else:
        image = sitk.GetImageFromArray(array.transpose())
        image.SetSpacing((3.0, 3.0, 5.0))
        image.SetOrigin((60.0, -20.0, 300.0))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / name))
    read = ct.read(tmp_path / name)
    np.testing.assert_array_equal(read.array, array)
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)


def test_saving_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    volume = Volume(body(), ras())
    for name in ("a.nii.gz", "b.nii.gz"):
        ct.save(volume, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def write_dicom(folder: Path, array: np.ndarray, *, uid="1.2.3", words="chest", thickness=5.0, skip=(), step=0.0) -> Path:
    """An axial series of one file per slice, stored with an intercept; the order of the file names is not that of the slices."""
    before = locale.setlocale(locale.LC_ALL)
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    fixed = {
        "0008|0060": "CT", "0020|000e": uid, "0008|103e": words, "0018|0050": str(thickness), "0020|0011": uid[-1],
        "0020|0037": "1\\0\\0\\0\\1\\0", "0028|1052": "-1024", "0028|1053": "1", "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
    }  # fmt: skip
    for k in set(range(array.shape[2])) - set(skip):
        image = sitk.GetImageFromArray(array[:, :, k].T.astype(np.int16)[None])  # HU: the writer itself subtracts the intercept
        image.SetSpacing((3.0, 3.0, 1.0))
        place = {"0020|0032": f"-60\\{-20 + step * k}\\{300 + 5 * k}", "0008|0018": f"{uid}.{k + 1}", "0020|0013": str(k + 1)}
        for key, value in (fixed | place).items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{(k * 7) % 101:03d} {words}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # the writer turns it to C, and the tests that follow would read texts as ASCII
    return folder


def test_dicom_is_sorted_scaled_once_and_found_below_odd_folder_names(tmp_path):
    array = body()
    write_dicom(tmp_path / "case 1.2" / "a. b", array)
    read = ct.read(tmp_path)
    np.testing.assert_array_equal(read.array, array[::-1, ::-1])  # written left and posterior, read right and anterior
    np.testing.assert_allclose(read.spacing_mm, (3, 3, 5))
    assert read.affine[2, 3] == pytest.approx(300) and not read.warnings[1:]


@pytest.mark.slow
def test_the_largest_series_is_taken_and_equal_ones_are_listed(tmp_path):
    array = body()
    write_dicom(tmp_path / "a", array, uid="1.2.1", words="soft")
    write_dicom(tmp_path / "scout", array[:, :, :20], uid="1.2.2", words="scout")
    assert ct.read(tmp_path).array.shape[2] == 32
    write_dicom(tmp_path / "b", array + 1, uid="1.2.3", words="sharp")
    with pytest.raises(Refused, match=r"soft.*sharp.*series="):
        ct.read(tmp_path)
    np.testing.assert_array_equal(ct.read(tmp_path, series="sharp").array, array[::-1, ::-1] + 1)
    np.testing.assert_array_equal(ct.read(Path(f"{tmp_path}#soft")).array, array[::-1, ::-1])
    with pytest.raises(Refused, match="fits 0"):
        ct.read(tmp_path, series="bone")


def test_missing_and_repeated_slices_are_refused_and_tilt_is_named(tmp_path):
    array = body()
    with pytest.raises(Refused, match="slices are missing"):
        ct.read(write_dicom(tmp_path / "gap", array, skip=(9, 10)))
    write_dicom(tmp_path / "twice", array)
    write_dicom(tmp_path / "twice" / "again", array[:, :, :5])
    with pytest.raises(Refused, match="place that is taken"):
        ct.read(tmp_path / "twice")
    assert any("gantry tilt" in w for w in ct.read(write_dicom(tmp_path / "tilt", array, step=1.0)).warnings)
    assert any("gaps between slices" in w for w in ct.read(write_dicom(tmp_path / "thin", array, thickness=2.0)).warnings)
    assert any("overlapping" in w for w in ct.read(write_dicom(tmp_path / "thick", array, thickness=9.0)).warnings)


FOREIGN = {
    "letter": b"08 is a number, and this a letter\n" * 30, "nothing": b"", "short": b"\x08\0\x05\0", "eight": b"\x08\0\x05\0CS\x04\0ABCD" * 40,
    "two": b"\x02\0\0\0UL\x04\0" + bytes(range(256)) * 4, "plan": bytes(128) + b"DICM" + b"1.2.840.10008.5.1.4.1.1.481.3" + bytes(900),
}  # fmt: skip


@pytest.mark.parametrize("meta", [True, False])
def test_dicom_without_the_bytes_before_its_magic_is_read_and_foreign_files_are_passed_over(tmp_path, capfd, meta):
    """What network archives hand out: files that begin with their tags, with those of group 2 or without."""
    for file in write_dicom(tmp_path / "d", body()).iterdir():
        tags = file.read_bytes()[132:]
        file.write_bytes(tags if meta else tags[12 + int.from_bytes(tags[8:12], "little") :])
    for name, data in FOREIGN.items():
        (tmp_path / "d" / name).write_bytes(data)
    read = ct.read(tmp_path / "d")
    np.testing.assert_array_equal(read.array, body()[::-1, ::-1])
    assert not [w for w in read.warnings if "left out" in w]
    with pytest.raises(Refused, match="one DICOM slice is no volume"):
        ct.read(file)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("left", [200, 900, 3690])
def test_a_truncated_slice_is_named(tmp_path, left):
    files = sorted(write_dicom(tmp_path / "d", body()).iterdir())
    inner, end = files[4], min(files, key=lambda f: sitk.ReadImage(str(f)).GetOrigin()[2])
    for file, data in [(inner, inner.read_bytes()), (end, end.read_bytes())]:
        file.write_bytes(data[:left])
        if file == inner:
            with pytest.raises(Refused, match=rf"^d: {file.name} cannot be read \(truncated\?\), and slices are missing: "):
                ct.read(tmp_path / "d")
        else:
            read = ct.read(tmp_path / "d")
            assert read.array.shape[2] == 31 and f"left out: {file.name} cannot be read (truncated?)" in read.warnings
        file.write_bytes(data)
    assert not [w for w in ct.read(tmp_path / "d").warnings if "left out" in w]
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        for file in files:
            archive.writestr(f"a/{file.name}", file.read_bytes()[: left if file == inner else None])
    with pytest.raises(Refused, match=rf"^d.zip: a/{inner.name} cannot be read"):
        ct.read(tmp_path / "d.zip")
    for file in files:
        file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(Refused, match=r"^d: .* and 31 more DICOM files cannot be read \(truncated\?\), and no other image"):
        ct.read(tmp_path / "d")


# ----------------------------------------------------------------------------------------------------------- HU and tables


@pytest.mark.parametrize("intercept", [-1024.0, -8192.0, -1000.0])
def test_table_values_are_applied_to_stored_values_and_not_to_hu(tmp_path, intercept):
    array = body()
    stored = write(tmp_path / "stored.nii.gz", (array - int(intercept)).astype(np.int16), ras())
    np.testing.assert_array_equal(ct.read(stored, slope=1.0, intercept=intercept).array, array)
    already = write(tmp_path / "hu.nii.gz", array, ras())
    read = ct.read(already, slope=1.0, intercept=intercept)
    np.testing.assert_array_equal(read.array, array)
    assert any("were not applied" in w for w in read.warnings)


def test_slope_and_intercept_of_the_header_are_applied_once(tmp_path):
    array = body()
    image = nibabel.Nifti1Image((array.astype(np.int32) + 1024).astype(np.uint16), ras())
    image.header.set_slope_inter(1.0, -1024.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    read = ct.read(tmp_path / "a.nii.gz", slope=1.0, intercept=-1024.0)
    assert read.array.dtype == np.int16
    np.testing.assert_array_equal(read.array, array)


def test_spacing_comes_from_the_table_only_when_the_header_has_none(tmp_path):
    blank = write(tmp_path / "blank.nii.gz", body((40, 36, 90)), np.eye(4))
    read = ct.read(blank, spacing_mm=(0.7, 0.7, 2.0))
    np.testing.assert_allclose(sorted(read.spacing_mm), (0.7, 0.7, 2.0))
    assert any("from the table" in w for w in read.warnings)
    assert any("blank header" in w for w in ct.read(blank).warnings)
    good = ct.read(write(tmp_path / "good.nii.gz", body(), ras()), spacing_mm=(0.7, 0.7, 2.0))
    np.testing.assert_allclose(good.spacing_mm, (3, 3, 5))
    assert any("differs from the table" in w for w in good.warnings)


def test_a_spacing_of_zero_is_not_taken_for_a_millimetre(tmp_path):
    """nibabel makes 1 mm of it; a scan of 200 slices would pass as 20 cm high."""
    tall = np.repeat(np.repeat(body(), 3, 2), 2, 1)
    path = write(tmp_path / "a.nii", tall, ras((3.0, 3.0, 5.0)))
    data = bytearray(path.read_bytes())
    data[252:256], data[80:92] = bytes(4), bytes(12)
    path.write_bytes(bytes(data))
    with pytest.raises(Refused, match="spacing 0 x 0 x 0.*is zero or not a number"):
        ct.read(path)
    np.testing.assert_allclose(ct.read(path, spacing_mm=(3.0, 3.0, 5.0)).spacing_mm, (3, 3, 5))
    nibabel.save(nibabel.Nifti1Image(tall, None), tmp_path / "blank.nii")  # no orientation at all, and 1 mm by default
    read = ct.read(tmp_path / "blank.nii", spacing_mm=(3.0, 3.0, 5.0))
    np.testing.assert_allclose(read.spacing_mm, (3, 3, 5))
    assert any("taken from the table" in w for w in read.warnings)


@pytest.mark.parametrize("unit, factor", [("meter", 1e-3), ("micron", 1e3), ("mm", 1.0), ("unknown", 1.0)])
def test_lengths_in_metres_and_micrometres_are_turned_to_millimetres(tmp_path, unit, factor):
    affine = np.diag([factor] * 3 + [1.0]) @ ras()
    image = nibabel.Nifti1Image(body(), affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii.gz")
    read = ct.read(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read.affine, ras(), rtol=1e-5)
    assert any("lengths are in" in w for w in read.warnings) == (unit in ("meter", "micron"))
    image.set_sform(ras())
    image.set_qform(ras())
    nibabel.save(image, tmp_path / "b.nii.gz")
    if factor != 1:  # millimetres under the name of another unit
        with pytest.raises(Refused, match=r"b.nii.gz: voxel spacing .* a field of .*lengths are in (micro)?metres.* no chest CT; repair"):
            ct.read(tmp_path / "b.nii.gz")


def test_a_header_with_two_spacings_uses_its_affine_and_says_so(tmp_path):
    path = write(tmp_path / "a.nii", body(), ras())
    data = bytearray(path.read_bytes())
    data[80:92] = np.float32([0.7, 0.7, 1.0]).tobytes()  # pixdim
    path.write_bytes(bytes(data))
    read = ct.read(path)
    np.testing.assert_allclose(read.spacing_mm, (3, 3, 5))
    assert any("pixdim" in w for w in read.warnings)
    data[80:92] = bytes(12)  # zero there, and a good affine
    path.write_bytes(bytes(data))
    np.testing.assert_allclose(ct.read(path).spacing_mm, (3, 3, 5))


# ---------------------------------------------------------------------------------------------------------------- refusals


def broken(folder: Path, kind: str) -> Path:
    """A file that cannot be used, of the named kind."""
    path, good = folder / "case.nii.gz", write(folder / "good.nii.gz", body(), ras()).read_bytes()
    plain = gzip.decompress(good)
    arrays = {
        "four_axes": np.zeros((9, 9, 9, 3), np.int16), "two_axes": body()[:, :, 0], "one_slice": body()[:, :, :1], "few_slices": body()[:, :, :12],
        "constant": np.full((20, 20, 20), -1024, np.int16), "nan": np.where(body() > 600, np.nan, body()).astype(np.float32),
        "low": body((20, 20, 20)), "enormous": np.where(body() > 600, 1e300, body()),
    }  # fmt: skip
    if kind in arrays:
        return write(path, arrays[kind], ras((3.0, 3.0, 2.0) if kind == "low" else (3.0, 3.0, 5.0)))
    if kind in ("zero_spacing", "nan_spacing"):
        header = bytearray(plain)
        bad = np.float32(0 if kind == "zero_spacing" else np.nan).tobytes()
        header[252:256] = b"\0" * 4  # neither qform nor sform: only pixdim is left
        header[80:92] = bad * 3
        path.write_bytes(gzip.compress(bytes(header)))
    else:
        path.write_bytes({
            "truncated_gzip": good[: len(good) // 2], "no_gzip_tail": good[:-6], "bad_crc": good[:-8] + bytes(4) + good[-4:],
            "cut_before_packing": gzip.compress(plain[:5000]), "wrong_magic": b"hello world, this is no scan" * 20,
            "more_behind": good + b"a letter",
            "wrong_magic_inside": gzip.compress(b"hello world" * 99), "nothing": b"", "cut_header": gzip.compress(plain[:200]),
        }[kind])  # fmt: skip
    return path


@pytest.mark.parametrize(
    "kind, says",
    [
        ("truncated_gzip", "truncated"), ("no_gzip_tail", "truncated"), ("bad_crc", "damaged"), ("cut_before_packing", "truncated"),
        ("wrong_magic", "magic"), ("wrong_magic_inside", "magic"), ("cut_header", "magic"), ("nothing", "empty"), ("four_axes", "4-D"),
        ("two_axes", "2-D"), ("one_slice", "2-D"), ("few_slices", "too thin"), ("low", "too thin"), ("constant", "constant or empty"),
        ("nan", "NaN"), ("enormous", "voxels of up to 1e+300 are no HU"), ("more_behind", "8 bytes that are no gzip follow the whole"),
         ("zero_spacing", "spacing"), ("nan_spacing", "spacing"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_unusable_files_are_refused_with_one_line_that_names_the_file(tmp_path, kind, says):
    path = broken(tmp_path, kind)
    with pytest.raises(Refused) as refused:
        ct.read(path)
    message = str(refused.value)
    assert says in message and message.startswith(path.name) and "\n" not in message and len(message) < 300


def test_missing_files_and_folders_without_images_are_refused(tmp_path):
    for path, says in [(tmp_path / "nowhere.nii.gz", "no such file"), (tmp_path, "no DICOM")]:
        with pytest.raises(Refused, match=says):
            ct.read(path)


def test_damaged_nrrd_and_zip_are_refused(tmp_path):
    image = sitk.GetImageFromArray(body().transpose())
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"), True)
    for name, data in [("cut.nrrd", (tmp_path / "a.nrrd").read_bytes()[:9000]), ("cut.zip", b"PK\x03\x04" + b"1" * 500)]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Refused) as refused:
            ct.read(tmp_path / name)
        assert str(refused.value).startswith(name) and "\n" not in str(refused.value)


def test_padding_behind_a_gzip_stream_is_none_of_it(tmp_path):
    path = write(tmp_path / "a.nii.gz", body(), ras())
    whole = ct.read(path).array
    path.write_bytes(path.read_bytes() + bytes(512))
    np.testing.assert_array_equal(ct.read(path).array, whole)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_voxels_cut_short_damaged_or_lost_are_refused_and_nothing_is_written_to_the_terminal(tmp_path, capfd, ending, packed):
    path = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(body().transpose())
    image.SetSpacing((3, 3, 5))
    sitk.WriteImage(image, str(path), packed)
    ct.read(path)
    (file,) = set(tmp_path.iterdir()) - {path} or {path}
    whole = file.read_bytes()
    faults = {"cut short": whole[: len(whole) // 2], "a little short": whole[:-4]}
    faults |= {"damaged": whole[:-9000] + bytes(40) + whole[-8960:]} if packed else {}
    faults |= {"header cut": whole[:200]} if file == path else {"lost": None}
    for fault, data in faults.items():
        file.unlink() if data is None else file.write_bytes(data)
        with pytest.raises(Refused) as refused:
            ct.read(path)
        message = str(refused.value)
        assert message.startswith(path.name) and "\n" not in message and "No such file or directory" not in message, fault
        assert ending[:3] == ".nr" or ending == ".nhdr" or any(w in message for w in ("truncated", "damaged", "no such file is beside it")), message
    assert capfd.readouterr() == ("", "")


def test_colours_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((20, 20, 20, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "rgb.mha"))
    with pytest.raises(Refused, match="3 numbers per voxel"):
        ct.read(tmp_path / "rgb.mha")


# -------------------------------------------------------------------------------------------------------------- real scans


def liver_is_right_and_heart_left(volume: Volume) -> tuple[float, float]:
    """Share of soft tissue among the inner voxels of the right and the left half just above the lowest slices."""
    half = volume.array.shape[0] // 2
    low = volume.array[:, volume.array.shape[1] // 4 : -volume.array.shape[1] // 4, : volume.array.shape[2] // 4]
    return tuple(float(((part > 20) & (part < 180)).mean()) for part in (low[half:], low[:half]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHESTS)
def test_real_chests_of_every_reader_become_the_contract_the_right_way_round(shared, name):
    volume = ct.read(shared / "data/volumes" / name)
    assert nibabel.aff2axcodes(volume.affine) == ("R", "A", "S")
    for expected in CHESTS[name]:
        assert any(expected in w for w in volume.warnings), volume.warnings
    assert len(volume.warnings) == len(CHESTS[name])
    ready = ct.to_contract(volume, Config.at("base").contract)
    np.testing.assert_allclose(ready.spacing_mm, (1.5, 1.5, 3.0))
    assert ready.array.dtype == np.int16 and ready.array.min() >= -1000 and ready.array.max() <= 1000
    states = {axis: state for axis, (state, _) in chest.upright(chest.survey(ready)).items()}
    assert states["y"] == "right" and states["z"] in ("right", "unknown" if "LIDC" in name else "right")


def test_the_two_readings_of_one_scan_are_equal(shared):
    nrrd, dicom = (ct.read(shared / "data/volumes/cip_ct64" / name) for name in ("ct-64.nrrd", "ct-64Dicom"))
    np.testing.assert_array_equal(nrrd.array, dicom.array)
    np.testing.assert_allclose(nrrd.affine[:3, :3], dicom.affine[:3, :3], atol=1e-4)


def test_heart_lies_left_and_liver_right_on_the_contrast_scan(shared):
    from asapkit import organs

    volume = ct.to_contract(ct.read(shared / "data/volumes/ts_chest_cta/example_ct.nii.gz"), Config.at("base").contract)
    heart = organs.read(shared / "data/volumes/ts_chest_cta/masks_same_grid", volume) == 6
    middle = np.argwhere(volume.array > -300)[:, 0].mean()
    assert np.argwhere(heart)[:, 0].mean() < middle - 8  # x grows to the right: the heart lies lower
    right, left = liver_is_right_and_heart_left(volume)
    assert right > left + 0.05


def test_thirds_of_the_lungs_lie_on_their_sides(shared):
    folder = shared / "data/volumes/cip_ct64"
    like = ct.read(folder / "ct-64.nrrd")
    raw = formats.load(folder / "lm-64.nrrd")
    regions = ct.resample_labels(Volume(*ct.to_ras(raw.array & 255, raw.affine)), like)
    x = {k: np.argwhere(np.isin(regions, v))[:, 0].mean() for k, v in {"left": (9, 10, 11), "right": (12, 13, 14)}.items()}
    assert x["left"] < x["right"] - 15
    assert like.array[np.isin(regions, range(9, 15))].mean() < -700


REFUSED = {"cip_lobes_crop/crop_ct_2slices.nrrd": "too thin: 2 slices", "lung_dx_a0002/Lung_Dx-A0002.zip": "B70f.*B40f"}


@pytest.mark.parametrize("name", REFUSED)
def test_two_slices_and_two_equal_series_are_refused(shared, name):
    with pytest.raises(Refused, match=REFUSED[name]):
        ct.read(shared / "data/volumes" / name)
