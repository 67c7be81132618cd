"""The reward server beside the bare model: speed, waiting, equality, swaps and memory.

    python -m benchmarks.serve [--responses N] [--rounds N] [--requests N] [--seconds N] [--clock wall|cpu]

A server process (MiniLM, nine ratings, a head nobody has trained: speed and equality don't depend on it) is asked over
loopback by this process, on the same cores; texts are UKPConvArg1's. Everything is a ratio or a difference within
one run:

- throughput: all texts in requests of 64, eight at a time, against `score` of the same texts in this process, in turns;
  with --clock cpu, for a machine with other work, by the processor time of the server and of `score`;
- waiting: single texts at random times (Poisson), at half the rate that single texts are served at; the time from a
  request to its answer, less what the bare model takes for a text (tokenizer, network, head), at the 95th percentile;
- equality: the largest difference of a score from `score`'s;
- swaps: the served version changes 20 times, fetched over HTTP from a double of Caliper's API; failed requests;
- memory: the server's resident memory after a tenth of the requests and after all, or after --seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from benchmarks.datasets import load_ukp_strict
from workers.rewards.artifacts.save import save_model
from workers.rewards.files import sha256_of
from workers.rewards.models.base_models import PACKAGED, resolve_base_model
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.predict import score_responses
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.serve import listen
from workers.rewards.serving.holder import Held
from workers.rewards.text.sections import Template

BARS = {
    "throughput": 0.9,
    "added ms, p95": 15.0,
    "difference": 1e-5,
    "failed": 0,
    "memory": 1.05,
}
CPU = torch.device("cpu")
TOGETHER, AT_ONCE = 64, 8  # texts in a request, requests at a time
SWAPS = 20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100_000, help="of the memory's leg")
    parser.add_argument("--seconds", type=float, default=300.0, help="that leg ends at the latest")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the throughput")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    texts = [row["text"] for row in load_ukp_strict().responses[: options.responses]]
    with tempfile.TemporaryDirectory() as name:
        first, second = (saved(Path(name) / str(seed) / "model", seed) for seed in (0, 1))
        held = Held.load(first)
        with server(str(first)) as (process, port):
            figures = {
                **throughput(held, texts, port, options.rounds, process if options.clock == "cpu" else None),
                "added ms, p95": waiting(held, texts, port),
            }
            memory(process, port, options.requests, options.seconds, figures)
        figures["failed"] = swaps([first, second], texts, Path(name))
    missed = [name for name, bar in BARS.items() if not within(name, figures[name], bar)]
    for name, bar in BARS.items():
        print(f"{name}: {figures[name]:.3g}, bar {bar:g} {'MISSED' if name in missed else 'reached'}")
    return 1 if missed else 0


def within(name: str, figure: float, bar: float) -> bool:
    return figure >= bar if name == "throughput" else figure <= bar


def saved(folder: Path, seed: int) -> Path:
    """MiniLM with a fresh head."""
    path = resolve_base_model(PACKAGED)
    template = Template(load_tokenizer("MiniLM", path), architecture="encoder", ordinal=True, max_length=256)
    torch.manual_seed(seed)
    model = RewardModel(load_backbone("MiniLM", path, "encoder"), architecture="encoder", kind="ordinal")
    save_model(folder, model, template, method="oprm", partition=(3, 6), base_model=PACKAGED)
    return folder


@contextmanager
def server(*arguments: str, **environment: str) -> Iterator[tuple[psutil.Process, int]]:
    """A reward server that is ready, and its port."""
    command = [sys.executable, "-m", "workers.rewards.serve", *arguments, "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | environment
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        asyncio.run(until_ready(port))
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait()


async def until_ready(port: int) -> None:
    while True:
        async with Connection(port) as connection:
            status, _ = await connection.ask("GET", "/healthz")
            if status == 200:
                return
        await asyncio.sleep(0.2)


# --- Legs ---


def throughput(
    held: Held, texts: Sequence[str], port: int, rounds: int, process: psutil.Process | None
) -> dict[str, float]:
    """The server's speed as a share of `score`'s, and the largest difference of a score. `process`: the server's, to
    count processor time."""
    rows = [{"response_id": "", "messages": [], "tools": [], "text": text} for text in texts]
    parts = [texts[start : start + TOGETHER] for start in range(0, len(texts), TOGETHER)]
    requests = [json.dumps({"items": [{"text": text} for text in part]}).encode() for part in parts]
    alone: list[dict[str, Any]] = []
    served: list[dict[str, Any]] = []

    def scored() -> None:
        alone[:] = score_responses(held.model, held.template, rows, CPU)

    def asked() -> None:
        answers = asyncio.run(ask_all(port, requests))
        served[:] = [row for _, answer in answers for row in json.loads(answer)["scores"]]

    def clock(leg: str) -> float:
        if process is None:
            return time.perf_counter()
        return time.process_time() if leg == "score" else sum(process.cpu_times()[:2])

    legs: dict[str, Callable[[], None]] = {"score": scored, "server": asked}
    times: dict[str, list[float]] = {leg: [] for leg in legs}
    for number in range(rounds + 1):
        for leg in list(legs)[:: 1 if number % 2 else -1]:
            began = clock(leg)
            legs[leg]()
            if number:  # the first round warms up
                times[leg].append(clock(leg) - began)
    best = {leg: min(found) for leg, found in times.items()}
    for leg, seconds in best.items():
        print(f"{leg}: {len(texts) / seconds:.0f} texts/s, best of {rounds}", flush=True)
    difference = max(abs(a["score"] - b["score"]) for a, b in zip(alone, served, strict=True))
    return {"throughput": best["score"] / best["server"], "difference": difference}


def waiting(held: Held, texts: Sequence[str], port: int, *, seconds: float = 20.0) -> float:
    """Milliseconds at the 95th percentile beyond the bare model's, at half load."""
    bare = []
    for text in texts[:300]:
        began = time.perf_counter()
        held.score(held.encode([{"messages": [], "tools": [], "text": text}]))
        bare.append(time.perf_counter() - began)
    requests = [json.dumps({"items": [{"text": text}]}).encode() for text in texts]
    began = time.perf_counter()
    asyncio.run(ask_all(port, requests))
    rate = len(requests) / (time.perf_counter() - began)
    times = asyncio.run(ask_at(port, requests, rate / 2, seconds))
    low, high = float(np.percentile(bare, 95)), float(np.percentile(times, 95))
    print(
        f"a text alone: the bare model {1e3 * float(np.median(bare)):.1f} ms (p95 {1e3 * low:.1f}); {rate:.0f} "
        f"requests/s at most; at half of it {1e3 * float(np.median(times)):.1f} ms (p95 {1e3 * high:.1f}), "
        f"{len(times)} requests",
        flush=True,
    )
    return 1e3 * (high - low)


