"""What the commands share: the client of a call, results, progress, and texts that a terminal can show."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from caliper import credentials
from caliper.client import Client


class Stop(Exception):
    """The command ends here: `status` 1 if something failed, 2 if it was called wrongly."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Adds(Protocol):
    """Adds one command to the parser."""

    def __call__(
        self, name: str, run: Callable[[argparse.Namespace], None], words: str
    ) -> argparse.ArgumentParser: ...


def client_of(options: argparse.Namespace) -> Client:
    url, token = credentials.found(options.url)
    if not url:
        raise Stop(
            "No address is known. Run `caliper login --url URL`, or set CALIPER_URL and CALIPER_TOKEN.", 2
        )
    if not token:
        raise Stop(f"No token for {url} is known. Run `caliper login --url {url}`, or set CALIPER_TOKEN.", 2)
    return Client(url, token)


def result(options: argparse.Namespace, value: Any, words: str) -> None:
    """What a command found: JSON for scripts, words for people."""
    print(json.dumps(value, ensure_ascii=False, indent=1) if options.json else shown(words))


def told(text: str) -> None:
    print(shown(text), file=sys.stderr)


class Progress:
    """A line on a terminal that is written over; a line whenever the phase is new elsewhere."""

    def __init__(self) -> None:
        self._terminal, self._shown, self._at = sys.stderr.isatty(), "", 0.0

    def show(self, text: str, share: float | None = None) -> None:
        line = text if share is None else f"{text} {share:.0%}"
        if self._terminal:
            if line != self._shown and time.monotonic() - self._at > 0.1:
                self._at = time.monotonic()
                print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
                self._shown = line
        elif text != self._shown:
            told(text)
            self._shown = text

    def job(self, job: Any) -> None:
        """The phase and share of a job that waits or runs."""
        if job["state"] in ("queued", "running"):
            share = job["step"] / job["total"] if job["total"] else None
            if job.get("percent") is not None:
                share = job["percent"] / 100
            phase = job["waiting"] or job.get("phase") or job["state"]
            self.show(phase, min(1.0, share) if share is not None else None)

    def end(self) -> None:
        if self._terminal and self._shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def shown(text: str) -> str:
    """A text that a terminal can print: what would steer it, or turn its reading direction, is spelt out."""
    return "".join(
        letter if letter in "\n\t" or not _steers(letter) else f"<U+{ord(letter):04X}>"
        for letter in text.replace("\r\n", "\n")
    )


def _steers(letter: str) -> bool:
    code = ord(letter)
    return (
        code < 0x20
        or 0x7F <= code < 0xA0
        or code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029)
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or 0xD800 <= code <= 0xDFFF
    )
