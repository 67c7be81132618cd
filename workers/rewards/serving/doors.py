"""The reward server's doors: HTTP in and out. What is asked stands in forms.py, what scores in batching.py."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from .batching import Batcher, Busy, NotReady, TooLong
from .forms import Bad, openrlhf_form, read_object, sample_form, score_form
from .holder import Held, Row
from .metrics import Metrics

logger = logging.getLogger(__name__)

MOST_BODY = 16 * 2**20  # bytes of one request
MOST_BODIES = 16 * MOST_BODY  # bytes of all requests that are being read or scored
BODY_SECONDS = 30.0  # in which a body must have arrived

Answer = Callable[[Request], Awaitable[Response]]
Asked = Callable[[dict[str, Any]], tuple[list[Row], bool]]
Told = Callable[[Held, list[Row]], Any]


class Problem(Exception):
    """An answer that says what is wrong, as application/problem+json (RFC 9457)."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        errors: Sequence[dict[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.headers = status, headers
        self.body = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "errors": list(errors),
        }

    def response(self) -> Response:
        return _json(self.body, self.status, self.headers, "application/problem+json")


class Doors:
    """The application. `tokens`: what a client must show; none: everybody may ask."""

    def __init__(
        self,
        batcher: Batcher,
        metrics: Metrics,
        *,
        tokens: Sequence[str] = (),
        rollouts: Callable[[Held, Sequence[Row], Sequence[Row]], None] | None = None,
        behind: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """`rollouts` is given what was scored for a training. `behind` runs while the server does."""
        self.batcher, self.metrics, self.rollouts, self.behind = batcher, metrics, rollouts, behind
        self._tokens = [token.encode() for token in tokens]
        self._bytes = 0
        doors: list[tuple[str, str, Answer]] = [
            ("/v1/score", "POST", self._scores(score_form, _score_answer)),
            ("/get_reward", "POST", self._scores(lambda body: (openrlhf_form(body), True), _openrlhf_answer)),
            (
                "/v1/reward",
                "POST",
                self._scores(lambda body: ([sample_form(body)], True), _sample_answer),
            ),
            ("/healthz", "GET", self._health),
            ("/metrics", "GET", self._metrics),
        ]
        self.app = Starlette(
            routes=[
                Route(path, self._door(path, answer), methods=[method]) for path, method, answer in doors
            ],
            exception_handlers={404: _no_door, 405: _no_door},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> Any:
        task = asyncio.create_task(self.behind()) if self.behind is not None else None
        yield
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self.batcher.stop)

    def _door(self, path: str, answer: Answer) -> Answer:
        """The endpoint of a door: every failure is a problem in words, every answer is counted."""

        async def endpoint(request: Request) -> Response:
            began = time.perf_counter()
            try:
                if path != "/healthz":
                    self._allow(request)
                response = await answer(request)
            except Problem as problem:
                response = problem.response()
            except ClientDisconnect:
                response = Response(status_code=499)  # nobody reads it; it is for the count
            except Exception:
                logger.exception("%s failed", path)
                response = Problem(
                    500, "Scoring failed", "The server failed on this request; its log says more."
                ).response()
            self.metrics.answered(path, response.status_code, time.perf_counter() - began)
            return response

        return endpoint

    def _allow(self, request: Request) -> None:
        """Raises Problem unless the request shows a token: as Bearer, or as the password of Basic.

        OpenRLHF, slime and verl can't send headers; of http://any:TOKEN@host their libraries make Basic.
        """
        if not self._tokens:
            if "origin" in request.headers:
                raise Problem(
                    403,
                    "Browsers are not answered",
                    "A page that somebody looks at could ask in their name; set CALIPER_SERVE_TOKENS, and send one.",
                )
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        shown = given.strip().encode()
        if scheme.lower() == "basic":
            with suppress(binascii.Error, ValueError):
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
        elif scheme.lower() != "bearer":
            shown = b""
        # every token is compared, so that the time says nothing
        if not sum([hmac.compare_digest(shown, token) for token in self._tokens]):
            raise Problem(
                401,
                "A token is needed",
                "Send Authorization: Bearer with one of the tokens in the server's CALIPER_SERVE_TOKENS.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    # --- Scoring ---

    def _scores(self, asked: Asked, told: Told) -> Answer:
        async def answer(request: Request) -> Response:
            held_bytes = [0]
            try:
                data = await self._body(request, held_bytes)
                try:
                    rows, rollouts = asked(read_object(data))
                except Bad as bad:
                    error = {"field": bad.field, "message": bad.message, "remedy": bad.remedy}
                    raise Problem(422, "The request can't be read", str(bad), errors=[error]) from None
                held, scored = await self._scored(request, rows)
            finally:
                self._bytes -= held_bytes[0]
            if rollouts and self.rollouts is not None:
                try:
                    self.rollouts(held, rows, scored)
                except Exception:  # an answer that is there is given
                    logger.exception("rollouts could not be noted")
            return _json(told(held, scored), headers={"Caliper-Version": held.digest})

        return answer

    async def _body(self, request: Request, held: list[int]) -> bytes:
        """The body, within its bounds; `held[0]` counts its bytes. Raises Problem."""
        too_long = Problem(
            413,
            "The request is too long",
            f"A request may have {MOST_BODY:,} bytes; send the items in several requests.",
        )
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > MOST_BODY:
            raise too_long
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    held[0] += len(part)
                    self._bytes += len(part)
                    if held[0] > MOST_BODY:
                        raise too_long
                    if self._bytes > MOST_BODIES:
                        raise _busy(1, "too many bytes of requests are being read")
                    parts.append(part)
        except TimeoutError:
            raise Problem(
                408,
                "The request came too slowly",
                f"Its body must arrive within {BODY_SECONDS:.0f} s; send fewer items.",
            ) from None
        return b"".join(parts)

    async def _scored(self, request: Request, rows: list[Row]) -> tuple[Held, list[Row]]:
        """What the batcher says. Raises Problem, and ClientDisconnect where the client has left."""
        scoring = asyncio.ensure_future(self.batcher.score(rows))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({scoring, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not scoring.done():
                raise ClientDisconnect
            return scoring.result()
        except NotReady as error:
            raise Problem(
                503,
                "No model is ready",
                f"Nothing can be scored yet: {error}.",
                headers={"Retry-After": "2"},
            ) from None
        except Busy as error:
            raise _busy(error.retry_after, "more texts wait than may") from None
        except TooLong as error:
            raise Problem(413, "The request is too long", f"{str(error).capitalize()}.") from None
        finally:
            scoring.cancel()
            leaving.cancel()

    # --- Looking in ---

    async def _health(self, request: Request) -> Response:
        holder = self.batcher.holder
        version = None if holder.current is None else holder.current.described
        said = {"ok": version is not None, "version": version, "problem": holder.problem or None}
        return _json(said, 200 if version else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _left(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(seconds: int, why: str) -> Problem:
    return Problem(
        429,
        "The server is busy",
        f"Just now {why}; ask again in {seconds} s.",
        headers={"Retry-After": str(seconds)},
    )


async def _no_door(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return Problem(
        status,
        "There is no such door",
        "POST /v1/score, /get_reward and /v1/reward score texts; GET /healthz and /metrics look in.",
        headers=getattr(error, "headers", None),
    ).response()


# --- Answers ---


def _json(
    value: Any, status: int = 200, headers: dict[str, str] | None = None, media: str = "application/json"
) -> Response:
    data = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(data, status, {"Cache-Control": "no-store", **(headers or {})}, media)


def _score_answer(held: Held, scored: list[Row]) -> Any:
    return {"version": held.described, "scores": scored}


def _openrlhf_answer(held: Held, scored: list[Row]) -> Any:
    """OpenRLHF makes a tensor of every value, so there are numbers alone, one a query."""
    rewards = [row["score"] for row in scored]
    known = [key for key in ("spread", "percentile") if scored and scored[0][key] is not None]
    return {
        "rewards": rewards,
        "scores": rewards,
        "extra_logs": {key: [row[key] for row in scored] for key in known},
    }


def _sample_answer(held: Held, scored: list[Row]) -> Any:
    """A bare number, as slime and verl's functions want it; the version stands in the header Caliper-Version."""
    return scored[0]["score"]
