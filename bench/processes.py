"""The processes of a server that a bench has started: what they are, and what they have used."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CORES", "peak_bytes", "processes", "stolen", "used_by"]

CORES = os.cpu_count() or 1


def processes() -> dict[int, str]:
    """Return the processes below this one, with their commands."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            commands[int(folder.name)] = (folder / "cmdline").read_text()
            parents[int(folder.name)] = int(_figures(folder)[1])
        except OSError:  # it has ended meanwhile
            continue
    found = {os.getpid()}
    while more := {own for own, parent in parents.items() if parent in found} - found:
        found |= more
    return {own: commands[own] for own in found - {os.getpid()}}


def used_by(part: str) -> float:
    """Return the processor seconds so far of the processes whose command has this in it."""
    seconds = 0.0
    for process, command in processes().items():
        if part in command:
            after_name = _figures(Path(f"/proc/{process}"))
            seconds += (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def stolen() -> float:
    """Return the seconds so far in which a hypervisor ran others on this machine's processors."""
    processors = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(processors[8]) / os.sysconf("SC_CLK_TCK")


def peak_bytes(part: str) -> int:
    """Return the most memory that such a process ever had (`VmHWM`, with pages that are shared)."""
    peaks = []
    for process, command in processes().items():
        if part in command:
            status = Path(f"/proc/{process}/status").read_text()
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    if not peaks:
        raise SystemExit(f"no process runs {part}")
    return max(peaks)


def _figures(folder: Path) -> list[str]:
    return (folder / "stat").read_text().rpartition(")")[2].split()
