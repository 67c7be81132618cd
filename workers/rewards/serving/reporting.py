"""Asking people back: what was scored for a training is sampled, and reported to Caliper once a window.

Scoring never waits for it: a rollout is noted at once, everything else happens behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx

from .follow import refusal
from .holder import Held, Row
from .metrics import Metrics
from .sampling import Window

logger = logging.getLogger(__name__)

MOST_BODY = 1_900_000  # bytes of a report: Caliper takes 2 MiB
KEPT_REPORTS = 20  # that wait for a Caliper that doesn't answer; the oldest goes first
IDLE_SECONDS = 1.0  # until the next look whether rollouts are wanted
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
PARTING_SECONDS = 5.0  # for the last report of a server that stops


class Reporter:
    """Collects rollouts while the project asks for them, and sends the reports."""

    def __init__(self, client: httpx.AsyncClient, metrics: Metrics, *, server: str) -> None:
        """`server`: this server's name in the reports."""
        self._client, self._metrics, self._server = client, metrics, server
        self._settings: dict[str, Any] | None = None
        self._windows: dict[str, Window] = {}
        """By the digest of the version that scored."""
        self._reports: deque[tuple[str, dict[str, Any]]] = deque(maxlen=KEPT_REPORTS)
        self._waiting, self._closing = asyncio.Event(), asyncio.Lock()

    def ask_back(self, settings: dict[str, Any] | None) -> None:
        """The project's wish; None: no rollouts. What is collected under another wish is still reported."""
        self._settings = settings

    def add(self, held: Held, rows: Sequence[Row], scored: Sequence[Row]) -> None:
        """Note rollouts and what they were scored."""
        if self._settings is None:
            return
        self._metrics.rollouts.inc(len(rows))
        if held.digest not in self._windows:
            self._windows[held.digest] = Window(self._settings, held.config, server=self._server)
        window = self._windows[held.digest]
        for row, score in zip(rows, scored, strict=True):
            window.add(row["messages"], row["text"], score)

    async def run(self) -> None:
        """For ever; when cancelled, what was collected is reported once more."""
        sending = asyncio.create_task(self._send())
        try:
            while True:
                await asyncio.sleep(float((self._settings or {}).get("window_seconds", IDLE_SECONDS)))
                await asyncio.shield(self._close())  # what is being closed when the server stops isn't lost
        finally:
            sending.cancel()
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(PARTING_SECONDS):
                    await self._close()
                    while self._reports:
                        await self._post(*self._reports.popleft())

    async def _close(self) -> None:
        async with self._closing:
            windows, self._windows = self._windows, {}
            for window in windows.values():
                try:
                    report = await asyncio.to_thread(window.close)
                except Exception:  # the next window may fare better, and scoring goes on
                    logger.exception("a window of rollouts could not be sampled")
                    continue
                if report is not None:
                    if len(self._reports) == KEPT_REPORTS:
                        self._metrics.reports.labels("given up").inc()
                    self._reports.append((str(uuid.uuid4()), report))
                    self._waiting.set()

    async def _send(self) -> None:
        """For ever: the oldest report first, each until Caliper has answered."""
        pause = FIRST_PAUSE
        while True:
            if not self._reports:
                self._waiting.clear()
                await self._waiting.wait()
            key, report = self._reports[0]
            try:
                again = await self._post(key, report)
            except httpx.HTTPError as error:
                logger.warning(
                    "a report of rollouts waits: Caliper can't be reached (%s)", type(error).__name__
                )
                again = pause
            except Exception:
                logger.exception("a report of rollouts can't be sent and is given up")
                again = None
            if again is not None:
                await asyncio.sleep(max(again, pause))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            if self._reports and self._reports[0][0] == key:  # it may have been given up meanwhile
                self._reports.popleft()

    async def _post(self, key: str, report: dict[str, Any]) -> float | None:
        """Send a report; None: it is answered for good, else how many seconds Caliper wants to be left alone."""
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        response = await self._client.post("/rollouts", content=_body(report), headers=headers)
        if response.status_code == 429 or response.status_code >= 500:
            given = response.headers.get("retry-after", "")
            return min(float(given), LONGEST_PAUSE) if given.isdecimal() else FIRST_PAUSE
        if response.is_success:
            self._metrics.reports.labels("taken").inc()
            self._metrics.pairs.inc(len(report["pairs"]))
        else:
            self._metrics.reports.labels("refused").inc()
            logger.warning("a report of rollouts is given up: %s", refusal(response))
        return None


def _body(report: dict[str, Any]) -> bytes:
    """A report as JSON, with as many of its pairs as fit.

    They are in random order, so those that are left out are left out at random: the chance of a random one to be asked
    about is less by the share that is sent.
    """
    pairs, used = [], len(json.dumps({**report, "pairs": []}))
    for pair in report["pairs"]:
        used += len(json.dumps(pair)) + 2
        if used > MOST_BODY:
            break
        pairs.append(pair)
    if len(pairs) < len(report["pairs"]):
        share = len(pairs) / len(report["pairs"])
        logger.info("of %d pairs %d fit in a report", len(report["pairs"]), len(pairs))
        pairs = [
            {**pair, "propensity": pair["propensity"] * share} if pair["why"] == "random" else pair
            for pair in pairs
        ]
    return json.dumps({**report, "pairs": pairs}, allow_nan=False).encode()
