"""What is sent to the app, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = ["HANG_S", "Answer", "HangError", "Request"]

HANG_S = 5.0
"""An answer that takes longer is a failure."""


@dataclass(frozen=True)
class Request:
    """What is sent."""

    method: str
    target: str
    """Path and query, percent-encoded."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, target: str, body: Any, method: str = "POST") -> Request:
        """Return one with a body of JSON."""
        return cls(method, target, orjson.dumps(body), {"Content-Type": "application/json"})

    def raw(self) -> bytes:
        """Return the request as it would be on the wire."""
        head = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """What comes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return orjson.loads(self.body)


class HangError(Exception):
    """No answer came in time, nor long after."""
