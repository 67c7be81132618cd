"""People in front of the pages, all in one thread: a small HTTP/1.1 client, and an annotator as the page makes one.

A closed loop sends the next answer when the receipt is there. An open loop has a time for each answer, drawn before:
a late answer does not put off the next one, and waiting is counted from that time.
"""

import asyncio
import gzip
import html
import random
import re
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.chaos.people import CARD, LEVELS, PASSWORD, Intent

ANSWER_SECONDS = 60
RETRY_SECONDS = 0.3
KEPT_SECONDS = 1.0
RELOAD_EVERY = 25
"""Answers after which somebody opens the page anew, so that its time is measured too."""

HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)"')


class Broken(Exception):
    """The connection broke or the server did: to be sent again."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Browser:
    """One person's cookies and one kept connection to a server on this machine."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    used: float = 0.0

    async def ask(
        self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """One request and its whole answer. Raises Broken where there is none, or one of 500 and more."""
        origin = f"http://127.0.0.1:{self.port}"
        sent = {
            "Host": f"127.0.0.1:{self.port}",
            "Accept-Encoding": "gzip",
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            **(headers or {}),
        }
        if method == "POST":
            sent |= {"Origin": origin, "Referer": origin + path, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        message = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reply = await self._exchange(message)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            raise Broken(f"{path}: {type(error).__name__} {error}") from error
        if reply.status >= 500:
            raise Broken(f"{path}: {reply.status}")
        return reply

    async def _exchange(self, message: bytes) -> Reply:
        # gunicorn closes a connection that nobody used for 2 s.
        if self.streams is None or time.perf_counter() - self.used > KEPT_SECONDS:
            self.close()
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reply = await self._over(*self.streams, message)
        self.used = time.perf_counter()
        return reply

    async def _over(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes
    ) -> Reply:
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in head[1:-2]:
            name, _, value = line.partition(": ")
            if name.lower() == "set-cookie":
                cookie, _, said = value.partition(";")[0].partition("=")
                self.cookies[cookie] = said
            headers[name.lower()] = value
        body = await self._body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        return Reply(int(head[0].split()[1]), headers, body)

    @staticmethod
    async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            if "content-length" in headers:
                return await reader.readexactly(int(headers["content-length"]))
            return await reader.read() if headers.get("connection") == "close" else b""
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return body

    async def form(self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Reply:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self.ask(
            "POST", path, body=urllib.parse.urlencode(fields).encode(), headers=kind | (headers or {})
        )

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclass
class Noted:
    """What a leg measures: seconds of each sort of request, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broken: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


class Person(Protocol):
    """Somebody with a name who signs in and then does one thing after another."""

    noted: Noted

    async def sign_in(self) -> None: ...

    async def step(self, intended: float) -> bool:
        """The next thing, meant to begin at `intended` (time.perf_counter); False: there is nothing to judge."""
        ...


@dataclass
class Annotator:
    """Caliper's page: it holds two cards, and each receipt brings the next one."""

    name: str
    browser: Browser
    slug: str
    noted: Noted
    rng: random.Random
    asks_levels: bool
    # After a broken request: wait and send the same again, as the page's Save does.
    insists: bool = False
    deck: dict[str, dict[str, str]] = field(default_factory=dict)
    since_page: int = 0
    intents: list[Intent] = field(default_factory=list)

    async def sign_in(self) -> None:
        page = await self.browser.ask("GET", "/sign-in/")
        token = dict(HIDDEN.findall(page.text))["csrfmiddlewaretoken"]
        fields = {"username": self.name, "password": PASSWORD, "csrfmiddlewaretoken": token}
        reply = await self.browser.form("/sign-in/", fields)
        assert reply.status == 302, f"{self.name} could not sign in: {reply.status}"

    async def step(self, intended: float) -> bool:
        if self.deck and self.since_page < RELOAD_EVERY:
            await self._save(intended)
            self.since_page += 1
            return True
        page = await self._timed("page", intended, lambda: self.browser.ask("GET", self._path()))
        self.deck, self.since_page = {}, 0
        self._take(page.text)
        return bool(self.deck)

    def _path(self, key: str = "") -> str:
        return f"/p/{self.slug}/annotate/" + (f"{key}/" if key else "")

    def _take(self, text: str) -> None:
        """The cards of an answer, each with the hidden fields of its form."""
        for part in text.split("<article")[1:]:
            card = CARD.match("<article" + part)
            if card is not None:
                fields = {name: html.unescape(value) for name, value in HIDDEN.findall(part)}
                self.deck.setdefault(card[1], fields)

    async def _save(self, intended: float) -> None:
        key, hidden = next(iter(self.deck.items()))
        verdict = self.rng.choices(("left", "right", "tie", "both_bad"), (45, 45, 6, 4))[0]
        levels = (
            {f"level_{side}": self.rng.choice(LEVELS) for side in ("left", "right")}
            if self.asks_levels
            else {}
        )
        intent = Intent(key, int(hidden["revision"]), verdict, levels)
        self.intents.append(intent)
        # Levels are drawn blindly: whatever contradicts itself is meant to.
        fields = {**hidden, "verdict": verdict, **levels, "strength": "", "comment": ""}
        fields["keep"] = ":".join((verdict, levels.get("level_left", ""), levels.get("level_right", "")))
        fields |= {"holding": ",".join([*self.deck][1:]), "sending": ""}
        headers = {
            "HX-Request": "true",
            "HX-Current-URL": f"http://127.0.0.1:{self.browser.port}{self._path()}",
        }
        reply = await self._timed(
            "save", intended, lambda: self.browser.form(self._path(key), fields, headers)
        )
        del self.deck[key]
        receipt = reply.headers.get("caliper-receipt", "")
        intent.acknowledged = receipt == "kept"
        if not intent.acknowledged:
            self.noted.refused.append(f"save: {reply.status} {receipt}")
        self._take(reply.text)

    async def _timed(self, name: str, intended: float, send: Callable[[], Awaitable[Reply]]) -> Reply:
        while True:
            try:
                reply = await send()
                break
            except Broken as error:
                self.noted.broken.append(str(error))
                if not self.insists:
                    raise
                await asyncio.sleep(RETRY_SECONDS)
        self.noted.seconds[name].append(time.perf_counter() - intended)
        return reply


async def play(
    people: Sequence[Person],
    seconds: float,
    *,
    think: float = 0.0,
    seed: int = 0,
    to_the_end: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> float:
    """Let everybody, signed in already, work for so many seconds; how many it really was.

    `think` > 0 is the open loop: each person's answers are `think` seconds apart, give or take a third, drawn evenly.
    `to_the_end`: stop when nobody finds a card any more. `meanwhile` runs in a thread beside it.
    """
    began = time.perf_counter()
    end = began + seconds
    idle: set[int] = set()
    beside = asyncio.create_task(asyncio.to_thread(meanwhile)) if meanwhile else None

    async def work(number: int, person: Person) -> None:
        rng = random.Random(f"{seed}:{number}")
        intended = began + rng.uniform(0, think)
        while (now := time.perf_counter()) < end and not (to_the_end and len(idle) == len(people)):
            if think:
                if intended >= end:
                    return
                await asyncio.sleep(max(0.0, intended - now))
            else:
                intended = now
            try:
                found = await person.step(intended)
            except Broken:
                found = True  # noted; the next thing is tried
            idle.discard(number) if found else idle.add(number)
            if not found:
                await asyncio.sleep(0.5)
            intended += rng.uniform(think * 2 / 3, think * 4 / 3)

    await asyncio.gather(*(work(number, person) for number, person in enumerate(people)))
    took = time.perf_counter() - began
    if beside is not None:
        await beside
    return took
