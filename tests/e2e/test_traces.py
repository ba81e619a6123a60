"""Traces over OTLP, as a collector gets them from a real server."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.e2e.servers import serving

SECRET = "0123456789abcdef-secret"
TABLE = b"confidential,y\n8.125,1\n2,3\n5,6\n7,8\n"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class _Collector(ThreadingHTTPServer):
    """Takes what a server exports."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def exports(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for _, body in self.bodies]

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def _told(span: Span) -> dict[str, str]:
    return {each.key: each.value.string_value for each in span.attributes}


def test_each_request_but_probes_is_a_span_by_its_route_and_none_tells_what_was_sent(
    tmp_path: Path, collector: _Collector
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "BERNOULLI_KEYS": SECRET}
    table = {"Content-Type": "text/csv"}
    with serving(tmp_path / "data", env=env) as server:
        client = server.client
        client.headers["Authorization"] = f"Bearer {SECRET}"
        client.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        client.get("/health/live")
        client.get("/metrics")
        answers = {
            "POST /datasets": client.post("/datasets", content=TABLE, headers=table),
            "GET /jobs/{job_id}": client.get("/jobs/job_0000000000000000"),
        }
        dataset = answers["POST /datasets"].json()["id"]
        spec = {"dataset": dataset, "network": {"layers": [None, 2, None]}, "epochs": 1}
        answers["POST /train"] = client.post("/train", json=spec, headers={"Prefer": "wait=30"})
        model = answers["POST /train"].json()["model"]
        body = {"model": model, "inputs": [[4711.25]]}
        answers["POST /predict"] = client.post("/predict", json=body)
        assert server.stop() == 0
    statuses = [answer.status_code for answer in answers.values()]
    assert statuses == [201, 404, 202, 200]

    assert {path for path, _ in collector.bodies} == {"/v1/traces"}
    (name,) = {
        attribute.value.string_value
        for export in collector.exports
        for resource in export.resource_spans
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }
    assert name == "bernoulli"
    requests = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    ids = {span.name: _told(span)["bernoulli.request_id"] for span in requests}
    assert ids == {name: answer.headers["x-request-id"] for name, answer in answers.items()}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert {span.parent_span_id.hex() for span in requests} == {PARENT}
    everything = b"".join(body for _, body in collector.bodies)
    for sent in (SECRET.encode(), b"confidential", b"4711.25", b"8.125"):
        assert sent not in everything
