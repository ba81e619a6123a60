"""One family of errors, each safe to show to a caller; only `service.problems` knows HTTP statuses.

ServiceError
├── Malformed            cannot be read at all
├── Invalid              can be read, but says something wrong
│   └── IdempotencyMismatch  an idempotency key that came with other content before
├── NotFound             no such thing
├── Conflict             the state of things forbids it now
│   └── IdempotencyInFlight  the first request with this idempotency key is not answered yet
├── PreconditionFailed   `If-Match` does not match
├── Unauthorized         no valid key
├── Forbidden            a valid key that may not do this
├── TooLarge             over a limit
├── TooSlow              a body that did not come in its time
├── UnsupportedMedia     a content type that is not read here
├── NotAcceptable        an `Accept` that cannot be met
├── QueueFull            the server has too much to do
│   └── QuotaExceeded        this key has too much to do
├── Unavailable          not now; later it may work
├── StorageFull          no room left to store what was sent
├── Corrupt              what was stored is not whole any more
└── LeaseLost            a worker no longer owns its job; never reaches a caller
"""

from __future__ import annotations

__all__ = [
    "Conflict",
    "Corrupt",
    "Forbidden",
    "IdempotencyInFlight",
    "IdempotencyMismatch",
    "Invalid",
    "LeaseLost",
    "Malformed",
    "NotAcceptable",
    "NotFound",
    "PreconditionFailed",
    "QueueFull",
    "QuotaExceeded",
    "ServiceError",
    "StorageFull",
    "TooLarge",
    "TooSlow",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMedia",
]


class ServiceError(Exception):
    """Base of every error the service raises on purpose; the message is safe to show."""

    def __init__(self, detail: str, *, pointer: str = "#") -> None:
        super().__init__(detail)
        self.detail = detail
        #: JSON pointer, as a URI fragment, to the offending value: ``#/dataset``.
        self.pointer = pointer


class Malformed(ServiceError):
    """Input that cannot be read at all: broken JSON, a broken header."""


class Invalid(ServiceError):
    """Input that can be read, but says something that cannot be."""


class IdempotencyMismatch(Invalid):
    """An idempotency key that was used before, with other content."""


class NotFound(ServiceError):
    """Nothing has this id or name."""


class Conflict(ServiceError):
    """The present state of the thing forbids what was asked."""


class IdempotencyInFlight(Conflict):
    """The first request with this idempotency key has not been answered yet."""


class PreconditionFailed(ServiceError):
    """The thing has changed since the caller read it."""


class Unauthorized(ServiceError):
    """No key, or one that is not known."""


class Forbidden(ServiceError):
    """A known key that may not do this."""


class TooLarge(ServiceError):
    """Over a limit that the message names."""


class TooSlow(ServiceError):
    """A body that did not come within the time that the message names."""


class UnsupportedMedia(ServiceError):
    """A content type that is not read here; the message lists those that are."""


class NotAcceptable(ServiceError):
    """An `Accept` header that no format meets; the message lists the formats."""


class Unavailable(ServiceError):
    """Cannot be done now; worth another try after `retry_after_s`."""

    def __init__(self, detail: str, *, retry_after_s: int, pointer: str = "#") -> None:
        super().__init__(detail, pointer=pointer)
        self.retry_after_s = retry_after_s


class QueueFull(ServiceError):
    """The server has as much work waiting as it takes."""

    def __init__(self, detail: str, *, retry_after_s: int, pointer: str = "#") -> None:
        super().__init__(detail, pointer=pointer)
        self.retry_after_s = retry_after_s


class QuotaExceeded(QueueFull):
    """This caller's key has as much work waiting as one key may have."""


class StorageFull(ServiceError):
    """No room is left to store what was sent."""


class Corrupt(ServiceError):
    """Stored content that cannot be read back; a fault of the service, not of the caller."""

    retry_after_s = 300
    """It takes somebody who restores the content."""


class LeaseLost(ServiceError):
    """The job is no longer this worker's: stopped, retried elsewhere, ended or deleted."""
