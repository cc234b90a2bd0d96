"""Files whose bytes depend on their content only (no date, no name in the gzip header; fixed line ends), written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

_LEVEL = 1  # the cohort is read more often than kept; higher levels cost more time than they save space
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no date, no system


def write_bytes(path: Path, content: bytes) -> None:
    """Appears whole under its name or not at all; the folder is made. Raises: OSError (disk full ...) with nothing left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def gzipped(content: bytes) -> bytes:
    deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    return _GZIP_HEADER + body + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, *, labels: Sequence[str] = ()) -> None:
    """A gzipped NIfTI in millimetres. `labels` names the values 1, 2 ... in a header extension, as TotalSegmentator's multi-label files do."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    if labels:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, _label_table(labels)))
    write_bytes(path, gzipped(image.to_bytes()))


def _label_table(labels: Sequence[str]) -> bytes:
    rows = "".join(f'<Label Key="{i}" Red="0" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>' for i, name in enumerate(labels, 1))
    text = f'<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>{rows}</LabelTable>'
    return (text + "</VolumeInformation></CaretExtension>").encode()


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A csv; NaN and None become empty fields."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if v is None or v != v else v for v in row] for row in rows])
    write_bytes(path, buffer.getvalue().encode())


def stored(hu: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The array (X, Y, Z, RAS+) with axes reversed so that they grow towards `axes` ("LPS" ...), and the affine that keeps every voxel in place."""
    matrix = np.array(affine, np.float64)
    for axis, (letter, positive) in enumerate(zip(axes, "RAS", strict=True)):
        if letter != positive:
            hu = np.flip(hu, axis)
            matrix[:3, 3] += matrix[:3, axis] * (hu.shape[axis] - 1)
            matrix[:3, axis] *= -1
    return hu, matrix
