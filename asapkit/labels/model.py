"""Labels from a language model that runs in this process: a folder or name that transformers finds on this machine. Nothing is downloaded."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

from asapkit import prompts
from asapkit.labels.answers import Abstained, Messages, asked, require_unmentioned, settled
from asapkit.types import Refused


class HuggingFace:
    """model: folder, or hub name in the local cache, of a causal language model.   device: cpu, cuda ...   max_tokens: of an answer.

    Answers are the likeliest words, so the first try is always the same; a retry shows the model its malformed answer.
    unmentioned: the label in place of a model's -1 (open or not spoken of); 0 takes silence for absence.
    Raises: Refused, naming the model, when it cannot be loaded from this machine.
    """

    name = "huggingface"

    def __init__(
        self, model: str | Path, *, device: str = "cpu", instructions: str = "mps-ct-v1", retries: int = 1, unmentioned: int = -1,
        max_tokens: int = 256,
    ):  # fmt: skip
        if not 0 <= retries <= 3:
            raise ValueError(f"retries {retries}: give 0 to 3")
        self.model, self.device, self.retries, self.max_tokens = str(model), device, retries, max_tokens
        self.instructions = prompts.instructions(instructions)
        self.unmentioned = require_unmentioned(unmentioned)
        self.tokenizer, self.network = _loaded(self.model, device)

    @cached_property
    def identity(self) -> str:
        """What the answers depend on; the weights of a folder by name, size and time of its files."""
        files = sorted(p for p in Path(self.model).glob("*") if p.is_file()) if Path(self.model).is_dir() else []
        written = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files] or getattr(self.network.config, "_commit_hash", "")
        weights = hashlib.sha256(str(written).encode()).hexdigest()[:12]
        return f"{self.name} {self.model} {weights} {self.instructions.name} {self.instructions.digest} unmentioned {self.unmentioned}"

    def label(self, id: str, findings: str, impression: str = "") -> dict[str, int]:
        """Raises: Abstained when no valid answer came, or the report does not fit into the model's context whole."""
        messages = self.instructions.messages(findings, impression, form="line")
        found = asked(self._say, messages, again=self.instructions.again, retries=self.retries, wait_s=0)
        return settled(found, self.unmentioned)

    def _say(self, messages: Messages) -> str:
        import torch

        tokens = self.tokenizer(self._written(messages), return_tensors="pt", add_special_tokens=not self.tokenizer.chat_template)["input_ids"]
        limit = getattr(self.network.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        if tokens.shape[1] + self.max_tokens > limit:  # a report that is cut would be labelled for what is left of it
            raise Abstained(f"longer than the model's context of {limit} tokens")
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        with torch.inference_mode():
            out = self.network.generate(
                tokens.to(self.device), attention_mask=torch.ones_like(tokens).to(self.device), do_sample=False, temperature=None, top_p=None,
                top_k=None, max_new_tokens=self.max_tokens, pad_token_id=pad,
            )  # fmt: skip
        return self.tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True)

    def _written(self, messages: Messages) -> str:
        """The conversation as the model knows it, or as plain text for one that knows none."""
        if self.tokenizer.chat_template:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in messages) + "\n\nassistant:"


def _loaded(model: str, device: str):
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        return tokenizer, AutoModelForCausalLM.from_pretrained(model, local_files_only=True, dtype="auto").to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        why = " ".join(str(error).split())[:160]
        raise Refused(f"model {model!r}: no causal language model of this machine ({why}); give its folder, or download it first") from error
    finally:
        logging.set_verbosity(said)
        logging.enable_progress_bar()
