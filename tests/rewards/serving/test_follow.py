"""Keeping to what a project serves, against a double of Caliper's API: found or fetched, checked, swapped, reported."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from workers.rewards import serve
from workers.rewards.files import sha256_of
from workers.rewards.serving import reporting
from workers.rewards.serving.follow import Follower, Unfollowable, api_of, client_of
from workers.rewards.serving.holder import Held, Holder
from workers.rewards.serving.metrics import Metrics
from workers.rewards.serving.reporting import Reporter

from .conftest import running

pytestmark = pytest.mark.one_database

ASK = {"per_hour": 60, "sample": 6, "window_seconds": 0.2, "reference": None}
TOKEN = "cal_secret"


class Caliper:
    """What a reward server sees of Caliper. `serves` says which folder."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.folder = Path()
        self.asked: list[str] = []
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.damage = b""
        self.failures = 0
        base = "/api/v1/projects/demo"
        self.app = Starlette(
            routes=[
                Route(f"{base}/serving", self._serving),
                Route(f"{base}/versions/{{number:int}}/files/{{name}}", self._file),
                Route(f"{base}/rollouts", self._rollouts, methods=["POST"]),
            ]
        )

    def serves(self, model: Path, number: int, **more: Any) -> None:
        self.folder = model
        config = json.loads((model / "reward_config.json").read_text())
        files = [
            {"name": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(model.iterdir())
        ]
        version = {"id": number, "name": f"oprm-{number}", "method": "oprm", "number": number}
        version |= {"kind": config["kind"], "digest": config["digest"], "promoted_at": None}
        self.answer = {"version": version, "folder": "", "files": files, "ask_back": None, **more}

    async def _serving(self, request: Request) -> Response:
        self.asked.append("serving")
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return JSONResponse({"detail": "This token is not known."}, 401)
        if self.answer is None:
            return JSONResponse({"detail": "No version of this project serves yet."}, 404)
        tag = hashlib.sha256(json.dumps(self.answer).encode()).hexdigest()
        if request.headers.get("if-none-match") == f'"{tag}"':
            return Response(status_code=304)
        return JSONResponse(self.answer, headers={"ETag": f'"{tag}"'})

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.asked.append(name)
        if self.damage and name == "reward_head.safetensors":
            return Response(self.damage)
        return FileResponse(self.folder / name)

    async def _rollouts(self, request: Request) -> Response:
        if self.failures:
            self.failures -= 1
            return Response(status_code=503, headers={"Retry-After": "0"})
        self.reports.append((request.headers["idempotency-key"], await request.json()))
        return JSONResponse({"taken": 1, "duplicates": 0, "over_cap": 0})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[Caliper, str]]:
    caliper = Caliper()
    with running(caliper.app) as url:
        yield caliper, f"{url}/p/demo"


@pytest.fixture
def caliper(address: tuple[Caliper, str]) -> Caliper:
    caliper, _ = address
    caliper.answer, caliper.damage, caliper.failures = None, b"", 0
    caliper.asked.clear()
    caliper.reports.clear()
    return caliper


@pytest.fixture
def follower(
    address: tuple[Caliper, str], caliper: Caliper, tmp_path: Path
) -> Callable[..., tuple[Follower, Holder]]:
    """follower(token=..., data=None, ask_back=...) -> one that looks when it is told to, and what it fills."""

    def make(token: str = TOKEN, **given: Any) -> tuple[Follower, Holder]:
        holder = Holder()
        given = {"data": None, "method": None, "ask_back": lambda settings: None, **given}
        client = client_of(address[1], token)
        return Follower(client, holder, Metrics(), fetched=tmp_path / "fetched", **given), holder

    return make


