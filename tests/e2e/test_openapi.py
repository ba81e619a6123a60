"""The OpenAPI document against the running service, by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.servers import Server, csv_of

pytestmark = pytest.mark.processes

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def test_no_request_gets_an_answer_that_is_not_documented(server: Server, tmp_path: Path) -> None:
    dataset = server.upload(csv_of(40))
    job = server.finished(
        server.train(
            dataset=dataset, network={"layers": [None, 4, None]}, hidden_dropout=0.1, epochs=2
        )["id"]
    )
    server.client.put("/aliases/documented", json={"model": job["model"]})
    assert server.client.get("/openapi.json").status_code == 200  # made once, in its time
    # Half of the fuzzed examples are about things that exist, and so is what covers each parameter.
    config = f"""
[parameters]
dataset_id = "{dataset}"
job_id = "{job["id"]}"
model_id = "{job["model"]}"
name = "documented"
"body.dataset" = "{dataset}"
"body.model" = "{job["model"]}"
"""
    existing, any_ = ("existing", config, "examples,coverage,fuzzing"), ("any", "", "fuzzing")
    for folder, text, phases in (existing, any_):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "schemathesis.toml").write_text(text)
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        command += ["--checks", ",".join(CHECKS), "--max-examples", "12", "--seed", "1"]
        command += ["--phases", phases]
        run = subprocess.run(
            command, cwd=tmp_path / folder, capture_output=True, text=True, check=False, timeout=300
        )
        assert run.returncode == 0, run.stdout[-6000:]
