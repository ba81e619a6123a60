"""Training as the demo shows it: a progress bar from the job's events, then what it left."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.demo.client import Client

__all__ = ["train", "train_unseen"]


def train(client: Client, console: Console, body: dict[str, Any]) -> Any:
    """Start a job, follow it to its end, print its regularizer log, and return it."""
    job = client.post("/train", body)
    columns = (TextColumn("  epoch"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[losses]}"), console=console) as progress:
        task = progress.add_task("training", total=body["epochs"], losses="waiting for a worker")
        for event in client.events(job["id"]):
            if event["type"] == "epoch":
                epoch = event["data"]
                losses = f"loss {epoch['train']['loss']:.4f}, valid {epoch['valid']['loss']:.4f}"
                progress.update(task, completed=epoch["epoch"], losses=losses)
    job = _succeeded(client.get(f"/jobs/{job['id']}"))
    _print_log(client, console, job["id"])
    return job


def train_unseen(client: Client, body: dict[str, Any]) -> Any:
    """Train and return the ended job; the answer to one request waits for it."""
    return _succeeded(client.post("/train", body, wait_s=50))


def _succeeded(job: Any) -> Any:
    if job["status"] != "succeeded":
        raise SystemExit(f"job {job['id']} is {job['status']}: {job['error']}")
    return job


def _print_log(client: Client, console: Console, job_id: str) -> None:
    """Print each regularizer with the outputs that it matched and their rates."""
    console.print("  the regularizer log, with the rates really dropped in the last epoch:")
    for regularizer in client.get(f"/jobs/{job_id}/regularizers")["data"]:
        rates = regularizer["history"][-1]["rates"]
        dropped = ", ".join(f"{name} {rate:.4f}" for name, rate in rates.items())
        console.print(f"    {regularizer['log']}: {dropped}", markup=False)
