"""The Prometheus metrics of the service, and what `watch` shares with it."""

from fastapi import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client import Counter as PrometheusCounter
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def process_registry() -> CollectorRegistry:
    """Returns a registry with memory, CPU and files of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def batch_histogram(registry: CollectorRegistry) -> Histogram:
    """Returns the metric of the batches that `RequestBatcher` counts."""
    return Histogram(
        "llava_dvc_batch_frames",
        "Frames counted in one batch",
        registry=registry,
        buckets=(1, 2, 4, 8, 16, 32),
    )


def metrics_response(registry: CollectorRegistry) -> Response:
    """Returns all metrics in the Prometheus text format."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class ServiceMetrics:
    """The metrics that `GET /metrics` returns."""

    def __init__(self) -> None:
        self.registry = registry = process_registry()
        self.requests = PrometheusCounter(
            "llava_dvc_requests", "Answers to POST /count", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "llava_dvc_request_seconds",
            "Time from a request's first byte to its answer",
            registry=registry,
            buckets=(0.1, 0.2, 0.5, 1, 2, 4, 8, 15, 30, 60),
        )
        self.batches = batch_histogram(registry)
        self.waiting = Gauge(
            "llava_dvc_waiting_frames", "Frames that wait for an answer", registry=registry
        )

    async def exposition(self) -> Response:
        """Returns all metrics in the Prometheus text format."""
        return metrics_response(self.registry)


class MeasureRequests:
    """ASGI middleware that measures the time and the status of each request to /count."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/count":
            await self.app(scope, receive, send)
            return

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.requests.labels(message["status"]).inc()
            await send(message)

        with self.metrics.seconds.time():
            await self.app(scope, receive, send_and_count)
