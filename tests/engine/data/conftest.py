"""Small data sets, made from the bytes that a caller would send."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data.formats import Data, Limits, parse

Parse = Callable[..., Data]


@pytest.fixture
def parsed(tmp_path: Path) -> Parse:
    """Parse bytes as a file of a media type (CSV by default)."""

    def parse_bytes(
        content: bytes, media_type: str = "text/csv", limits: Limits | None = None
    ) -> Data:
        path = tmp_path / "upload"
        path.write_bytes(content)
        return parse(path, media_type, limits=limits)

    return parse_bytes


def npz(**arrays: Any) -> bytes:
    """Return the bytes of an npz archive as NumPy itself writes it."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
