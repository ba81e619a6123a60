"""Jobs in lists: what a page of many jobs shows of each."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from service.schemas.jobs import JobView
from service.store.jobs import Job

__all__ = ["JobSummary"]

MAX_LISTED = 20
"""Entries of the longest list that is shown."""


class JobSummary(JobView):
    """A job in a list: its spec without long lists, which the single job has."""

    omitted: dict[str, int] = Field(
        default_factory=dict, examples=[{"#/spec/rows": 5000, "#/spec/validation/rows": 500}]
    )
    """Where in this job a list of more than 20 entries was left out, and how many it has."""

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        omitted: dict[str, int] = {}
        spec = _without_long(job.spec, "#/spec", omitted)
        whole = JobView.of(job)
        return cls(**{**dict(whole), "spec": spec, "omitted": omitted})


def _without_long(value: Any, pointer: str, omitted: dict[str, int]) -> Any:
    """Return JSON without the fields that are long lists; add to `omitted` what they were."""
    if isinstance(value, list):
        return [_without_long(v, f"{pointer}/{i}", omitted) for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if isinstance(item, list) and len(item) > MAX_LISTED:
            omitted[place] = len(item)
        else:
            kept[key] = _without_long(item, place, omitted)
    return kept
