"""The OpenAPI document against the running service, by schemathesis."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.servers import Server, csv_of
from tests.thoroughness import examples

pytestmark = pytest.mark.processes

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)

LARGE = ("train", "evaluateAsJob", "predictStored")
"""Their specs have so many fields that to cover each takes longer than all else together: that is
done in the thorough profile, and `make fuzz` sends thousands of each."""


@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing"])
def test_no_request_gets_an_answer_that_is_not_documented(
    server: Server, tmp_path: Path, phases: str
) -> None:
    dataset = server.upload(csv_of(40))
    job = server.finished(
        server.train(
            dataset=dataset, network={"layers": [None, 4, None]}, hidden_dropout=0.1, epochs=2
        )["id"]
    )
    server.client.put("/aliases/documented", json={"model": job["model"]})
    assert server.client.get("/openapi.json").status_code == 200  # made once, in its time
    # What covers each parameter is about things that exist, and fuzzed examples about any.
    config = f"""
[parameters]
dataset_id = "{dataset}"
job_id = "{job["id"]}"
model_id = "{job["model"]}"
name = "documented"
"body.dataset" = "{dataset}"
"body.model" = "{job["model"]}"
"""
    if phases != "fuzzing":
        (tmp_path / "schemathesis.toml").write_text(config)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--checks", ",".join(CHECKS), "--max-examples", "6", "--seed", "1"]
    command += ["--phases", phases]
    if phases != "fuzzing":
        for operation in LARGE[: examples(len(LARGE), 0)]:
            command += ["--exclude-operation-id", operation]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stdout[-6000:]
