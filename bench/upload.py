"""What an upload of CSV costs beside reading it: ``python -m bench.upload``.

Files of ten columns of numbers, of numbers and texts, are uploaded over HTTP, in turn with
`pyarrow.csv.read_csv` in a process of its own, which keeps the table in memory and stores nothing.
Told are seconds, those of processors (of those that receive and parse), and the most memory that
the process which parses ever had (`VmHWM`). Where other programs run beside, the processors' ratio
says more than the clock's.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.csv
from rich.console import Console

from bench.demo.client import Client
from bench.demo.server import serving
from bench.processes import peak_bytes, used_by

KINDS = ("amber", "blue", "copper", "dun", "ecru", "fawn", "grey", "hazel")
MB = 1e6


def table_of(megabytes: int, *, texts: bool) -> bytes:
    """Return a CSV file of about so many bytes."""
    generator = np.random.default_rng(0)
    rows = int(megabytes * 5000)
    columns = {f"x{index}": generator.standard_normal(rows) for index in range(10)}
    if texts:
        kinds = pa.array(KINDS)
        for index in range(3):
            columns[f"x{index}"] = kinds.take(pa.array(generator.integers(len(KINDS), size=rows)))
    content = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(columns), content)
    return content.getvalue()


def read(content: bytes) -> tuple[float, float]:
    """Return the seconds of reading alone, by the clock and of processors."""
    begun, used = time.perf_counter(), time.process_time()
    pyarrow.csv.read_csv(pa.BufferReader(content))
    return time.perf_counter() - begun, time.process_time() - used


def used_by_server() -> float:
    """Return the processor seconds so far of the server's processes that receive and parse."""
    return used_by("http_process") + used_by("parser_process")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    console = Console(highlight=False, width=110)
    for what, texts in (("numbers", False), ("numbers and texts", True)):
        content = table_of(given.megabytes, texts=texts)
        with (
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
            serving() as url,
            closing(Client(url, timeout_s=600)) as client,
        ):
            client.upload(content[: content.index(b"\n", 2**20) + 1], "text/csv", name="first")
            process.submit(read, content).result()
            ratios, ours = [], []
            for _ in range(given.rounds):
                alone = process.submit(read, content).result()
                begun, used = time.perf_counter(), used_by_server()
                client.upload(content, "text/csv", name="rows")
                ours.append((time.perf_counter() - begun, used_by_server() - used))
                ratios.append((ours[-1][0] / alone[0], ours[-1][1] / alone[1]))
            peak = peak_bytes("parser_process")
        seconds, processors = map(statistics.median, zip(*ours, strict=True))
        by_clock, by_processors = map(statistics.median, zip(*ratios, strict=True))
        console.print(
            f"{what}, {len(content) / MB:.0f} MB: {seconds:.2f} s, {by_clock:.2f}x of read_csv; of "
            f"processors {processors:.2f} s, {by_processors:.2f}x; peak {peak / MB:.0f} MB (load "
            f"{os.getloadavg()[0]:.2f})"
        )


if __name__ == "__main__":
    main()
