"""An encoder as a folder for the Hugging Face hub: safetensors, config, contract and model card; and back.

`HubEncoder` is a `PyTorchModelHubMixin`: `save_pretrained` and `from_pretrained` work on a folder without any network, `push_to_hub` is the user's.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import ModelCard, PyTorchModelHubMixin
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from asapkit.checkpoint import described
from asapkit.peers import networks
from asapkit.peers.reading import Loaded
from asapkit.types import Refused

FILES = ("config.json", "model.safetensors", "contract.json", "README.md")
CARD = """---
library_name: asapkit
license: {tag}
tags:
- chest-ct
- feature-extraction
---

# {family}, as an encoder of asapkit

Converted, not trained again: the weights are those of {source}. Their licence: {licence}.

## Input

{input}. A volume is x, y, z in RAS+ with its HU window scaled to [-1, 1]; the encoder turns axes and numbers into its own. `contract.json` is what
`asapkit preprocess` must have followed.

## Use

```python
from asapkit import hub

encoder = hub.load("FOLDER").encoder          # eval mode, CPU
tokens = encoder.tokens(image)                # image (B, 1, X, Y, Z) -> (B, N, D), row-major x, y, z
```

## What became of the released file

```
{report}
```

A research tool: no regulatory clearance, not for diagnosis.
"""


class HubEncoder(nn.Module, PyTorchModelHubMixin, library_name="asapkit"):
    """Any encoder with what is needed to make it again: its kind, its settings, and what was said of the file that it came from."""

    def __init__(self, kind: str, settings: dict, said: dict | None = None):
        super().__init__()
        self.kind, self.settings, self.said = kind, settings, said or {}
        self.encoder = networks.make(kind, settings)

    def forward(self, image: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B N D"]:
        """Patch tokens, nothing hidden."""
        return self.encoder.tokens(image)

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        contract = getattr(self.encoder, "contract", None)
        told = {} if contract is None else asdict(contract) | {"hash": contract.hash}
        (save_directory / "contract.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def generate_model_card(self, *_, **__) -> ModelCard:
        """README.md: source, licence, input, use, and the report."""
        told = {"family": "An encoder", "source": "a run of asapkit", "licence": "", "input": "", "report": ""} | self.said
        tag = told["licence"].lower() if told["licence"][:3] in ("MIT", "Apa", "CC-") else "unknown"
        told["licence"] = told["licence"] or "the source states none; ask before passing them on"
        return ModelCard(CARD.format(tag=tag, **told))


def export(found: Loaded, folder: Path | str) -> Path:
    """Writes config.json, model.safetensors, contract.json and README.md.  Raises: Refused where the folder holds something already."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder}: is not empty; give a new folder")
    report = found.report
    said = {"family": report.family, "source": report.source, "licence": report.licence, "input": report.contract, "report": str(report)}
    whole = HubEncoder(found.kind, found.settings, said)
    whole.encoder.load_state_dict(found.encoder.state_dict())
    whole.eval().save_pretrained(folder)
    return folder


def exported(source: Path | str) -> bool:
    """True for a folder that `export` wrote, and for its own file of weights.  Raises: Refused where its config.json is damaged."""
    source = Path(source)
    own = source.name == FILES[1] and source.is_file()
    return (own or source.is_dir()) and "kind" in described(source.parent if own else source)


def load(folder: Path | str) -> HubEncoder:
    """What `export` wrote, in eval mode on the CPU.  Raises: Refused, in one line, for a folder that is none, or damaged."""
    folder = Path(folder)
    if missing := [name for name in FILES[:2] if not (folder / name).is_file()]:
        raise Refused(f"{folder}: no {missing[0]}; give a folder that `asapkit doctor FILE --export` wrote")
    if lacks := [name for name in ("kind", "settings") if name not in described(folder)]:
        raise Refused(f"{folder / FILES[0]}: has no {lacks[0]}; give a folder that `asapkit doctor FILE --export` wrote")
    try:
        with redirect_stdout(io.StringIO()):  # the mixin prints that it found a folder
            return HubEncoder.from_pretrained(str(folder), strict=True).eval()
    except (SafetensorError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        raise Refused(f"{folder}: damaged, or of another version ({' '.join(str(error).split())[:160]})") from error


def report(folder: Path | str) -> str:
    """What was said of the file that an exported encoder came from.  Raises: Refused where the folder does not load, or does not say it."""
    said = described(folder).get("said")
    if not isinstance(said, dict) or not isinstance(said.get("report"), str):
        raise Refused(f"{Path(folder) / FILES[0]}: has no report under `said`; take it from a copy, or export the weights again")
    load(folder)
    return said["report"]
