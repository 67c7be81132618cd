"""HTTP to one server: its address and token, retries, idempotency keys, pages, streams."""

import contextlib
import email.utils
import hashlib
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from caliper.errors import CaliperError, place_of, read_json

TRIES = 6
BUSY = (429, 502, 503, 504)
LONGEST_WAIT = 60.0
_WRITES = ("POST", "PUT", "PATCH", "DELETE")

Files = Mapping[str, Path]
"""Files to upload, by the name that each is to have there."""


class Transport:
    """Sends requests to the paths below one address.

    A request is sent again after 429, 502, 503 or 504, or when no answer came: up to `tries` times, after the time
    that Retry-After names or an ever longer one. Every write has an Idempotency-Key, so that none is done twice.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout: float = 60.0,
        tries: int | None = None,
        http: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise CaliperError(
                "No such address", detail=f"“{url}” is no address: write http://… or https://…"
            )
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise CaliperError("No such address", detail=f"“{url}” is no address: {error}.") from error
        if not address.host:
            raise CaliperError("No such address", detail=f"“{url}” names no host.")
        self.url, self._tries = url.rstrip("/"), tries or TRIES
        # A password in the address is not for messages.
        self.shown = place_of(address)
        if token and not (token.isascii() and token.isprintable()):
            raise CaliperError(
                "No such token", detail="The token has letters that no token has. Copy it once more."
            )
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(timeout, connect=10.0),
            transport=http,
        )

    def close(self) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        files: Files | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """The answer, read to its end. Raises CaliperError unless its status is below 300, or 304."""
        with self.stream(
            method, path, query=query, json=json, form=form, files=files, headers=headers
        ) as answer:
            answer.read()
            return answer

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        files: Files | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[httpx.Response]:
        """As `send`, with an answer whose body is still to be read."""
        sent = dict(headers or {})
        if method in _WRITES:
            sent.setdefault("Idempotency-Key", str(uuid.uuid4()))
        given = {name: value for name, value in (query or {}).items() if value is not None}
        with contextlib.ExitStack() as held:
            answer = self._answered(held, method, path, given, json, form, files, sent)
            try:
                yield answer
            except httpx.HTTPError as error:
                raise _unanswered(self.shown, error) from error

    def _answered(
        self,
        held: contextlib.ExitStack,
        method: str,
        path: str,
        query: dict[str, Any],
        json: Any,
        form: Mapping[str, Any] | None,
        files: Files | None,
        headers: dict[str, str],
    ) -> httpx.Response:
        """An answer that is no refusal, held open in `held`."""
        for attempt in range(1, self._tries + 1):
            # Each try reads the files from their start.
            opened = [
                ("files", (name, held.enter_context(_opened(file)))) for name, file in (files or {}).items()
            ]
            try:
                request = self._client.build_request(
                    method,
                    self.url + path,
                    params=query or None,
                    json=json,
                    data=dict(form) if form is not None else None,
                    files=opened or None,
                    headers=headers,
                )
            except ValueError as error:  # half a surrogate pair, or a number that JSON has not
                raise CaliperError("Not sendable", detail=f"This can't be sent: {error}.") from error
            try:
                answer = self._client.send(request, stream=True)
                if answer.status_code < 300 or answer.status_code == 304:
                    held.callback(answer.close)
                    return answer
                answer.read()
            except httpx.HTTPError as error:
                if attempt == self._tries:
                    raise _unanswered(self.shown, error) from error
                asked = None
            else:
                asked = _asked_to_wait(answer)
                if answer.status_code not in BUSY or attempt == self._tries or (asked or 0) > LONGEST_WAIT:
                    raise CaliperError.of(answer)
            time.sleep(_pause(attempt) if asked is None else asked)
        raise AssertionError("unreachable")

    def download(
        self,
        path: str,
        target: Path,
        *,
        sha256: str = "",
        size: int | None = None,
        query: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> httpx.Headers:
        """Write an answer's body to a file: beside it first, renamed when whole.

        With `sha256` a download that broke off goes on where it stopped, and the whole must have that digest.
        `progress` hears how many bytes are there. Returns the answer's headers.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        if not sha256:
            part.unlink(missing_ok=True)
        there = part.stat().st_size if part.exists() else 0
        if size is not None and there > size:
            part.unlink()
            there = 0
        headers = httpx.Headers()
        if size is None or there < size or not part.exists():
            asked = {"Range": f"bytes={there}-"} if there else {}
            with self.stream("GET", path, query=query, headers=asked) as answer:
                headers = answer.headers
                resumed = answer.status_code == 206
                with part.open("ab" if resumed else "wb") as file:
                    done = there if resumed else 0
                    for chunk in answer.iter_bytes(1 << 20):
                        file.write(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done)
                    file.flush()
                    os.fsync(file.fileno())
        if sha256 and (found := sha256_of(part)) != sha256:
            part.unlink()
            raise CaliperError(
                "Damaged download",
                detail=f"{target.name} has sha256 {found}, not {sha256}: it was thrown away. Download it again.",
            )
        part.replace(target)
        return headers


class Group:
    """Some routes of the API: what stands in braces in a route is filled from `known` and from what a call names."""

    prefix = "/api/v1"

    def __init__(self, transport: Transport, **known: str) -> None:
        self._transport, self._known = transport, known

    def _path(self, route: str, values: Mapping[str, Any]) -> str:
        # A file's name may have folders.
        quoted = {
            name: quote(str(value), safe="/" if name == "name" else "")
            for name, value in {**self._known, **values}.items()
        }
        return self.prefix + route.format(**quoted)

    def _send(
        self,
        method: str,
        route: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        files: Files | None = None,
        **values: Any,
    ) -> Any:
        """The JSON of an answer; None where it has no body."""
        path = self._path(route, values)
        answer = self._transport.send(method, path, query=query, json=json, form=form, files=files)
        return read_json(answer) if answer.content else None

    def _pages(self, route: str, query: Mapping[str, Any] | None = None, **values: Any) -> Iterator[Any]:
        """Every row of a list. The next page is asked for when the last row of one has been taken."""
        cursor = None
        while True:
            page = self._send("GET", route, query={**(query or {}), "cursor": cursor}, **values)
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CaliperError("No such file", detail=f"{path} can't be read: {error.strerror}.") from error


def _pause(attempt: int) -> float:
    """Seconds before the next try: half a second, doubled each time, a little uneven so that clients spread."""
    return min(0.5 * 2 ** (attempt - 1), 15.0) * random.uniform(0.8, 1.2)


def _asked_to_wait(answer: httpx.Response) -> float | None:
    """The seconds that Retry-After names, as a number or as a date."""
    said = answer.headers.get("retry-after", "")
    if said.isascii() and said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return None


def _unanswered(url: str, error: httpx.HTTPError) -> CaliperError:
    reason = str(error) or type(error).__name__
    return CaliperError(
        "No answer",
        detail=f"{url} did not answer ({reason}). Check the address, and that the server runs.",
    )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
