"""Checkpoints: snapshots of jobs as blobs, each with a hash that tells damage."""

from __future__ import annotations

import hashlib

from service.errors import NotFound
from service.store.blobs import Blobs

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(blobs: Blobs, key: str, content: bytes) -> None:
    """Store a snapshot."""
    blobs.put_bytes(key, hashlib.sha256(content).digest() + content)


def read_checkpoint(blobs: Blobs, key: str) -> bytes | None:
    """Return a snapshot, or None where it is missing or damaged."""
    try:
        with blobs.open(key) as stream:
            stored = stream.read()
    except NotFound:
        return None
    digest, content = stored[:32], stored[32:]
    return content if hashlib.sha256(content).digest() == digest else None
