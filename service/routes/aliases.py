"""Aliases: names that point at models and move atomically."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from service.bodies import StrictRoute
from service.deps import AliasesDep, LimitQuery, OwnerDep
from service.problems import problems
from service.schemas.models import AliasRequest, AliasView
from service.schemas.views import ListView

__all__ = ["router"]

router = APIRouter(tags=["aliases"], route_class=StrictRoute)

NamePath = Annotated[str, Path(min_length=1, max_length=64)]
AfterName = Annotated[
    str | None,
    Query(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Return what follows this name, a page's last one.",
    ),
]
IfMatch = Annotated[
    str | None, Header(max_length=200, description="Only if the alias still has this `ETag`.")
]

IfNoneMatch = Annotated[
    str | None,
    Header(max_length=200, description="`*`: only if there is no alias of this name yet."),
]


@router.get("/aliases", operation_id="listAliases", responses=problems(404))
def list_aliases(
    aliases: AliasesDep, limit: LimitQuery = 100, after: AfterName = None
) -> ListView[AliasView]:
    """List the aliases."""
    page = aliases.list(limit=limit, after=after)
    return ListView(data=[AliasView.of(alias) for alias in page.data], has_more=page.has_more)


@router.get("/aliases/{name}", operation_id="getAlias", responses=problems(404))
def get_alias(name: NamePath, aliases: AliasesDep, response: Response) -> AliasView:
    """Say which model a name points at, and where it pointed before."""
    alias = aliases.get(name)
    response.headers["ETag"] = alias.etag
    return AliasView.of(alias, list(aliases.history(name)))


@router.put(
    "/aliases/{name}",
    operation_id="putAlias",
    responses={
        201: {"model": AliasView, "description": "The name is new"},
        **problems(400, 404, 409, 412, 413, 415, 422),
    },
)
def put_alias(
    name: NamePath,
    body: AliasRequest,
    aliases: AliasesDep,
    owner: OwnerDep,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> AliasView:
    """Have a name point at a model, at once for everybody.

    Names are one for all keys together: one that another key has is a 409.
    """
    alias, is_new = aliases.set(
        name,
        body.model,
        owner=owner,
        shared=body.shared,
        if_match=if_match,
        if_none_match=if_none_match,
    )
    response.headers["ETag"] = alias.etag
    response.status_code = 201 if is_new else 200
    return AliasView.of(alias)


@router.delete(
    "/aliases/{name}",
    operation_id="deleteAlias",
    status_code=204,
    responses=problems(404, 412),
)
def delete_alias(name: NamePath, aliases: AliasesDep, if_match: IfMatch = None) -> None:
    """Take the name away; the model stays."""
    aliases.delete(name, if_match=if_match)
