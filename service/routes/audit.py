"""The audit trail: who changed what, for admins."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from service.bodies import StrictRoute
from service.deps import AfterQuery, AuditTrailDep, LimitQuery
from service.problems import problems
from service.schemas.views import ListView, View
from service.store.audit import Action

__all__ = ["router"]

router = APIRouter(tags=["audit"], route_class=StrictRoute)


class AuditEntryView(View):
    """One change that somebody made."""

    id: str
    at: datetime
    key: str | None
    """Id of the key that it was made with, `command line` or `retention`; null without keys."""
    action: Action
    object: str
    """Id of the data set, job, model or key that was changed; the name of an alias."""
    details: dict[str, Any]
    """Of what a job left the `job`, of a job its `kind`, of an alias the `model` and the one
    `before`, of a key its `scopes`."""


@router.get("/audit", operation_id="listAudit", responses=problems(404))
def list_audit(
    trail: AuditTrailDep,
    limit: LimitQuery = 100,
    after: AfterQuery = None,
    key: Annotated[
        str | None, Query(max_length=64, description="Only what was changed with this key.")
    ] = None,
    action: Annotated[Action | None, Query(description="Only changes of this kind.")] = None,
    changed: Annotated[
        str | None,
        Query(alias="object", max_length=64, description="Only changes of this id or alias."),
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only from this time on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only before this time.")] = None,
) -> ListView[AuditEntryView]:
    """List who created, moved, shared, cancelled and deleted what, the newest first."""
    page = trail.list(
        limit=limit,
        after=after,
        key=key,
        action=action,
        changed=changed,
        since=since,
        until=until,
    )
    data = [AuditEntryView(**vars(entry)) for entry in page.data]
    return ListView(data=data, has_more=page.has_more)
