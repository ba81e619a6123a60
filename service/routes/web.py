"""Pages for people: the interactive documentation and the dashboard, without the internet."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

__all__ = ["mount", "router"]

router = APIRouter(include_in_schema=False)

_WEB = Path(str(resources.files("service") / "web"))
# Swagger UI's own files, from a package that carries them: nothing is fetched by the browser.
_SWAGGER = Path(str(resources.files("fastapi_offline") / "static"))
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/", response_class=HTMLResponse)
def dashboard() -> FileResponse:
    return FileResponse(_WEB / "dashboard.html", headers=_HEADERS)


@router.get("/docs", response_class=HTMLResponse)
def docs() -> FileResponse:
    return FileResponse(_WEB / "docs.html", headers=_HEADERS)


def mount(app: FastAPI) -> None:
    """Serve the pages' scripts and styles."""
    app.mount("/docs/assets", StaticFiles(directory=_SWAGGER))
    app.mount("/static", StaticFiles(directory=_WEB))
