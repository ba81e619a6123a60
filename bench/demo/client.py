"""What the demo asks of the service: a few requests, as any HTTP client would send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow as pa

__all__ = ["Client"]

_TIMEOUT_S = 60


class Client:
    """A client of one server; whatever is refused ends the demo with the server's reason."""

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return _content(self._http.get(path))

    def post(self, path: str, body: dict[str, Any], *, wait_s: int = 0) -> Any:
        """Send a request; with `wait_s`, one whose answer may wait so long for its job's end."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        timeout = self._timeout_s + wait_s
        return _content(self._http.post(path, json=body, headers=headers, timeout=timeout))

    def predicted(self, body: dict[str, Any]) -> pa.Table:
        """Ask for predictions as an Arrow table: a row for each of theirs."""
        headers = {"Accept": "application/vnd.apache.arrow.stream"}
        response = self._http.post("/predict", json=body, headers=headers)
        if response.is_error:
            _content(response)
        return pa.ipc.open_stream(response.content).read_all()

    def upload(self, content: bytes, media_type: str, *, name: str) -> Any:
        """Store a data set and return its description."""
        headers = {"Content-Type": media_type}
        return _content(
            self._http.post("/datasets", params={"name": name}, content=content, headers=headers)
        )

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield a job's events as they happen, until it has ended."""
        headers = {"Accept": "text/event-stream"}
        with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
            if response.is_error:
                response.read()
                _content(response)
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))


def _content(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json()
    request = response.request
    raise SystemExit(
        f"{request.method} {request.url.path} was answered {response.status_code}: {response.text}"
    )
