"""Labels from a language model behind an OpenAI-compatible address (vLLM, llama.cpp, Ollama, TGI), which is held to a JSON schema.

Reports are patients': an address that is not this machine's own is refused unless `allow_remote=True` says otherwise. No proxy and no .netrc
is used, no redirect is followed, and nothing that was said or answered is logged.
"""

from __future__ import annotations

import ipaddress
import json
import re
import time
from urllib.parse import urlsplit

from asapkit import prompts
from asapkit.labels.answers import SCHEMA, Abstained, Messages, Unanswered, asked, require_unmentioned, settled
from asapkit.types import Refused

LARGEST = 1 << 20  # bytes of a reply
AGAIN = (408, 425, 429)  # worth another try, as 5xx are
OF_THIS_REPORT = (400, 413, 422)  # too long, say; other refusals hold for every report


class Endpoint:
    """url: up to /v1 (http://localhost:8000/v1).   model: as the server calls it.   key: sent as a bearer token.   retries: at most 3.

    unmentioned: the label in place of a model's -1 (open or not spoken of); 0 takes silence for absence.
    Raises: Refused for an address that is none or not local, before anything is sent.
    """

    name = "endpoint"

    def __init__(
        self, url: str, model: str, *, key: str | None = None, allow_remote: bool = False, instructions: str = "mps-ct-v1", timeout_s: float = 60.0,
        retries: int = 3, wait_s: float = 0.5, unmentioned: int = -1, max_tokens: int = 1024,
    ):  # fmt: skip
        if not 0 <= retries <= 3:
            raise ValueError(f"retries {retries}: give 0 to 3")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s {timeout_s}: give seconds above 0")
        if not model:
            raise ValueError("model '': an endpoint needs the name that its server gives the model")
        self.url, self.model, self.key = address(url, allow_remote=allow_remote), model, key
        self.instructions = prompts.instructions(instructions)
        self.timeout_s, self.retries, self.wait_s, self.max_tokens = timeout_s, retries, wait_s, max_tokens
        self.unmentioned = require_unmentioned(unmentioned)

    @property
    def identity(self) -> str:
        """What the answers depend on. The address is no part of it: one model may be served in several places."""
        return f"{self.name} {self.model} {self.instructions.name} {self.instructions.digest} unmentioned {self.unmentioned}"

    def label(self, id: str, findings: str, impression: str = "") -> dict[str, int]:
        """Raises: Abstained when no valid answer came."""
        messages = self.instructions.messages(findings, impression, form="object")
        found = asked(self._say, messages, again=self.instructions.again, retries=self.retries, wait_s=self.wait_s)
        return settled(found, self.unmentioned)

    def _say(self, messages: Messages) -> str:
        schema = {"type": "json_schema", "json_schema": {"name": "findings", "strict": True, "schema": SCHEMA}}
        asking = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens, "response_format": schema}
        status, body = self._posted(asking)
        if 300 <= status < 400:
            raise Abstained(f"HTTP {status}, a redirect, is not followed", down=True)
        if status in AGAIN or status >= 500:
            raise Unanswered(f"HTTP {status}", down=True)
        if status != 200:
            raise Abstained(f"HTTP {status}", down=status not in OF_THIS_REPORT)
        try:
            said = json.loads(body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Unanswered("a reply that is no chat completion") from None
        if not isinstance(said, str):
            raise Unanswered("a reply without text")
        return said

    def _posted(self, asking: dict) -> tuple[int, bytes]:
        """Status and body of one request, the whole within `timeout_s`.  Raises: Unanswered."""
        import httpx2

        until, late = time.monotonic() + self.timeout_s, f"no whole answer within {self.timeout_s:g} s"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            with (
                httpx2.Client(trust_env=False, follow_redirects=False, timeout=self.timeout_s) as client,
                client.stream("POST", self.url, json=asking, headers=headers) as reply,
            ):
                body = b""
                for part in reply.iter_bytes():  # as it comes, so that a trickle meets the deadline
                    body += part
                    if len(body) > LARGEST:
                        raise Unanswered(f"a reply of over {LARGEST} bytes")
                    if time.monotonic() > until:
                        raise Unanswered(late, down=True)
                return reply.status_code, body
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            raise Unanswered("unreachable", down=True) from None
        except httpx2.TimeoutException:
            raise Unanswered(late, down=True) from None
        except httpx2.HTTPError as error:
            raise Unanswered(f"the connection broke ({type(error).__name__})") from None


def address(url: str, *, allow_remote: bool) -> str:
    """Where chat completions are asked for.

    Raises: Refused for what is no plain http address, and for one beyond this machine unless `allow_remote`.
    """
    if re.search(r"[\s\\@]", url) or not url.isprintable():  # two parsers may read two hosts out of such an address
        raise Refused(f"url {url!r}: give a plain address such as http://localhost:8000/v1, without user, spaces or backslashes")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(f"url {url!r}: {error}; give an address such as http://localhost:8000/v1") from error
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise Refused(f"url {url!r}: give an address such as http://localhost:8000/v1")
    if not allow_remote and not is_local(host):
        raise Refused(f"url {url!r}: {host} is not this machine; reports would leave it: pass allow_remote=True (--allow-remote) if they may")
    return url if url.endswith("/chat/completions") else f"{url.rstrip('/')}/chat/completions"


def is_local(host: str) -> bool:
    """Whether a host name can only mean this machine: localhost, 127.x.x.x, ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
