"""Files to voxels: NIfTI, NRRD, MetaImage, DICOM folders and zipped DICOM, told apart by their content, not by their names.

Everything here returns arrays as stored (any axis order) with the affine to world RAS millimetres; `ct.read` turns them to RAS+.
Rescale slope and intercept of the file itself are applied here, once.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from asapkit.types import Refused

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GZIP = b"\x1f\x8b"
UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}  # NIfTI's xyzt_units; 2 is millimetres, 0 says nothing


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
    from asapkit import dicom

    path, named = on_disk(path)
    series = series or named
    if not path.exists():
        raise Refused(f"{path.name}: no such file; check the path")
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(600)
    kind = "folder" if path.is_dir() else sniff(head)
    try:
        if kind == "folder":
            return dicom.folder(path, title=path.name, series=series)
        if kind == "zip":
            return dicom.zipped(path, series)
        if kind == "nifti":
            return _nifti(path, head)
        if kind == "itk":
            return _itk(path)
    except Refused as refused:
        raise refused if str(refused).startswith(path.name) else Refused(f"{path.name}: {refused}") from refused.__cause__
    except Exception as error:  # readers raise many kinds; a user needs the file and the reason in one line
        raise Refused(f"{path.name}: cannot be read ({one_line(error)}); the file is damaged, fetch it again") from error
    if kind == "dicom":
        return dicom.single(path)
    if not head:
        raise Refused(f"{path.name}: the file is empty (0 bytes); fetch it again")
    raise Refused(f"{path.name}: neither NIfTI, NRRD, MetaImage, DICOM nor zip (wrong magic bytes {head[:4]!r}); check what it is")


def on_disk(path: Path | str) -> tuple[Path, str | None]:
    """The file or folder that `path` means, and the series that it names behind a hash, if any."""
    path = Path(path)
    if path.exists() or "#" not in path.name:
        return path, None
    name, series = path.name.rsplit("#", 1)
    return path.with_name(name), series


def beside(path: Path) -> list[Path]:
    """The files that hold the voxels of a header (.mhd, .nhdr), of those that it names one a line; none where it holds them itself."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    named = re.search(rb"^(?:ElementDataFile *=|data ?file:) *(?!LOCAL)(.*)", head.split(b"\n\n")[0], re.M | re.S)
    if sniff(head[:600]) != "itk" or not named:
        return []
    lines = named[1].decode("utf-8", "replace").splitlines()
    return [path.parent / line.strip() for line in lines if line.strip() and os.path.isfile(path.parent / line.strip())]


def sniff(head: bytes) -> str:
    """Format by the first bytes: nifti | itk (NRRD, MetaImage) | zip | dicom | '' for unknown."""
    if head.startswith(GZIP) or _nifti_header_size(head):
        return "nifti"
    if head[:4] == b"NRRD" or (b"NDims" in head and b"=" in head):
        return "itk"
    if head[:4] == b"PK\x03\x04":
        return "zip"
    return "dicom" if head[128:132] == b"DICM" or _begins_with_tags(head) else ""


