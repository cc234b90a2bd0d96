"""DICOM series, from folders and zip archives: found by content, sorted by position, checked for gaps, doubled slices and tilt."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asapkit import formats
from asapkit.types import Refused

# What a file says that it is: a directory, or an object of one kind. CT images are kind 2, those with several frames 2.1 or 2.2.
_KIND = re.compile(rb"1\.2\.840\.10008\.(?:1\.3\.10|5\.1\.4\.1\.1\.(?P<kind>[\d.]+))")


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


def zipped(path: Path, series: str | None = None) -> formats.Raw:
    """The series of a zip archive, whatever its folders are called."""
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not m.is_dir() and not Path(m.filename).name.startswith("._")]
        # Numbered names: what the archive calls its members can neither leave the folder nor be too long for it.
        names = {f"{index:06d}": member.filename for index, member in enumerate(members)}
        for name, member in zip(names, members, strict=True):
            (Path(place) / name).write_bytes(archive.read(member))
        return folder(Path(place), title=path.name, series=series, names=names)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _slice(reader, file: Path) -> _Slice | None:
    """Position and series of a DICOM file; None when it is no image with a position.  Raises: Refused for a slice of a CT that cannot be read."""
    with file.open("rb") as opened:
        head = opened.read(1024)
    if formats.sniff(head) != "dicom":
        return None
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        says = _KIND.search(head)
        if (says["kind"] or b"").split(b".")[0] == b"2" if says else head[128:132] == b"DICM":  # plans and reports are no images either
            raise Refused(f"{file.name}: cannot be read (truncated?); fetch it again") from error
        return None
    has = reader.HasMetaDataKey

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip() if has(key) else ""

    def numbers(key: str) -> tuple[float, ...]:
        return tuple(_number(part) for part in tag(key).split("\\")) if has(key) else ()

    position, orientation = numbers("0020|0032"), numbers("0020|0037")
    rows_mm = numbers("0028|0030")
    if (len(position), len(orientation), len(rows_mm)) != (3, 6, 2):
        return None
    words = f"{tag('0020|0011')}: {tag('0008|103e')} {tag('0018|1210')}".strip()
    return _Slice(
        str(file), tag("0020|000e"), words, tuple(reader.GetSize()[:2]), position, orientation, (rows_mm[1], rows_mm[0]), _number(tag("0018|0050"))
    )


def folder(root: Path, *, title: str, series: str | None = None, names: dict[str, str] | None = None) -> formats.Raw:
    """One axial series of all DICOM files below `root`: the one named, or the largest. A file that cannot be read is left out with a warning.

    names: what messages call the files, where their own names say nothing.
    Raises: Refused when there is none, several are equally large, or slices are missing or doubled.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    groups: dict[str, list[_Slice]] = defaultdict(list)
    torn: list[str] = []
    for file in sorted(f for f in root.rglob("*") if f.is_file() and not f.name.startswith(".")):
        try:
            if found := _slice(reader, file):
                groups[found.series].append(found)
        except Refused:
            torn.append((names or {}).get(file.name, file.relative_to(root).as_posix()))
    if not groups and torn:
        raise Refused(f"{title}: {_unread(torn)}, and no other image with a position is there; fetch the series again")
    if not groups:
        raise Refused(f"{title}: holds no DICOM images with positions; give a folder or zip of one CT series")
    slices, warnings = _in_order(_chosen(groups, title, series), title, torn)
    series_reader = sitk.ImageSeriesReader()
    series_reader.SetImageIO("GDCMImageIO")
    series_reader.SetFileNames([s.file for s in slices])
    try:
        image = series_reader.Execute()
    except RuntimeError as error:
        raise Refused(f"{title}: a DICOM slice cannot be read ({formats.one_line(error)}); fetch the series again") from error
    raw = formats.from_itk(image, title)
    affine = np.eye(4)
    first, last = np.asarray(slices[0].position), np.asarray(slices[-1].position)
    affine[:3, 0] = np.asarray(slices[0].orientation[:3]) * slices[0].pixel_mm[0]
    affine[:3, 1] = np.asarray(slices[0].orientation[3:]) * slices[0].pixel_mm[1]
    affine[:3, 2] = (last - first) / (len(slices) - 1) if len(slices) > 1 else slices[0].normal
    affine[:3, 3] = first
    return formats.Raw(raw.array, formats.LPS_TO_RAS @ affine, rescaled=True, warnings=warnings)


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


def _unread(torn: list[str]) -> str:
    return f"{torn[0]}{f' and {len(torn) - 1} more DICOM files' if torn[1:] else ''} cannot be read (truncated?)"


def _in_order(slices: list[_Slice], title: str, torn: list[str]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Slices sorted along their normal, checked for one size, one orientation, no repeats and no gaps. torn: files that could not be read."""
    if len({s.shape for s in slices}) > 1 or np.ptp([s.orientation for s in slices], axis=0).max() > 1e-3:
        raise Refused(f"{title}: the slices of the series differ in size or orientation; split the series")
    slices = sorted(slices, key=lambda s: s.height_mm)
    gaps = np.diff([s.height_mm for s in slices])
    warnings = [f"left out: {_unread(torn)}"] if torn else []
    if len(gaps) == 0:
        return slices, tuple(warnings)
    if gaps.min() < 1e-3:
        raise Refused(f"{title}: {int((gaps < 1e-3).sum())} slices lie at a place that is taken (several phases in one series?); split the series")
    usual = float(np.median(gaps))
    if gaps.max() > 1.5 * usual:
        why = f"{_unread(torn)}, and " if torn else ""
        gap = f"{usual:.2f} mm apart as a rule, {gaps.max():.2f} mm at the widest gap"
        raise Refused(f"{title}: {why}slices are missing: {gap}; fetch the series again")
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


def single(path: Path) -> formats.Raw:
    """A multi-frame DICOM file; one slice alone is refused."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise Refused(f"{path.name}: cannot be read as DICOM ({formats.one_line(error)}); fetch it again") from error
    if image.GetDimension() != 3 or image.GetSize()[2] == 1:
        raise Refused(f"{path.name}: one DICOM slice is no volume; give the folder that holds the series")
    return formats.from_itk(image, path.name)