def memory(process: psutil.Process, port: int, count: int, seconds: float, figures: dict[str, float]) -> None:
    """Resident memory at the end as a multiple of that after a tenth of the requests."""
    requests = [
        json.dumps({"prompt": f"question {number % 97}", "response": f"answer {number}"}).encode()
        for number in range(1000)
    ]
    began, done, early = time.perf_counter(), 0, 0
    while done < count and time.perf_counter() - began < seconds:
        asyncio.run(ask_all(port, requests, door="/v1/reward", at_once=32))
        done += len(requests)
        if not early and (done >= count / 10 or time.perf_counter() - began > seconds / 10):
            early, then = process.memory_info().rss, done
    late = process.memory_info().rss
    figures["memory"] = late / early
    print(
        f"memory: {early / 2**20:.0f} MiB after {then:,} requests, {late / 2**20:.0f} MiB after {done:,} "
        f"({done / (time.perf_counter() - began):.0f} a second)",
        flush=True,
    )


def swaps(folders: Sequence[Path], texts: Sequence[str], place: Path) -> float:
    """Failed requests while the served version changes."""
    caliper = Caliper(folders)
    with caliper.running() as address:
        environment = {"CALIPER_CACHE_DIR": str(place / "cache"), "CALIPER_DATA_DIR": ""}
        with server("--project", address, **environment) as (_, port):
            asked, failed, seen = asyncio.run(swapped(caliper, port, texts))
    shutil.rmtree(place / "cache")
    print(
        f"{SWAPS} swaps under load: {asked} requests, {failed} failed; {seen} versions answered", flush=True
    )
    return failed if seen == len(folders) else float("inf")


