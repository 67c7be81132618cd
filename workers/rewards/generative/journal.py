"""Samples that are kept as they come: a run that is killed asks for nothing twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..training.progress import Stop
from .sampling import Chat, Failed, Sampled, Sampler

SYNC_SECONDS = 1.0  # of answers that a crash of the machine may lose


def drawn(
    chats: Sequence[Chat],
    sampler: Sampler,
    path: Path,
    *,
    temperature: float,
    max_new_tokens: int,
    stop: Stop,
    progress: Callable[[int, int], None],
) -> list[Sampled | Failed]:
    """An answer to every chat, in their order; `path` has those of an earlier attempt, and gets each as it comes.

    The file's first line says which chats it belongs to, and each further one is an answer by its place. What a crash
    left half of is drawn again, and so is what failed. `progress(done, total)` may raise, as may the sampler: nothing
    that was answered is lost. Raises Stopped before it asks for anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = hashlib.sha256(repr([temperature, max_new_tokens, *chats]).encode()).hexdigest()
    found, whole = _read(path, asked)
    missing = [place for place in range(len(chats)) if place not in found]
    if not missing:
        return [found[place] for place in range(len(chats))]
    stop.check()
    with open(path, "ab") as file:
        file.truncate(whole)
        if not whole:
            file.write(asked.encode() + b"\n")
        synced = time.monotonic()

        def keep(number: int, answer: Sampled | Failed) -> None:
            nonlocal synced
            place = missing[number]
            found[place] = answer
            if isinstance(answer, Sampled):
                file.write(json.dumps([place, dataclasses.asdict(answer)]).encode() + b"\n")
                file.flush()
            if time.monotonic() - synced > SYNC_SECONDS:
                os.fsync(file.fileno())
                synced = time.monotonic()
            progress(len(found), len(chats))

        sampler.sample(
            [chats[place] for place in missing],
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            progress=keep,
        )
        os.fsync(file.fileno())
    return [found[place] for place in range(len(chats))]


def _read(path: Path, asked: str) -> tuple[dict[int, Sampled | Failed], int]:
    """Samples by place, and how many bytes of the file hold; none where it belongs to other chats."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if not lines or lines[0] != asked.encode() + b"\n":
        return {}, 0
    found: dict[int, Sampled | Failed] = {}
    whole = len(lines[0])
    for line in lines[1:]:
        if not line.endswith(b"\n"):
            break
        place, fields = json.loads(line)
        fields["ids"] = None if fields["ids"] is None else tuple(fields["ids"])
        found[place] = Sampled(**fields)
        whole += len(line)
    return found, whole
