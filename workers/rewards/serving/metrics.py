"""What Prometheus may know of a reward server: counts and times, never a text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The numbers of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "caliper_requests", "Requests answered.", ("door", "status"), registry=registry
        )
        self._seconds = Histogram(
            "caliper_request_seconds",
            "Seconds from a request's arrival to its answer.",
            ("door",),
            buckets=LATENCIES,
            registry=registry,
        )
        self._texts = Histogram(
            "caliper_batch_texts",
            "Texts in a batch.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=registry,
        )
        self._tokens = Histogram(
            "caliper_batch_tokens",
            "Tokens in a batch.",
            buckets=[2**power for power in range(4, 17)],
            registry=registry,
        )
        self._model_seconds = Counter(
            "caliper_model_seconds", "Seconds in which the model worked.", registry=registry
        )
        self.waiting = Gauge("caliper_queue_tokens", "Tokens that wait or are scored.", registry=registry)
        self.swaps = Counter("caliper_swaps", "Versions that took another's place.", registry=registry)
        self.failed_swaps = Counter(
            "caliper_failed_swaps", "Versions that could not take their place.", registry=registry
        )
        self._version = Gauge(
            "caliper_version_info", "The version that serves.", ("name", "digest"), registry=registry
        )
        self.rollouts = Counter("caliper_rollouts", "Rollouts scored for asking back.", registry=registry)
        self.reports = Counter(
            "caliper_reports", "Reports of rollouts to Caliper.", ("outcome",), registry=registry
        )
        self.pairs = Counter("caliper_pairs_sent", "Pairs sent to be judged.", registry=registry)

    def answered(self, door: str, status: int, seconds: float) -> None:
        self._requests.labels(door, str(status)).inc()
        self._seconds.labels(door).observe(seconds)

    def batched(self, texts: int, tokens: int, seconds: float, waiting: int) -> None:
        self._texts.observe(texts)
        self._tokens.observe(tokens)
        self._model_seconds.inc(seconds)
        self.waiting.set(waiting)

    def serves(self, name: str, digest: str) -> None:
        self._version.clear()
        self._version.labels(name, digest).set(1)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
