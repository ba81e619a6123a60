"""Keys: who may come in. Refused before anything of the request's body is read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Forbidden, ServiceError, Unauthorized
from service.origins import Origins
from service.problems import problem_of
from service.rates import Rates
from service.scopes import Caller, is_prediction, needed_scopes
from service.settings import Settings
from service.store.keys import ALL_SCOPES, ApiKeys

__all__ = ["KeyMiddleware", "is_open"]

_OPEN = frozenset({"/", "/docs", "/ping", "/openapi.json", "/health/live", "/health/ready"})
_OPEN_BELOW = ("/docs/", "/static/", "/v2/health/")
_LOOK_AGAIN_S = 1.0


class KeyMiddleware:
    """Asks for ``Authorization: Bearer KEY`` on everything but health, docs and static pages.

    Sets ``bernoulli.caller`` in the scope to the `Caller`, once the key allows what is asked for.
    Everybody comes in with `auth` off and, as long as only this machine can reach the server,
    without any configured or stored key; elsewhere nobody does once the last key is revoked. Where
    no key is asked for, the request must come by a name of this server, from no other site's page.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._is_off = settings.auth == "off"
        self._configured = [
            (hashlib.sha256(key.encode()).digest(), key) for key in settings.configured_keys()
        ]
        self._quotas = settings.quotas
        self._rates = Rates()
        self._origins = Origins(settings)
        self._is_reachable = not settings.is_loopback
        self._stored_exist: asyncio.Future[bool] | None = None
        self._looked = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._admit(scope)
        except ServiceError as error:
            await problem_of(Request(scope), error)(scope, receive, send)
            return
        if caller is not None:
            scope["bernoulli.caller"] = caller
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> Caller | None:
        """Return who calls, None where no key is asked for.

        Raises Unauthorized, Forbidden, or QuotaExceeded for more predictions than the key may have.
        """
        stored: ApiKeys = scope["state"]["keys"]
        if not await self._asks(stored):
            self._origins.check(scope)
            return None
        caller = self._caller(Request(scope), stored)
        if caller is None:
            raise Unauthorized("send a valid key as `Authorization: Bearer KEY`")
        needed = needed_scopes(scope["method"], scope["path"])
        if not caller.may(needed):
            told = " or ".join(f"`{one}`" for one in dict.fromkeys((*needed, "admin")))
            has = " and ".join(f"`{one}`" for one in caller.scopes)
            raise Forbidden(f"this needs a key with the scope {told}; this key has {has}")
        per_minute = caller.quotas.predictions_per_minute
        if per_minute is not None and is_prediction(scope["method"], scope["path"]):
            self._rates.take(caller.id, per_minute)
        return caller

    async def _asks(self, stored: ApiKeys) -> bool:
        """Whether a key is asked for."""
        if self._is_off:
            return False
        return bool(self._configured) or self._is_reachable or await self._any_stored(stored)

    def _caller(self, request: Request, stored: ApiKeys) -> Caller | None:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            return None
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        caller: Caller | None = None
        for known, _key in self._configured:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                caller = Caller(f"key_{known.hex()[:26]}", ALL_SCOPES, self._quotas)
        if caller is not None:
            return caller
        # In this thread: it is in memory, or one look into an index.
        key = stored.verify(secret)
        if key is None:
            return None
        return Caller(key.id, key.scopes, key.quotas.over(self._quotas))

    async def _any_stored(self, stored: ApiKeys) -> bool:
        """Whether `bernoulli keys` has made a key that is still good; looked up once a second.

        One request looks; those that come meanwhile go by what was seen last, if anything was.
        """
        if time.monotonic() - self._looked > _LOOK_AGAIN_S:
            self._looked = time.monotonic()
            looking = asyncio.ensure_future(run_in_threadpool(_any_good, stored))
            if self._stored_exist is None:
                self._stored_exist = looking
            try:
                await asyncio.shield(looking)
            except Exception:
                self._stored_exist, self._looked = None, float("-inf")
                raise
            self._stored_exist = looking
        assert self._stored_exist is not None
        if self._stored_exist.done():
            return self._stored_exist.result()
        return await asyncio.shield(self._stored_exist)


def _any_good(stored: ApiKeys) -> bool:
    return any(key.revoked_at is None for key in stored.list())


def is_open(path: str) -> bool:
    """Whether a path is served to everybody, with keys or without."""
    return path in _OPEN or path.startswith(_OPEN_BELOW)
