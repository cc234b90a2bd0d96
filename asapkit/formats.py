"""Files to voxels: NIfTI, NRRD, MetaImage, DICOM folders and zipped DICOM, told apart by their content, not by their names.

Everything here returns arrays as stored (any axis order) with the affine to world RAS millimetres; `ct.read` turns them to RAS+.
Rescale slope and intercept of the file itself are applied here, once.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asapkit.types import Refused

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class Raw:
    """Voxels as stored, scaled by the file's own slope and intercept, with the affine to RAS millimetres."""

    array: np.ndarray  # three axes, or as many as the file has
    affine: np.ndarray
    has_spacing: bool = True  # False where the header is blank
    has_orientation: bool = True
    rescaled: bool = False  # the file carried a slope or intercept, which has been applied
    label_names: dict[int, str] = field(default_factory=dict)  # value -> name, where the header lists labels
    warnings: tuple[str, ...] = ()


def load(path: Path | str, *, series: str | None = None) -> Raw:
    """Voxels of any readable file or DICOM folder. `archive.zip#B40f` and `folder#B40f` name a series as `series` does.

    Raises: Refused when nothing is there, the format is unknown, or the file is damaged.
    """
    path = Path(path)
    if not path.exists() and "#" in path.name:
        name, series = path.name.rsplit("#", 1)
        path = path.with_name(name)
    if not path.exists():
        raise Refused(f"{path.name}: no such file; check the path")
    if path.is_dir():
        return _dicom(path, title=path.name, series=series)
    with path.open("rb") as file:
        head = file.read(600)
    kind = sniff(head)
    try:
        if kind == "zip":
            return _zipped_dicom(path, series)
        if kind == "nifti":
            return _nifti(path, head)
        if kind == "itk":
            return _itk(path)
    except Refused:
        raise
    except Exception as error:  # readers raise many kinds; a user needs the file and the reason in one line
        raise Refused(f"{path.name}: cannot be read ({_one_line(error)}); the file is damaged, fetch it again") from error
    if kind == "dicom":
        return _single_dicom(path)
    if not head:
        raise Refused(f"{path.name}: the file is empty (0 bytes); fetch it again")
    raise Refused(f"{path.name}: neither NIfTI, NRRD, MetaImage, DICOM nor zip (wrong magic bytes {head[:4]!r}); check what it is")


def sniff(head: bytes) -> str:
    """Format by the first bytes: nifti | itk (NRRD, MetaImage) | zip | dicom | '' for unknown."""
    if head[:2] == b"\x1f\x8b" or _nifti_header_size(head):
        return "nifti"
    if head[:4] == b"NRRD" or (b"NDims" in head and b"=" in head):
        return "itk"
    if head[:4] == b"PK\x03\x04":
        return "zip"
    return "dicom" if head[128:132] == b"DICM" else ""


def _nifti_header_size(head: bytes) -> int:
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)
        if (size == 348 and head[344:347] in (b"n+1", b"ni1")) or (size == 540 and head[4:7] in (b"n+2", b"ni2")):
            return size
    return 0


