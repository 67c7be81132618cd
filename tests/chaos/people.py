"""People in front of the pages while everything breaks: judges who keep receipts, and an admin with jobs."""

import http.client
import itertools
import json
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from typing import Any

PASSWORD = "correct horse battery staple"
SLUG = "chaos"
IMPORTS = "imports"
RETRY_SECONDS = 0.3
CARD = re.compile(r'<article\s+class="judge[^"]*"\s+id="card-([0-9a-f-]{36})"')
REVISION = re.compile(r'name="revision" value="(\d+)"')
LEVELS = ("bad", "normal", "good")


class Broken(Exception):
    """The server could not be reached, or something broke on it: to be tried again."""


class Person:
    """A browser with its cookies; `until` ends every wait."""

    def __init__(self, url: str, name: str, closed: threading.Event) -> None:
        self.url, self.name, self.closed = url, name, closed
        self.cookies = CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))
        self.broken = 0
        self.longest = 0.0

    def ask(
        self, path: str, fields: dict[str, str] | None = None, *, file: tuple[str, bytes] | None = None
    ) -> Any:
        """One request; Broken for a broken connection and for a 5xx. A POST where fields are given."""
        headers, body = {}, None
        if fields is not None:
            token = next((cookie.value for cookie in self.cookies if cookie.name == "csrftoken"), "") or ""
            fields = {**fields, "csrfmiddlewaretoken": token}
            headers["Referer"] = self.url + path
            if file is None:
                body = urllib.parse.urlencode(fields).encode()
                if path.startswith(f"/p/{SLUG}/annotate/"):
                    headers["HX-Request"] = "true"
            else:
                body, headers["Content-Type"] = multipart(fields, *file)
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with self.opener.open(request, timeout=20) as response:
                response.text = response.read().decode(errors="replace")
                return response
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500:
                raise Broken(f"{path}: {error.code}") from error
            raise
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Broken(f"{path}: {error}") from error

    def insist(self, path: str, fields: dict[str, str] | None = None, **more: Any) -> Any:
        """As a person does: again until it works; raises Broken when the play is over first."""
        began = time.monotonic()
        while True:
            try:
                found = self.ask(path, fields, **more)
                self.longest = max(self.longest, time.monotonic() - began)
                return found
            except Broken:
                self.broken += 1
                if self.closed.wait(RETRY_SECONDS):
                    raise

    def sign_in(self) -> None:
        self.insist("/sign-in/")
        self.insist("/sign-in/", {"username": self.name, "password": PASSWORD})
        assert "sign-in" not in self.insist("/account/").url, f"{self.name} could not sign in"


def multipart(fields: dict[str, str], name: str, content: bytes) -> tuple[bytes, str]:
    boundary = "chaos-boundary-5c1f"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="uploads"; filename="{name}"\r\n'
    parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@dataclass
class Intent:
    """One answer that a judge sent: stored once however often it goes out."""

    key: str
    revision: int
    verdict: str
    levels: dict[str, str]
    acknowledged: bool = False
    undo: str = ""  # "asked", then "acknowledged"


@dataclass
class Judge:
    """Judges until the bell; every answer is sent again until its receipt is there."""

    person: Person
    rng: random.Random
    bell: threading.Event
    intents: list[Intent] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    dropped: int = 0

    def run(self) -> None:
        try:
            self.person.sign_in()
            while not self.bell.is_set():
                self._judge()
        except Broken:
            pass  # the play is over

    def _judge(self) -> None:
        page = self.person.insist(f"/p/{SLUG}/annotate/").text
        card, revision = CARD.search(page), REVISION.search(page)
        if card is None or revision is None:
            self.bell.wait(1)
            return
        intent = self._answer(card[1], int(revision[1]))
        if intent.acknowledged and self.rng.random() < 0.06:
            self._undo(intent)
        self.bell.wait(self.rng.random() * 0.1)

    def _answer(self, key: str, revision: int) -> Intent:
        verdict = self.rng.choices(("left", "right", "tie", "both_bad", "skip"), (40, 40, 9, 6, 5))[0]
        levels = (
            {} if verdict == "skip" else {f"level_{s}": self.rng.choice(LEVELS) for s in ("left", "right")}
        )
        intent = Intent(key, revision, verdict, levels)
        self.intents.append(intent)
        fields = {"revision": str(revision), **levels}
        fields |= {"skip": "1"} if verdict == "skip" else {"verdict": verdict}
        # Levels are drawn blindly: whatever contradicts itself is meant to.
        fields["keep"] = ":".join([verdict, *levels.values()])
        receipt = self._send(f"/p/{SLUG}/annotate/{key}/", fields)
        intent.acknowledged = receipt == "kept"
        if receipt == "dropped":
            self.dropped += 1
        return intent

    def _undo(self, intent: Intent) -> None:
        intent.undo = "asked"
        if self._send(f"/p/{SLUG}/annotate/undo/", {"key": intent.key}) == "undone":
            intent.undo = "acknowledged"

    def _send(self, path: str, fields: dict[str, str]) -> str:
        try:
            answer = self.person.insist(path, fields)
        except urllib.error.HTTPError as error:
            self.refused.append(f"{path}: {error.code}")
            return ""
        return answer.headers.get("Caliper-Receipt", "")


@dataclass
class Busy:
    """An admin who keeps one kind of job going through its pages."""

    person: Person
    bell: threading.Event
    turn: Callable[["Busy", int], None]
    done: int = 0
    retried: int = 0
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        try:
            self.person.sign_in()
            while not self.bell.is_set():
                try:
                    self.turn(self, self.done)
                    self.done += 1
                except urllib.error.HTTPError as error:
                    self.problems.append(f"{error.url}: {error.code}")
                    self.bell.wait(1)
        except Broken:
            pass

    def number_after(self, path: str, fields: dict[str, str], **more: Any) -> int:
        """POST, and the number in the address that it leads to."""
        return int(re.findall(r"/(\d+)/", self.person.insist(path, fields, **more).url)[-1])

    def ends(self, path: str, again: str) -> bool:
        """Wait until the page of a job says how it ended; badly: press `again`. False: the bell rang."""
        while not self.bell.wait(0.5):
            page = self.person.insist(path).text
            if (button := re.search(f'action="({again})"', page)) is not None:
                self.person.insist(button[1], {})
                self.retried += 1
            elif "hx-trigger" not in page:
                return True
        return False


def corpus(rng: random.Random, name: str, prompts: int, responses: int) -> bytes:
    """A file to import: prompts, responses, pairs of neighbours and votes by three people."""
    rows: list[dict[str, Any]] = []
    for number in range(prompts):
        prompt = f"{name}-{number}"
        rows.append({"type": "prompt", "id": prompt, "messages": [{"role": "user", "content": f"{prompt}?"}]})
        names = [f"{prompt}-r{index}" for index in range(responses)]
        for response in names:
            text = " ".join(rng.choices(("water", "light", "soil", "leaf", "sun", "pot"), k=20))
            rows.append({"type": "response", "id": response, "prompt": prompt, "text": f"{response} {text}"})
        for one, two in itertools.pairwise(names):
            rows.append({"type": "pair", "id": f"{one}:{two}", "a": one, "b": two})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
