"""Requests in, scores out: what waits is scored together, up to as many tokens as a pass of the model takes.

One thread runs the model, another the tokenizer. Nothing waits for company: while a batch is scored the next one
gathers. A request stays with the version that it began with, so a swap needs no pause, and no batch mixes versions.
A long request is scored a part at a time and lets others in between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ..text.sections import Encoded
from .holder import Held, Holder, Row
from .metrics import Metrics

logger = logging.getLogger(__name__)

# Tokens that may wait, in batches: at 20,000 tokens a second of a small encoder on a CPU about 13 s of work.
WAITING_BATCHES = 512
TOKENISED_AT_ONCE = 128  # texts, before another request has its turn
LONGEST_WAIT = 60  # seconds that a client is told to wait at most


class NotReady(Exception):
    """No version is loaded."""


class Busy(Exception):
    """More waits than may; `retry_after` seconds are worth waiting."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the queue is full; ask again in {retry_after} s")
        self.retry_after = retry_after


class TooLong(Exception):
    """One request holds more tokens than may ever wait."""


@dataclass(eq=False)
class _Work:
    """One request."""

    held: Held
    encoded: list[Encoded]
    parts: deque[tuple[list[int], int]]
    """Positions and tokens of what is still to be scored."""
    scores: dict[int, Row] = field(default_factory=dict)
    dropped: bool = False
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.parts)


class Batcher:
    """Scores requests of an event loop in a thread of its own."""

    def __init__(self, holder: Holder, metrics: Metrics, *, bound: int | None = None) -> None:
        """`bound`: tokens that may wait; None: WAITING_BATCHES passes of the model."""
        self.holder, self.metrics, self._bound = holder, metrics, bound
        self._tokeniser = ThreadPoolExecutor(1, thread_name_prefix="tokeniser")
        self._queue: deque[_Work] = deque()
        self._filled = threading.Condition()
        self._waiting = 0
        self._speed = 0.0  # tokens a second, of late
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Score what waits, then end the threads."""
        with self._filled:
            self._stopped = True
            self._filled.notify()
        self._thread.join()
        self._tokeniser.shutdown()

    async def score(self, rows: Sequence[Row]) -> tuple[Held, list[Row]]:
        """Scores of rows with messages, tools and text, and the version that gave them.

        Cancelled: what isn't scored yet is dropped. Raises NotReady, Busy, TooLong.
        """
        held = self.holder.current
        if held is None:
            raise NotReady(self.holder.problem)
        bound = self._bound or WAITING_BATCHES * held.batch_tokens
        if self._waiting >= bound:
            raise self._busy()
        loop, encoded = asyncio.get_running_loop(), list[Encoded]()
        for first in range(0, len(rows), TOKENISED_AT_ONCE):
            some = rows[first : first + TOKENISED_AT_ONCE]
            encoded += await loop.run_in_executor(self._tokeniser, held.encode, some)
        if not encoded:
            return held, []
        parts = await loop.run_in_executor(self._tokeniser, held.batches, encoded)
        work = _Work(held, encoded, deque(parts))
        tokens = work.tokens
        if tokens > bound:
            raise TooLong(
                f"the texts have {tokens:,} tokens, and {bound:,} may wait; send them in {tokens // bound + 1} requests"
            )
        with self._filled:
            if self._waiting + tokens > bound:
                raise self._busy()
            self._waiting += tokens
            self._queue.append(work)
            self._filled.notify()
        self.metrics.waiting.set(self._waiting)
        try:
            await work.done
        except asyncio.CancelledError:
            work.dropped = True
            raise
        return held, [work.scores[position] for position in range(len(encoded))]

    def _busy(self) -> Busy:
        seconds = self._waiting / self._speed if self._speed else 1.0
        return Busy(min(LONGEST_WAIT, max(1, math.ceil(seconds))))

    # --- The model's thread ---

    def _run(self) -> None:
        while True:
            with self._filled:
                while not self._queue and not self._stopped:
                    self._filled.wait()
                batch = self._take()
            if batch:
                self._score(batch)
            elif self._stopped:
                return

    def _take(self) -> list[tuple[_Work, list[int], int]]:
        """Parts of what has waited longest, of one version, up to a pass of the model; what is left goes to the end."""
        taken: list[tuple[_Work, list[int], int]] = []
        used = 0
        while self._queue:
            work = self._queue[0]
            if work.dropped:
                self._queue.popleft()
                self._waiting -= work.tokens
                continue
            if taken and (
                work.held is not taken[0][0].held or used + work.parts[0][1] > work.held.batch_tokens
            ):
                break
            self._queue.popleft()
            positions, tokens = work.parts.popleft()
            taken.append((work, positions, tokens))
            used += tokens
            if work.parts:
                self._queue.append(work)
        return taken

    def _score(self, batch: list[tuple[_Work, list[int], int]]) -> None:
        began = time.perf_counter()
        encoded = [work.encoded[position] for work, positions, _ in batch for position in positions]
        tokens = sum(tokens for _, _, tokens in batch)
        failure: Exception | None = None
        try:
            scored = iter(batch[0][0].held.score(encoded))
            for work, positions, _ in batch:
                work.scores.update((position, next(scored)) for position in positions)
        except Exception as error:
            logger.exception("a batch of %d texts failed", len(encoded))
            failure = error
        seconds = time.perf_counter() - began
        with self._filled:
            self._waiting -= tokens
            if failure is not None:
                for work in {id(work): work for work, _, _ in batch}.values():
                    work.dropped = True
        speed = tokens / max(seconds, 1e-6)
        self._speed = speed if not self._speed else 0.9 * self._speed + 0.1 * speed
        self.metrics.batched(len(encoded), tokens, seconds, self._waiting)
        for work in {id(work): work for work, _, _ in batch}.values():
            if failure is not None or len(work.scores) == len(work.encoded):
                work.loop.call_soon_threadsafe(_tell, work, failure)


def _tell(work: _Work, failure: Exception | None) -> None:
    if work.done.done():
        return
    if failure is None:
        work.done.set_result(None)
    else:
        work.done.set_exception(failure)
