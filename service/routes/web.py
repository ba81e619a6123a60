"""Pages for people: the interactive documentation and the dashboard, without the internet."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

__all__ = ["mount", "router"]

router = APIRouter(include_in_schema=False)

_WEB = Path(str(resources.files("service") / "web"))
# Swagger UI's own files, from a package that carries them: nothing is fetched by the browser.
_SWAGGER = Path(str(resources.files("fastapi_offline") / "static"))

_OWN_ALONE = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
# The dashboard makes no markup from text anywhere, and the browser holds it to that.
_DASHBOARD = f"{_OWN_ALONE}; style-src 'self'; img-src 'self'; require-trusted-types-for 'script'"
# Swagger UI writes styles into its elements and draws its icons from data URLs.
_DOCS = f"{_OWN_ALONE}; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


class _Assets(StaticFiles):
    """Files that the browser asks for again each time; unchanged ones are answered by 304."""

    def __init__(self, directory: Path, policy: str) -> None:
        super().__init__(directory=directory)
        self._headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
        }

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(self._headers)
        return response


_dashboard = _Assets(_WEB, _DASHBOARD)
_docs = _Assets(_WEB, _DOCS)


@router.api_route("/", methods=["GET", "HEAD"])
async def dashboard(request: Request) -> Response:
    return await _dashboard.get_response("dashboard.html", request.scope)


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    return await _docs.get_response("docs.html", request.scope)


def mount(app: FastAPI) -> None:
    """Serve the pages' scripts and styles."""
    app.mount("/docs/assets", _Assets(_SWAGGER, _DOCS))
    app.mount("/static", _dashboard)
