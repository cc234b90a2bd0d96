"""Silver labels: the 18 findings read from report text, for data sets that come without labels. One interface, three labellers.

    Rules()                                              words, negation, doubt; offline, seconds
    HuggingFace("folder")                                a causal language model in this process
    Endpoint("http://localhost:8000/v1", "model")        an OpenAI-compatible server, held to a JSON schema

`label(reports, labeller)` makes a table of any of them. A labeller that gets no valid answer abstains: all 18 findings unknown, counted, never
guessed. Source: stage 0 of MPS-CT as methods.md C gives it.
"""

from pathlib import Path

from asapkit.labels.answers import Abstained
from asapkit.labels.audit import agreement, errors
from asapkit.labels.endpoint import Endpoint
from asapkit.labels.files import read, relabelled, reports_of, write
from asapkit.labels.model import HuggingFace
from asapkit.labels.rules import Rules, reasons, silver_labels
from asapkit.labels.table import Labelled, Labeller, label

__all__ = [
    "Abstained", "Endpoint", "HuggingFace", "Labelled", "Labeller", "Rules", "agreement", "errors", "label", "labeller", "read", "reasons",
    "relabelled", "reports_of", "silver_labels", "write",
]  # fmt: skip

NEEDS = {"rules": (), "huggingface": ("model",), "endpoint": ("model", "url")}
MAY_HAVE = {"endpoint": ("key", "allow_remote")}


def labeller(
    name: str, *, model: str | Path | None = None, url: str | None = None, key: str | None = None, allow_remote: bool = False,
    unmentioned: int | None = None,
) -> Labeller:  # fmt: skip
    """A labeller by name: rules, huggingface or endpoint.

    Raises: ValueError for another name, and for what the labeller needs and was not given or was given and is not its own.
    """
    if name not in NEEDS:
        raise ValueError(f"unknown labeller {name!r}; there are {', '.join(NEEDS)}")
    given = {"model": model, "url": url, "key": key, "allow_remote": allow_remote}
    given = {k: v for k, v in given.items() if v}
    if missing := [k for k in NEEDS[name] if k not in given]:
        raise ValueError(f"labeller {name} needs {missing[0]}")
    if foreign := [k for k in given if k not in NEEDS[name] + MAY_HAVE.get(name, ())]:
        raise ValueError(f"{foreign[0]} is not for labeller {name}")
    if unmentioned is not None:
        given["unmentioned"] = unmentioned
    return {"rules": Rules, "huggingface": HuggingFace, "endpoint": Endpoint}[name](**given)