def _one_line(error: Exception) -> str:
    """The telling line of a reader's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]


def _nifti(path: Path, head: bytes) -> Raw:
    import nibabel
    from isal import igzip

    data = path.read_bytes()
    if head[:2] == b"\x1f\x8b":
        try:
            data = igzip.decompress(data)
        except Exception as error:  # EOFError, BadGzipFile, IsalError, zlib.error
            raise Refused(f"{path.name}: the gzip stream is truncated or damaged ({_one_line(error)}); fetch the file again") from error
    size = _nifti_header_size(data[:600])
    if not size:
        raise Refused(f"{path.name}: not NIfTI (wrong magic bytes {data[:4]!r} inside); check what it is")
    if data[4:7] == b"ni2" or data[344:347] == b"ni1":
        raise Refused(f"{path.name}: a NIfTI header whose voxels lie in another file; convert the pair to one .nii.gz")
    image_class = nibabel.Nifti1Image if size == 348 else nibabel.Nifti2Image
    image = image_class.from_bytes(data)
    header, proxy = image.header, image.dataobj
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), proxy.offset
    needed = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) < needed:
        raise Refused(f"{path.name}: truncated: {len(data)} bytes where the header promises {needed}; fetch the file again")
    array = np.frombuffer(data, dtype, count=int(np.prod(shape, dtype=np.int64)), offset=offset).reshape(shape, order="F")
    slope, intercept = float(proxy.slope), float(proxy.inter)
    placed = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    zooms = np.asarray(header.get_zooms()[:3], float)
    blank = bool(np.allclose(zooms, 1.0, atol=1e-7)) and np.allclose(np.abs(image.affine[:3, :3]), np.eye(3)) and not image.affine[:3, 3].any()
    return Raw(
        rescale(array, slope, intercept), np.asarray(image.affine, float),
        has_spacing=not blank and bool((zooms > 0).all()), has_orientation=placed and not blank,
        rescaled=(slope, intercept) != (1.0, 0.0), label_names=_nifti_labels(header),
    )  # fmt: skip


def _nifti_labels(header) -> dict[int, str]:
    """Label names in a NIfTI header extension, as TotalSegmentator writes them: <Label Key="51">heart</Label> and its like."""
    import xml.etree.ElementTree as xml

    names = {}
    for extension in header.extensions:
        content = extension.get_content()
        content = content if isinstance(content, bytes) else str(content).encode()
        if b"<Label" not in content:
            continue
        try:
            root = xml.fromstring(content.rstrip(b"\x00").decode("utf-8", "replace").strip())
        except xml.ParseError:
            continue
        names |= {int(node.get("Key")): (node.text or "").strip() for node in root.iter("Label") if node.get("Key")}
    return names


def rescale(array: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """slope * array + intercept, as int16 where that is exact, else float32. Integers of any width that fit become int16."""
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False) if array.dtype.byteorder in "=|" else array.astype(np.float32)
        return array if (slope, intercept) == (1.0, 0.0) else array * np.float32(slope) + np.float32(intercept)
    if array.dtype.kind not in "iub":
        raise Refused(f"voxels of type {array.dtype} are no CT; convert to one number per voxel")
    if not (float(slope).is_integer() and float(intercept).is_integer()):
        return array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if (slope, intercept) == (1.0, 0.0) and array.dtype in (np.dtype(np.int16), np.dtype(np.uint8)):
        return array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    if ends[0] < -32768 or ends[1] > 32767:
        return array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if (slope, intercept) == (1.0, 0.0):
        return array.astype(np.int16)
    return (array.astype(np.int32) * int(slope) + int(intercept)).astype(np.int16)


def _itk(path: Path) -> Raw:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return _from_itk(sitk.ReadImage(str(path)), path.name)


def _from_itk(image, title: str) -> Raw:
    import SimpleITK as sitk

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise Refused(f"{title}: {image.GetNumberOfComponentsPerPixel()} numbers per voxel; a CT has one")
    array = sitk.GetArrayFromImage(image).transpose()  # SimpleITK gives z, y, x
    if image.GetDimension() != 3:
        return Raw(rescale(array, 1, 0), np.eye(4))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Raw(rescale(array, 1, 0), LPS_TO_RAS @ affine)


@dataclass(frozen=True)
class _Slice:
    file: str
    series: str
    words: str  # description, kernel and number: what `series=` may name
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_mm: tuple[float, float]
    thickness_mm: float

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def height_mm(self) -> float:
        return float(self.normal @ np.asarray(self.position))


def _zipped_dicom(path: Path, series: str | None) -> Raw:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not Path(m.filename).name.startswith("._")]
        for index, member in enumerate(members):
            # Numbered names: what the archive calls its members can neither leave the folder nor be too long for it.
            (Path(folder) / f"{index:06d}").write_bytes(archive.read(member))
        return _dicom(Path(folder), title=path.name, series=series)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _slice(reader, file: Path) -> _Slice | None:
    """Position and series of a DICOM file; None when it is no image with a position."""
    with file.open("rb") as opened:
        if opened.read(132)[128:] != b"DICM":
            return None
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    has = reader.HasMetaDataKey

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip() if has(key) else ""

    def numbers(key: str) -> tuple[float, ...]:
        return tuple(_number(part) for part in tag(key).split("\\")) if has(key) else ()

    position, orientation = numbers("0020|0032"), numbers("0020|0037")
    rows_mm = numbers("0028|0030") or (float("nan"),) * 2
    if len(position) != 3 or len(orientation) != 6:
        return None
    words = f"{tag('0020|0011')}: {tag('0008|103e')} {tag('0018|1210')}".strip()
    return _Slice(
        str(file), tag("0020|000e"), words, tuple(reader.GetSize()[:2]), position, orientation, (rows_mm[1], rows_mm[0]), _number(tag("0018|0050"))
    )


def _dicom(folder: Path, *, title: str, series: str | None) -> Raw:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    groups: dict[str, list[_Slice]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith(".") and (found := _slice(reader, file)):
            groups[found.series].append(found)
    if not groups:
        raise Refused(f"{title}: holds no DICOM images with positions; give a folder or zip of one CT series")
    slices, warnings = _in_order(_chosen(groups, title, series), title)
    series_reader = sitk.ImageSeriesReader()
    series_reader.SetFileNames([s.file for s in slices])
    try:
        image = series_reader.Execute()
    except RuntimeError as error:
        raise Refused(f"{title}: a DICOM slice cannot be read ({_one_line(error)}); fetch the series again") from error
    raw = _from_itk(image, title)
    affine = np.eye(4)
    first, last = np.asarray(slices[0].position), np.asarray(slices[-1].position)
    affine[:3, 0] = np.asarray(slices[0].orientation[:3]) * slices[0].pixel_mm[0]
    affine[:3, 1] = np.asarray(slices[0].orientation[3:]) * slices[0].pixel_mm[1]
    affine[:3, 2] = (last - first) / (len(slices) - 1) if len(slices) > 1 else slices[0].normal
    affine[:3, 3] = first
    return Raw(raw.array, LPS_TO_RAS @ affine, rescaled=True, warnings=warnings)


def _chosen(groups: dict[str, list[_Slice]], title: str, series: str | None) -> list[_Slice]:
    """The series asked for, or the one axial series with the most slices."""

    def line(uid: str) -> str:
        return f"[{groups[uid][0].words}] {len(groups[uid])} slices, {uid[-12:]}"

    listed = " | ".join(line(uid) for uid in groups)
    if series is not None:
        named = [uid for uid, s in groups.items() if uid == series or uid.endswith(series) or series.lower() in s[0].words.lower()]
        if len(named) != 1:
            raise Refused(f"{title}: series={series!r} fits {len(named)} of the series: {listed}; name one of them")
        return groups[named[0]]
    axial = {uid: s for uid, s in groups.items() if abs(s[0].normal[2]) > 0.8}
    if not axial:
        raise Refused(f"{title}: no axial series among: {listed}; give an axial CT")
    most = max(len(s) for s in axial.values())
    largest = [uid for uid, s in axial.items() if len(s) == most]
    if len(largest) > 1:
        raise Refused(f"{title}: {len(largest)} axial series of the same size: {listed}; name one as series= or {title}#WORD")
    return axial[largest[0]]


def _in_order(slices: list[_Slice], title: str) -> tuple[list[_Slice], tuple[str, ...]]:
    """Slices sorted along their normal, checked for one size, one orientation, no repeats and no gaps."""
    if len({s.shape for s in slices}) > 1 or np.ptp([s.orientation for s in slices], axis=0).max() > 1e-3:
        raise Refused(f"{title}: the slices of the series differ in size or orientation; split the series")
    slices = sorted(slices, key=lambda s: s.height_mm)
    gaps = np.diff([s.height_mm for s in slices])
    if len(gaps) == 0:
        return slices, ()
    if gaps.min() < 1e-3:
        raise Refused(f"{title}: {int((gaps < 1e-3).sum())} slices lie at a place that is taken (several phases in one series?); split the series")
    usual = float(np.median(gaps))
    if gaps.max() > 1.5 * usual:
        raise Refused(f"{title}: slices are missing: {usual:.2f} mm apart as a rule, {gaps.max():.2f} mm at the widest gap; fetch the series again")
    warnings = []
    if np.ptp(gaps) > 0.1 * usual:
        warnings.append(f"slice distances vary from {gaps.min():.2f} to {gaps.max():.2f} mm; the mean is used")
    thickness = slices[0].thickness_mm
    if thickness > 0 and abs(thickness - usual) > 0.1 * usual:
        kind = "gaps between slices" if thickness < usual else "overlapping slices"
        warnings.append(f"slices lie {usual:.2f} mm apart but are {thickness:.2f} mm thick by their tag ({kind}); the distance is used")
    shift = np.asarray(slices[-1].position) - np.asarray(slices[0].position)
    if abs(shift @ slices[0].normal) < 0.9998 * np.linalg.norm(shift):
        warnings.append("gantry tilt: slices are sheared against each other; the affine keeps it, resampling does not undo it")
    return slices, tuple(warnings)


def _single_dicom(path: Path) -> Raw:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise Refused(f"{path.name}: cannot be read as DICOM ({_one_line(error)}); fetch it again") from error
    if image.GetDimension() != 3 or image.GetSize()[2] == 1:
        raise Refused(f"{path.name}: one DICOM slice is no volume; give the folder that holds the series")
    return _from_itk(image, path.name)
