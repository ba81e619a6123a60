"""Hosts and origins: that a page of another site does not call a server which asks for no key.

A browser lets any page send requests to a server on its machine. What comes back it keeps from the
page, unless the page's own name has been made to point here (DNS rebinding): so the `Host` must be
a name of this machine. And a request that changes something does so even if nobody reads the
answer: so its `Origin` must be this server. With keys neither matters: no page has one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

from service.errors import Forbidden
from service.settings import Settings

__all__ = ["Origins"]

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": "80", "https": "443"}
_MOST_KNOWN = 64


class Origins:
    """Which names this server may be called by, and which pages may change something."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = settings.allowed_host_names
        # Beyond loopback the server cannot know its names, unless it is told them.
        self._asks = settings.is_loopback or bool(self._allowed)
        self._known: dict[bytes, bool] = {}
        """Hosts that were asked for: most requests name the same."""

    def check(self, scope: Scope) -> None:
        """Raise Forbidden for a request by a name, or from a page, that is none of this server."""
        if not self._asks:
            return
        hosts, origins = [], []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise Forbidden(
                "without keys this server answers to 127.0.0.1, [::1], localhost and the names in "
                "BERNOULLI_ALLOWED_HOSTS; the Host header has none of these"
            )
        if scope["method"] in _READING:
            return
        if not all(self._is_same(origin, hosts[0]) for origin in origins):
            raise Forbidden(
                "without keys this server changes nothing for pages of other sites: the Origin "
                "header is neither its own nor one of BERNOULLI_ALLOWED_HOSTS"
            )

    def _is_own(self, host: bytes) -> bool:
        is_own = self._known.get(host)
        if is_own is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            is_own = self._known[host] = self._is_name_of_ours(_name(host))
        return is_own

    def _is_name_of_ours(self, name: str) -> bool:
        if name == "localhost" or name in self._allowed:
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _is_same(self, origin: bytes, host: bytes) -> bool:
        scheme, separator, place = origin.decode("latin-1").lower().partition("://")
        if not separator or scheme not in _PORTS:
            return False  # `null`, of files and sandboxed pages, among others
        if _name(place.encode("latin-1")) in self._allowed:
            return True
        ours = host.decode("latin-1").strip().lower()
        return _with_port(place, scheme) == _with_port(ours, scheme)


def _name(host: bytes) -> str:
    """Return the name or address of a `Host`, without its port."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0].removesuffix(".")


def _with_port(place: str, scheme: str) -> str:
    parts: Sequence[str] = place.rpartition("]")
    return place if ":" in parts[-1] else f"{place}:{_PORTS[scheme]}"
