"""Room on the disk for what a job can make anew: files that end with the process that made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Scratch"]


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A folder for files without a name, and how many bytes they may take together."""

    folder: Path
    bytes: int
