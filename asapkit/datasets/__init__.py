"""Readers: each module offers `scans(root) -> Iterator[Scan | Unusable]` for one on-disk layout, with licence and source in its docstring."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from asapkit.types import Refused

UNKNOWN = ("", "NA", "N/A", "n/a", "<NA>", "NaN", "nan", "NULL", "null", "None")  # as pandas reads them; "none" is an answer
YES_NO = {"true": 1.0, "false": 0.0}
TOO_MANY = "more fields than columns"  # the key of what a row has beyond its columns


@dataclass(frozen=True)
class Unusable:
    """A row or file that makes no scan. Readers yield it in place, so that one bad row never stops the rest and none is lost."""

    id: str
    path: Path | None
    reason: str  # one line: which file or field, what is wrong, what to do


def table(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a csv; names without white space around them, an absent field is ''.

    Raises: Refused, naming file and line, for what is no UTF-8 or no csv, such as a quote that is not closed.
    """
    begin, rows = 1, []
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, restkey=TOO_MANY, restval="", strict=True)
        try:
            reader.fieldnames = [column.strip() for column in reader.fieldnames or ()]
            begin = reader.line_num + 1
            for row in reader:
                rows.append(row)
                begin = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise Refused(f"{file.name}: is not UTF-8; save it as UTF-8") from error
        except csv.Error as error:
            raise Refused(f"{file.name}: line {begin}: {_fault(error)}") from error
    return list(reader.fieldnames), rows


def further(columns: Mapping[str, str]) -> dict[str, float | str]:
    """Further columns of a row: numbers, true and false as 1 and 0, else text. What says that it is not known is left out."""
    said = {name: text.strip() for name, text in columns.items() if text.strip() not in UNKNOWN}
    values = {name: YES_NO.get(text.lower(), number(text)) for name, text in said.items()}
    return {name: text if values[name] is None else values[name] for name, text in said.items()}


def number(text: str) -> float | None:
    """The number that a field holds, None where it holds none; "1_000", which is one to Python, is text."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _fault(error: csv.Error) -> str:
    if "field limit" in str(error):
        return (
            f"a field of over {csv.field_size_limit()} characters: a quote that is not closed, or a text as long as that; close the quote, or "
            "shorten the text"
        )
    return f"{error} (a quote that is not closed?); put texts with commas between quotes"
