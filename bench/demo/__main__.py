"""Run the demo: ``make demo``, or ``python -m bench.demo``."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console

from bench.demo import diabetes, digits
from bench.demo.client import Client
from bench.demo.server import serving

FOLDER = Path("demo")


def main() -> None:
    """Start a server, show both data sets, stop it; Ctrl-C, SIGTERM and a hang-up stop it, too."""
    for asked in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, lambda number, frame: sys.exit(128 + number))
    console = Console(highlight=False, soft_wrap=False)
    started = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    console.print("Starting [b]bernoulli serve[/b] with one worker and a temporary data folder")
    with serving() as url, closing(Client(url)) as client:
        console.print(f"Ready on {url} after {time.monotonic() - started:.1f} s")
        diabetes.run(client, console, FOLDER)
        digits.run(client, console, FOLDER)
    console.print(f"Done in {time.monotonic() - started:.0f} s; the server has stopped.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
