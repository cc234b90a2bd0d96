"""What of a language model's answer counts: 18 values in order or by name, or nothing. A bad answer is asked for again, then given up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence

from asapkit.types import FINDINGS

Messages = list[dict[str, str]]
VALUES = (1, 0, -1)
SCHEMA = {
    "type": "object", "properties": {name: {"type": "integer", "enum": list(VALUES)} for name in FINDINGS}, "required": list(FINDINGS),
    "additionalProperties": False,
}  # fmt: skip
"""JSON schema of an answer by name."""
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.S)
_FENCE = re.compile(r"^```\w*\n(.*)\n```$", re.S)
_LINE = re.compile(r"(?:-1|0|1)(?:\s*,\s*(?:-1|0|1))*")


class Abstained(ValueError):
    """A report that stays without labels. The reason is of fixed words: it holds nothing of the report or of the answer.

    down: it is the labeller that fails, not this report, so that asking it about the next ones is of little use.
    """

    def __init__(self, reason: str, *, down: bool = False):
        super().__init__(reason)
        self.down = down


class Malformed(ValueError):
    """An answer that is not of the form asked for; in fixed words."""


class Unanswered(ValueError):
    """No answer, this time; in fixed words."""

    def __init__(self, reason: str, *, down: bool = False):
        super().__init__(reason)
        self.down = down


def parse(answer: str) -> dict[str, int]:
    """The labels of an answer: a JSON object with exactly the 18 names, or exactly 18 values between commas.

    Thoughts between <think> marks and a code fence are taken off; anything else beside the values makes the answer none.
    Raises: Malformed.
    """
    text = _THOUGHT.sub("", answer).strip()
    text = fenced[1].strip() if (fenced := _FENCE.match(text)) else text
    if text.startswith("{"):
        return _by_name(text)
    if not _LINE.fullmatch(text):
        raise Malformed("an answer that is neither 18 values nor an object")
    values = [int(value) for value in text.split(",")]
    if len(values) != len(FINDINGS):
        raise Malformed(f"{len(values)} values in place of {len(FINDINGS)}")
    return dict(zip(FINDINGS, values, strict=True))


def _by_name(text: str) -> dict[str, int]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise Malformed("an object that is no JSON") from None
    names = [name for name, _ in pairs]
    if sorted(names) != sorted(FINDINGS):
        raise Malformed(f"an object of {len(names)} names that are not the {len(FINDINGS)}")
    if not all(type(value) is int and value in VALUES for _, value in pairs):  # True is an int to isinstance
        raise Malformed("a value that is not 1, 0 or -1")
    said = dict(pairs)
    return {name: said[name] for name in FINDINGS}


def asked(say: Callable[[Messages], str], messages: Messages, *, again: str, retries: int = 3, wait_s: float = 0.5) -> dict[str, int]:
    """Labels from `say`, which answers messages or raises `Unanswered`. Before each retry it waits, twice as long each time.

    After a malformed answer the model is shown it with `again`: a model that answers alike to alike would repeat it.
    Raises: Abstained with the last failure.
    """
    turns = list(messages)
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(wait_s * 2 ** (attempt - 1))
        try:
            answer = say(turns)
            return parse(answer)
        except Malformed as fault:
            failure, down = str(fault), False
            turns = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
        except Unanswered as fault:
            failure, down = str(fault), fault.down
    raise Abstained(failure, down=down)


def settled(labels: dict[str, int], unmentioned: int) -> dict[str, int]:
    """A model's -1 says open or unmentioned alike: both become `unmentioned`."""
    return {name: unmentioned if value == -1 else value for name, value in labels.items()}


def require_unmentioned(value: int, known: Sequence[int] = (0, -1)) -> int:
    """Raises: ValueError for what is no label of a finding that a report leaves open."""
    if value not in known:
        raise ValueError(f"unmentioned {value}: there are {', '.join(map(str, known))}")
    return value
