"""Training on a table larger than what a worker may hold: ``python -m bench.large_data``.

Tables are put into the store of a server, next to its database, since the largest upload is smaller
than the largest table. Two jobs over HTTP on each: the rows of the small one are held in memory,
those of the large one are read by blocks. Told are rows per second while each trains, how long it
is planned before the 202 and in the worker, and the most memory that processes ever had (`VmHWM`,
with the pages of mapped files).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from bench.demo.client import Client
from bench.demo.server import serving
from bench.processes import peak_bytes
from engine.data import formats
from engine.data.profile import profile
from service.settings import Settings
from service.store.blobs import Blobs, dataset_key
from service.store.database import Database
from service.store.datasets import Datasets, NewDataset

NUMBERS = 48
KINDS = ("amber", "blue", "copper", "dun", "ecru", "fawn", "grey", "hazel")
BATCH = 65_536
SPEC: dict[str, Any] = {
    "network": {"layers": [None, 64, 64, None]},
    "hidden_dropout": 0.1,
    "batch_size": 128,
    "validation": 0.05,
}
MB = 1e6


def write_table(path: Path, rows: int, seed: int) -> None:
    """Write rows whose target can be learnt, batch by batch."""
    names = [f"x{index}" for index in range(NUMBERS)]
    fields = [pa.field(name, pa.float64()) for name in names]
    fields += [pa.field("kind", pa.large_string()), pa.field("y", pa.float64())]
    schema = pa.schema(fields)
    generator = np.random.default_rng(seed)
    weights = np.random.default_rng(0).standard_normal(NUMBERS) / NUMBERS**0.5
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            x = generator.standard_normal((count, NUMBERS), dtype=np.float32).astype(np.float64)
            kinds = generator.integers(len(KINDS), size=count)
            y = np.tanh(x @ weights) + 0.2 * kinds + 0.1 * generator.standard_normal(count)
            texts = pa.array(np.array(KINDS)[kinds].tolist(), type=pa.large_string())
            columns = [pa.array(column) for column in np.ascontiguousarray(x.T)]
            writer.write_batch(pa.record_batch([*columns, texts, pa.array(y)], schema=schema))


def put_table(folder: Path, rows: int, seed: int) -> tuple[str, int]:
    """Store a table in a server's folder; return its id and its bytes."""
    settings = Settings(data=folder)
    blobs = Blobs(settings.artifacts_path)
    content = blobs.temporary()
    write_table(content, rows, seed)
    with content.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = content.stat().st_size
    data = formats.load(content, "table")
    new = NewDataset(
        kind="table",
        rows=rows,
        schema=profile(data).model_dump(mode="json"),
        bytes=size,
        sha256=sha256,
        blob=dataset_key(sha256, "arrow"),
    )
    database = Database(settings.database_url)
    try:
        dataset = Datasets(database, lambda: datetime.now(UTC), blobs).create(new, content)
    finally:
        database.close()
    return dataset.id, size


def train(
    client: Client, dataset: str, epochs: int, limits: dict[str, int | None]
) -> dict[str, Any]:
    """Train within these limits, and say how fast."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    body = {"dataset": dataset, **SPEC, "limits": given or None, "epochs": epochs}
    begin = time.perf_counter()
    job = client.post("/train", body)
    found: dict[str, Any] = {"accepted_s": time.perf_counter() - begin, "log": []}
    ends = []
    for event in client.events(job["id"]):
        at = datetime.fromisoformat(event["at"])
        if event["type"] == "log":
            found["log"].append(event["data"]["message"])
        if event["type"] == "epoch":
            ends.append(at)
            found["valid"] = event["data"]["valid"]
    job = client.get(f"/jobs/{job['id']}")
    if job["status"] != "succeeded":
        raise SystemExit(f"the job has {job['status']}: {job['error']}")
    found["first_s"] = (ends[0] - datetime.fromisoformat(job["started_at"])).total_seconds()
    found["epoch_s"] = (ends[-1] - ends[0]).total_seconds() / max(1, len(ends) - 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=7_500_000, help="of the large table")
    parser.add_argument("--small-rows", type=int, default=750_000, help="of the small one")
    parser.add_argument("--resident", type=int, default=256 * 2**20, help="bytes held, at most")
    parser.add_argument("--memory", type=int, help="bytes that a job may allocate, at most")
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    console = Console(highlight=False, width=110)
    with tempfile.TemporaryDirectory(prefix="bernoulli-large-") as name:
        folder = Path(name)
        with (
            serving(folder, max_resident_bytes=given.resident) as url,
            closing(Client(url, timeout_s=600)) as client,
        ):
            small, small_bytes = put_table(folder, given.small_rows, 1)
            large, large_bytes = put_table(folder, given.rows, 2)
            console.print(f"tables of {small_bytes / MB:.0f} MB and {large_bytes / MB:.0f} MB")
            for told, dataset, rows, resident in (
                ("small, held in memory", small, given.small_rows, None),
                ("small, by blocks", small, given.small_rows, 16 * 2**20),
                ("large, by blocks", large, given.rows, None),
            ):
                limits = {"resident_bytes": resident, "memory_bytes": given.memory}
                found = train(client, dataset, given.epochs, limits)
                worker = peak_bytes("worker_process")
                http = peak_bytes("http_process")
                speed = rows * (1 - SPEC["validation"]) / found["epoch_s"]
                console.print(
                    f"{told}: 202 after {found['accepted_s']:.2f} s, first epoch ended after "
                    f"{found['first_s']:.1f} s, then {found['epoch_s']:.2f} s an epoch, "
                    f"{speed:,.0f} rows/s; rmse {found['valid']['rmse']:.4f}; worker's peak "
                    f"{worker / MB:.0f} MB, HTTP process's {http / MB:.0f} MB (load "
                    f"{os.getloadavg()[0]:.2f})"
                )
                for line in found["log"][:2]:
                    console.print(f"  {line}")


if __name__ == "__main__":
    main()
