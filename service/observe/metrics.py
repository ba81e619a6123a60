"""Metrics for Prometheus, of one app."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import engine
from engine.track_record import TrackRecord
from service.health import Health
from service.latencies import BOUNDS_S, Latencies
from service.predictor import Predictor
from service.store.database import Database
from service.store.feedback import Feedback
from service.store.figures import job_figures
from service.store.jobs import Jobs
from service.store.room import Room

__all__ = ["MOST_MODELS", "Metrics", "MetricsMiddleware"]

logger = structlog.get_logger(__name__)

MOST_MODELS = 100
"""Whose feedback is shown: those that it came of last. Every one has six time series."""


class Metrics:
    """Counts requests as they come, and asks the store when it is scraped."""

    def __init__(
        self,
        jobs: Jobs,
        predictor: Predictor,
        health: Health,
        *,
        feedback: Feedback,
        database: Database,
        room: Room,
    ) -> None:
        self._registry = CollectorRegistry()
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._feedback = feedback
        self._registry.register(_Present(jobs, predictor, health, database, room))
        self._registry.register(_Predictions(predictor.latencies))
        self.requests = Counter(
            "bernoulli_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "bernoulli_request_seconds",
            "Time from a request's arrival to the start of its answer.",
            ["method", "route"],
            registry=self._registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count and time an answer."""
        key = (method, route, status)
        children = self._children.get(key)
        if children is None:  # to look them up takes longer than to count
            children = self._children[key] = (
                self.requests.labels(method, route, status),
                self.seconds.labels(method, route),
            )
        count, times = children
        count.inc()
        times.observe(seconds)

    def text(self, viewer: str | None = None) -> bytes:
        """Return all metrics in Prometheus' text format, of models those that `viewer` sees."""
        of_models = CollectorRegistry()
        of_models.register(_Feedback(self._feedback.seen_by(viewer)))
        return generate_latest(self._registry) + generate_latest(of_models)


class _Present(Collector):
    """What is the case now."""

    def __init__(
        self, jobs: Jobs, predictor: Predictor, health: Health, database: Database, room: Room
    ) -> None:
        self._jobs = jobs
        self._predictor = predictor
        self._health = health
        self._database = database
        self._room = room

    def collect(self) -> Iterator[GaugeMetricFamily]:
        jobs = GaugeMetricFamily("bernoulli_jobs", "Jobs by status.", labels=["status"])
        for status, count in self._jobs.counts().items():
            jobs.add_metric([status.value], count)
        yield jobs
        yield from self._job_figures()
        count, size = self._predictor.loaded.loaded()
        yield GaugeMetricFamily("bernoulli_models_loaded", "Models in memory.", value=count)
        yield GaugeMetricFamily("bernoulli_models_loaded_bytes", "Bytes of them.", value=size)
        turns = self._predictor.turns
        states = GaugeMetricFamily(
            "bernoulli_predictions", "Predictions by what they do.", labels=["state"]
        )
        states.add_metric(["waiting"], turns.waiting)
        states.add_metric(["running"], turns.running)
        yield states
        yield GaugeMetricFamily(
            "bernoulli_workers_ready", "Workers alive and warm.", value=self._health.workers()
        )
        info = GaugeMetricFamily("bernoulli_info", "The version that runs.", labels=["version"])
        info.add_metric([engine.__version__], 1)
        yield info

    def _job_figures(self) -> Iterator[GaugeMetricFamily]:
        figures = job_figures(self._database, datetime.now(UTC))
        yield GaugeMetricFamily(
            "bernoulli_queue_age_seconds",
            "Time that the oldest job in the queue has waited since it was created.",
            value=figures.queue_age_s,
        )
        failed = GaugeMetricFamily(
            "bernoulli_jobs_failed", "Failed jobs by the kind of their errors.", labels=["kind"]
        )
        for kind, count in figures.failed.items():
            failed.add_metric([kind], count)
        yield failed
        yield GaugeMetricFamily(
            "bernoulli_training_rows_per_second",
            "Rows that the running jobs train on in a second.",
            value=figures.rows_per_second,
        )
        yield GaugeMetricFamily(
            "bernoulli_disk_free_bytes",
            "Bytes free on the fullest of the server's disks.",
            value=self._room.free(),
        )


class _Predictions(Collector):
    """What online predictions took."""

    def __init__(self, latencies: Latencies) -> None:
        self._latencies = latencies

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "bernoulli_prediction_seconds",
            "Time of predictions online: in the queue, computing passes and statistics, and "
            "encoding rows and answers.",
            labels=["phase"],
        )
        bounds = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
        for phase, spread in self._latencies.spreads().items():
            family.add_metric([phase], list(zip(bounds, spread.up_to, strict=True)), spread.seconds)
        yield family
        yield CounterMetricFamily(
            "bernoulli_passes",
            "Monte-Carlo passes drawn for predictions online, each for all rows of its request.",
            value=self._latencies.passes,
        )


class _Feedback(Collector):
    """What the predictions of models turned out to be worth."""

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback

    def collect(self) -> Iterator[GaugeMetricFamily]:
        rows = GaugeMetricFamily(
            "bernoulli_feedback_rows", "Rows whose truths became known.", labels=["model"]
        )
        promised = GaugeMetricFamily(
            "bernoulli_feedback_coverage_promised",
            "Share of truths that calibrated intervals or sets are to cover.",
            labels=["model"],
        )
        watched = {
            "coverage": GaugeMetricFamily(
                "bernoulli_feedback_coverage",
                "Share of truths that they covered, of all rows or the latest 1000.",
                labels=["model", "rows"],
            ),
            "log_likelihood": GaugeMetricFamily(
                "bernoulli_feedback_log_likelihood",
                "Mean log density or probability of the truths.",
                labels=["model", "rows"],
            ),
        }
        for own in self._feedback.latest(MOST_MODELS):
            record = TrackRecord.model_validate(own.document)
            if record.promise is not None:
                promised.add_metric([own.model], record.promise.level)
            for name, stretch in (("all", record.whole), ("recent", record.latest)):
                if stretch is None:
                    continue
                if name == "all":
                    rows.add_metric([own.model], stretch.rows)
                for key, value in record.figures(stretch).items():
                    if key in watched and value is not None:
                        watched[key].add_metric([own.model, name], value)
        yield from (rows, promised, *watched.values())


class MetricsMiddleware:
    """Counts, times and logs every request under its route's template."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                metrics: Metrics = scope["state"]["metrics"]
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if route != "none" else "other"
                seconds = time.perf_counter() - started
                metrics.answered(method, route, message["status"], seconds)
                _log(scope, method, route, message["status"], seconds)
            await send(message)

        await self._app(scope, receive, counting)


def _log(scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
    """Write a line of what the server could not do, and where all is to be told of each request."""
    level = logging.WARNING if status >= 500 else logging.DEBUG
    if logging.getLogger(__name__).isEnabledFor(level):
        request = scope["bernoulli.request_id"]
        told = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6)}
        logger.log(level, "request", request=request, **told)