async def swapped(caliper: Caliper, port: int, texts: Sequence[str]) -> tuple[int, int, int]:
    """Requests, failed ones, and versions that answered, until every swap was seen."""
    ended, seen = asyncio.Event(), set()
    asked = failed = 0

    async def load(worker: int) -> None:
        nonlocal asked, failed
        async with Connection(port) as connection:
            while not ended.is_set():
                some = [{"text": texts[(asked + place) % len(texts)]} for place in range(8)]
                status, answer = await connection.ask(
                    "POST", "/v1/score", json.dumps({"items": some}).encode()
                )
                asked += 1
                if status == 200:
                    seen.add(json.loads(answer)["version"]["digest"])
                else:
                    failed += 1

    async with asyncio.TaskGroup() as group:
        for worker in range(4):
            group.create_task(load(worker))
        async with Connection(port) as connection:
            for number in range(1, SWAPS + 1):
                caliper.number = number
                while f'"oprm-{number}"'.encode() not in (await connection.ask("GET", "/healthz"))[1]:
                    await asyncio.sleep(0.1)
        ended.set()
    return asked, failed, len(seen)


# --- Asking ---


class Connection:
    """A kept connection: as little client as can be, since it shares the cores with the server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        return int(lines[0].split()[1]), await self._reader.readexactly(length)


async def ask_all(
    port: int, requests: Sequence[bytes], *, door: str = "/v1/score", at_once: int = AT_ONCE
) -> list[tuple[int, bytes]]:
    """Every request, so many at a time; the answers in order. All must succeed."""
    answers: dict[int, tuple[int, bytes]] = {}
    left = iter(enumerate(requests))

    async def work() -> None:
        async with Connection(port) as connection:
            for number, request in left:
                answers[number] = await connection.ask("POST", door, request)
                assert answers[number][0] == 200, answers[number]

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [answers[number] for number in range(len(requests))]


async def ask_at(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> list[float]:
    """Seconds that each request took, sent at random times; one that was late to be sent has waited already."""
    drawn = random.Random(0)
    idle: list[Connection] = []
    times: list[float] = []

    async def one(number: int, due: float) -> None:
        connection = idle.pop() if idle else await Connection(port).__aenter__()
        status, _ = await connection.ask("POST", "/v1/score", requests[number % len(requests)])
        times.append(time.perf_counter() - due)
        assert status == 200
        idle.append(connection)

    due = time.perf_counter()
    end = due + seconds
    async with asyncio.TaskGroup() as group:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(one(len(times), due))
            due += drawn.expovariate(rate)
    for connection in idle:
        await connection.__aexit__()
    return times


# --- Caliper, as a server sees it ---


class Caliper:
    """The two routes of its API that a reward server needs, over two model folders; `number` says which serves."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self.number = folders, 0
        base = "/api/v1/projects/demo"
        self._app = Starlette(
            routes=[
                Route(f"{base}/serving", self._serving),
                Route(f"{base}/versions/{{number:int}}/files/{{name}}", self._file),
            ]
        )

    def folder(self, number: int) -> Path:
        return self.folders[number % len(self.folders)]

    async def _serving(self, request: Request) -> Response:
        folder = self.folder(self.number)
        config = json.loads((folder / "reward_config.json").read_text())
        files = [
            {"name": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.iterdir())
        ]
        version = {"id": self.number, "name": f"oprm-{self.number}", "digest": config["digest"]}
        return JSONResponse({"version": version, "folder": "", "files": files, "ask_back": None})

    async def _file(self, request: Request) -> Response:
        return FileResponse(self.folder(request.path_params["number"]) / request.path_params["name"])

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its project's address, while it runs in a thread."""
        listening = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(self._app, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/p/demo"
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    sys.exit(main())