def run(steps: Coroutine[Any, Any, None]) -> None:
    """Run it in a thread of its own: a browser's test before may have left a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, steps).result()


def looks(follower: Follower, times: int = 1) -> None:
    """Look, each time in the one loop that the client is of."""

    async def look() -> None:
        for _ in range(times):
            await follower.look()

    run(look())


def test_an_address_is_a_projects_page() -> None:
    assert api_of("https://x.org/p/a-b/") == "https://x.org/api/v1/projects/a-b"
    assert api_of("http://u:p@[::1]:8000/below/p/demo") == "http://[::1]:8000/below/api/v1/projects/demo"
    for wrong in (
        "x.org/p/a",
        "http://x.org/demo",
        "http:///p/demo",
        "file:///p/demo",
        "http://x.org/p/a/../b",
    ):
        with pytest.raises(ValueError, match="give it as on its page"):
            api_of(wrong)


def test_a_version_is_fetched_once_and_swapped(
    caliper: Caliper, follower: Any, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    async def whole() -> None:
        first, second = make_model(seed=3), make_model(seed=4)
        told: list[Any] = []
        one, holder = follower(ask_back=told.append)
        caliper.serves(first, 1)
        await one.look()
        assert holder.current.name == "oprm-1"
        assert holder.current.digest == json.loads((first / "reward_config.json").read_text())["digest"]
        caliper.asked.clear()
        await one.look()
        assert caliper.asked == ["serving"]  # 304
        caliper.serves(second, 2, ask_back=ASK)
        await one.look()
        assert holder.current.name == "oprm-2"
        assert told == [None, ASK]
        caliper.serves(first, 1)
        await one.look()
        assert holder.current.name == "oprm-1"
        caliper.asked.clear()
        caliper.serves(second, 3, ask_back=None)
        await one.look()  # the one before is still kept, as it may come back
        assert caliper.asked == ["serving"]
        assert len(list((tmp_path / "fetched").iterdir())) == 2

    run(whole())


def test_a_shared_folder_is_used_as_it_is(
    caliper: Caliper, follower: Any, model_folder: Path, tmp_path: Path
) -> None:
    data = model_folder.parent.parent
    caliper.serves(model_folder, 1, folder=f"{model_folder.parent.name}/model")
    one, holder = follower(data=data)
    looks(one)
    assert holder.current is not None
    assert caliper.asked == ["serving"]
    # a folder elsewhere, or one with other files, is not
    for folder in ("../../etc", str(model_folder), "nowhere"):
        caliper.asked.clear()
        caliper.serves(model_folder, 1, folder=folder)
        one, holder = follower(data=tmp_path)
        looks(one)
        assert holder.current is not None
    assert len(caliper.asked) == 1  # fetched for the first of them, and found again for the others


def test_a_version_that_cant_be_had_leaves_the_old_one(
    caliper: Caliper, follower: Any, make_model: Callable[..., Path]
) -> None:
    async def whole() -> None:
        good, other = make_model(seed=5), make_model(seed=6)
        one, holder = follower()
        with pytest.raises(Unfollowable, match="404: No version of this project serves yet"):
            await one.look()
        caliper.serves(good, 1)
        await one.look()
        caliper.serves(other, 2)
        caliper.damage = b"x" * (other / "reward_head.safetensors").stat().st_size
        with pytest.raises(Unfollowable, match="came damaged"):
            await one.look()
        assert holder.current.name == "oprm-1"
        caliper.damage = b""
        for change, words in (
            ({"files": []}, "is missing; copy"),
            ({"files": [{"name": "../../x", "size": 1, "sha256": "0" * 64}]}, "can't be read"),
            ({"version": None}, "can't be read"),
            ({"version": {"id": 2, "name": "x", "digest": "../.."}}, "can't be read"),
            ({"ask_back": {"sample": "many"}}, "can't be read"),
        ):
            caliper.serves(other, 2, **change)
            with pytest.raises(Exception, match=words) as failure:
                await one.look()
            assert type(failure.value).__name__ in ("Unfollowable", "ArtifactError")
            assert holder.current.name == "oprm-1"
        caliper.serves(other, 2)
        await one.look()  # what was damaged is fetched again
        assert holder.current.name == "oprm-2"

    run(whole())
    for token in ("", "cal_other"):
        stranger, _ = follower(token=token)
        with pytest.raises(Unfollowable, match="set CALIPER_TOKEN to a token with the scope score"):
            looks(stranger)
    away, _ = follower()
    away._client = client_of("http://127.0.0.1:9/p/demo", "")
    with pytest.raises(Unfollowable, match="can't be reached"):
        looks(away)


def test_rollouts_are_reported_once_and_never_lost_to_a_short_failure(
    address: tuple[Caliper, str], caliper: Caliper, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "FIRST_PAUSE", 0.05)
    texts = [
        {"messages": [{"role": "user", "content": "q"}], "tools": [], "text": f"water {n}"} for n in range(4)
    ]

    async def whole() -> None:
        async with client_of(address[1], TOKEN) as client:
            reporter = Reporter(client, Metrics(), server="here:8100")
            scored = held.score(held.encode(texts))
            reporter.add(held, texts, scored)  # nobody asks yet
            reporter.ask_back(ASK)
            task = asyncio.create_task(reporter.run())
            caliper.failures = 2
            reporter.add(held, texts, scored)
            for _ in range(100):
                await asyncio.sleep(0.05)
                if caliper.reports:
                    break
            reporter.add(held, texts[:1], scored[:1])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(whole())
    first, last = dict(caliper.reports).values()  # one that was cut off is sent again, under its key
    assert (first["seen"], first["prompts"], first["candidates"]) == (4, 1, 6)
    assert (first["server"], first["version"]) == ("here:8100", held.digest)
    assert {pair["why"] for pair in first["pairs"]} >= {"random"}
    assert last["seen"] == 1


def test_a_report_that_is_too_long_loses_pairs_and_says_their_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[dict[str, Any]] = [
        {"why": "random" if n % 2 else "moved", "propensity": 0.5 if n % 2 else 1.0, "a": {"text": "é" * 20}}
        for n in range(10)
    ]
    report = {"seen": 9, "pairs": pairs}
    assert json.loads(reporting._body(report)) == report
    monkeypatch.setattr(reporting, "MOST_BODY", 1000)
    body = reporting._body(report)
    sent = json.loads(body)["pairs"]
    assert len(body) <= 1000
    assert 0 < len(sent) < 10
    chances = {"random": 0.5 * len(sent) / 10, "moved": 1.0}
    assert [pair["propensity"] for pair in sent] == [chances[pair["why"]] for pair in pairs[: len(sent)]]


# --- The command ---


def started(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A reward server as a process, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.rewards.serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment,
    )
    line = process.stdout.readline()
    assert line.startswith("listening on "), line + process.stdout.read()
    return process, line.removeprefix("listening on ").strip()


def until(answers: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not answers():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_command_follows_swaps_reports_and_stops_in_good_order(
    address: tuple[Caliper, str], caliper: Caliper, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    caliper.serves(make_model(seed=7), 1, ask_back=ASK)
    process, url = started(
        "--project", address[1], CALIPER_TOKEN=TOKEN, CALIPER_CACHE_DIR=str(tmp_path), CALIPER_DATA_DIR=""
    )
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            until(lambda: client.get("/healthz").status_code == 200)
            assert client.get("/healthz").json()["version"]["name"] == "oprm-1"
            sample = {"prompt": "how do i keep plants alive", "response": "water it", "label": None}
            assert client.post("/v1/reward", json=sample).status_code == 200
            until(lambda: len(caliper.reports) == 1)
            caliper.serves(make_model(seed=8), 2, ask_back=ASK)
            until(lambda: client.get("/healthz").json()["version"]["name"] == "oprm-2")
            assert "caliper_swaps_total 1.0" in client.get("/metrics").text
            # What was asked before the signal is answered after it, and its rollouts are reported.
            items = [{"text": f"water it weekly {n}"} for n in range(1500)]
            request = json.dumps({"items": items, "rollouts": True})
            answers: list[httpx.Response] = []
            asking = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{url}/v1/score", content=request, timeout=30))
            )
            asking.start()
            until(lambda: bool(answers) or "caliper_queue_tokens 0.0" not in client.get("/metrics").text)
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers[0].status_code == 200
        assert len(answers[0].json()["scores"]) == 1500
        assert process.wait(30) == 0
        assert caliper.reports[-1][1]["seen"] == 1500
    finally:
        process.kill()


def test_what_it_cant_serve_is_refused(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for arguments, words in (
        ([str(tmp_path)], "is not a trained model"),
        ([str(model_folder), "--host", "0.0.0.0"], "set CALIPER_SERVE_TOKENS"),
        ([str(model_folder), "--method", "bt"], "--method goes with --project"),
        ([str(model_folder), "--port", "99999"], "give another --port"),
        (["--project", "http://x.org/demo"], "give it as on its page"),
    ):
        assert serve.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("refused: ")
        assert words in line
    config = json.loads((model_folder / "reward_config.json").read_text())
    (broken / "reward_config.json").write_text(json.dumps({**config, "method": "grm"}))
    assert serve.main([str(broken)]) == 2
    assert "a generative model" in capsys.readouterr().err
    monkeypatch.setenv("CALIPER_SERVE_TOKENS_FILE", str(tmp_path / "none"))
    assert serve.main([str(model_folder)]) == 2
    assert "CALIPER_SERVE_TOKENS_FILE" in capsys.readouterr().err