def _begins_with_tags(head: bytes) -> bool:
    """DICOM that an archive wrote without the 128 bytes before it: a first element of group 2 or 8, with its type or a length that it may have."""
    group, element, length = (int.from_bytes(head[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
    return len(head) > 132 and group in (2, 8) and element <= 0x18 and (length <= 128 or (head[4:6].isalpha() and head[4:6].isupper()))


def _nifti_header_size(head: bytes) -> int:
    for order in ("little", "big"):
        size = int.from_bytes(head[:4], order)
        if (size == 348 and head[344:347] in (b"n+1", b"ni1")) or (size == 540 and head[4:7] in (b"n+2", b"ni2")):
            return size
    return 0


def one_line(error: Exception) -> str:
    """The telling line of a reader's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]


def is_one_gzip(head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file of `size` bytes may be one gzip stream, so that its last eight bytes tell the checksum and length of all that it holds.

    Writers of blocks note their length in a further field of each header; a last stream that unpacks to less than the file holds is not all of it.
    """
    blocks = head[3:4] and head[3] & 4
    return head.startswith(GZIP) and not blocks and size <= 1.01 * int.from_bytes(tail[-4:], "little") + 1024


def _unpacked(data: bytes, name: str) -> bytes:
    """What a gzip or zlib stream holds, its checksum held against it.  Raises: Refused for one that is cut short, damaged, or not all there is."""
    from isal import isal_zlib

    pieces, rest = [], data
    while rest or not pieces:
        stream = isal_zlib.decompressobj(wbits=47)  # either, as its header says
        try:
            pieces.append(stream.decompress(rest))
        except isal_zlib.error as error:
            raise Refused(f"{name}: the gzip stream is damaged ({one_line(error)}); fetch the file again") from error
        if not stream.eof:
            raise Refused(f"{name}: the gzip stream is truncated; fetch the file again")
        rest = stream.unused_data.lstrip(b"\0")  # padding
        if rest and not rest.startswith(GZIP):
            raise Refused(f"{name}: {len(rest)} bytes that are no gzip follow the whole gzip stream; cut them off, or fetch the file again")
    return b"".join(pieces)


def _nifti(path: Path, head: bytes) -> Raw:
    import nibabel

    data = path.read_bytes()
    data = _unpacked(data, path.name) if head.startswith(GZIP) else data
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
    zooms, affine = np.asarray(header.get_zooms()[:3], float), np.asarray(image.affine, float)
    written = _written_spacing(data, image_class)
    if int(header["sform_code"]) == 0 and not (np.isfinite(written) & (written > 0)).all():
        affine = np.diag([*written, 1.0])  # nibabel would make 1 mm of it; `ct.read` refuses it, or takes the table's spacing
    blank_zooms = np.allclose(zooms, 1.0, atol=1e-7)
    unit, to_mm = UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    zooms, affine = zooms * to_mm, np.diag([to_mm] * 3 + [1.0]) @ affine
    notes = (f"the header's lengths are in {unit}; they were turned to millimetres",) if unit else ()
    unplaced = not placed or (np.allclose(np.abs(affine[:3, :3]), np.eye(3)) and not affine[:3, 3].any())
    blank = bool(blank_zooms) and unplaced
    return Raw(
        rescale(array, slope, intercept), affine,
        has_spacing=not blank, has_orientation=placed and not blank, rescaled=(slope, intercept) != (1.0, 0.0),
        label_names=_nifti_labels(header), warnings=notes + _two_spacings(zooms, affine),
    )  # fmt: skip


def _written_spacing(data: bytes, image_class) -> np.ndarray:
    """The spacing (3,) as the header's bytes say it, without the reader's repairs."""
    import io

    header = image_class.header_class.from_fileobj(io.BytesIO(data), check=False)
    return np.abs(np.asarray(header["pixdim"][1:4], float))


def _two_spacings(zooms: np.ndarray, affine: np.ndarray) -> tuple[str, ...]:
    """A warning where the two places of a NIfTI header that hold the spacing differ by more than 2 %."""
    own = np.sqrt((affine[:3, :3] ** 2).sum(0))
    if len(zooms) < 3 or not (own > 0).all() or (np.abs(zooms / own - 1) <= 0.02).all():
        return ()
    pixdim, used = ("x".join(f"{v:.3g}" for v in values) for values in (zooms, own))
    return (f"the header's pixdim spacing {pixdim} mm differs from its affine's {used} mm; the affine is used",)


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
    """slope * array + intercept, as int16 where that is exact, else float32. Integers of any width that fit become int16.

    Raises: Refused for what float32 cannot hold, and for voxels that are no numbers.
    """
    if array.dtype.kind == "f":
        try:
            with np.errstate(over="raise", invalid="ignore"):
                array = array.astype(np.float32, copy=False) if array.dtype.byteorder in "=|" else array.astype(np.float32)
                return array if (slope, intercept) == (1.0, 0.0) else array * np.float32(slope) + np.float32(intercept)
        except FloatingPointError as error:
            peak = float(np.nanmax(np.abs(array[np.isfinite(array)])))
            raise Refused(f"voxels of up to {peak:.3g} are no HU; repair or drop the volume") from error
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


META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4, "FLOAT": 4, "DOUBLE": 8}


def _require_whole(path: Path) -> None:
    """Raises: Refused for a MetaImage or NRRD file whose voxels are cut short, damaged or elsewhere.

    Their readers look at no checksum, and that of MetaImage writes to the terminal what it finds.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    is_nrrd = head.startswith(b"NRRD")
    header = re.match(rb".*?\r?\n\r?\n" if is_nrrd else rb".*?^ElementDataFile *=[^\n]*\n?", head, re.M | re.S)
    text = (header[0] if header else head if is_nrrd else b"").decode("latin-1")
    fields = {key.lower(): value.strip() for key, value in re.findall(r"^(\w[\w ]*?) *[=:] *(.*?)\r?$", text, re.M)}
    if is_nrrd:
        packed = fields.get("encoding", "").lower() in ("gz", "gzip") and not {"line skip", "byte skip"} & set(fields)
        sources = beside(path) if {"data file", "datafile"} & set(fields) else [path]
        if packed and len(sources) == 1:
            _unpacked(sources[0].read_bytes()[header.end() if header and sources[0] == path else 0 :], path.name)
        return
    if not {"elementdatafile", "dimsize", "elementtype"} <= set(fields):
        raise Refused(f"{path.name}: truncated: its header ends before its voxels begin; fetch the file again")
    _require_meta(path, fields, header.end())


def _require_meta(path: Path, fields: dict[str, str], offset: int) -> None:
    """The same for a MetaImage file by its header's fields; its own voxels begin at `offset`."""
    named, size = fields["elementdatafile"], META_BYTES.get(fields["elementtype"].removeprefix("MET_"))
    if named.startswith("LIST") or "%" in named or size is None or fields.get("binarydata", "True")[:1] not in "Tt1":
        return
    file, offset = (path, offset) if named == "LOCAL" else (path.parent / named, max(0, int(fields.get("headersize", 0))))
    if not file.is_file():
        raise Refused(f"{path.name}: its voxels are in {named}, and no such file is beside it; fetch it too")
    needed = math.prod(int(n) for n in fields["dimsize"].split()) * int(fields.get("elementnumberofchannels", 1)) * size
    there = file.stat().st_size - offset
    if fields.get("compresseddata", "False")[:1] in "Tt1":
        end = offset + int(fields["compresseddatasize"]) if "compresseddatasize" in fields else None
        there = len(_unpacked(file.read_bytes()[offset:end], path.name))
    if there < needed:
        raise Refused(f"{path.name}: truncated: {there} bytes of voxels where the header promises {needed}; fetch the file again")


def _itk(path: Path) -> Raw:
    import SimpleITK as sitk

    _require_whole(path)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return from_itk(sitk.ReadImage(str(path)), path.name)


def from_itk(image, title: str) -> Raw:
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
