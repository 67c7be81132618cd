"""Tiny models, and reward servers around them: the real app in a real uvicorn, in a thread."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from workers.rewards.artifacts.save import save_model
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.serve import listen
from workers.rewards.serving.batching import Batcher
from workers.rewards.serving.doors import Doors
from workers.rewards.serving.holder import Held, Holder
from workers.rewards.serving.metrics import Metrics
from workers.rewards.text.sections import Template


@pytest.fixture(scope="session")
def make_model(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make_model(kind="ordinal", seed=0) -> the folder of a model that nobody has trained: as good as any to serve."""

    def make(kind: str = "ordinal", seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("served") / "model"
        template = Template(
            load_tokenizer("tiny", str(tiny_encoder)),
            architecture="encoder",
            ordinal=kind == "ordinal",
            max_length=64,
        )
        torch.manual_seed(seed)
        network = RewardModel(
            load_backbone("tiny", str(tiny_encoder), "encoder"), architecture="encoder", kind=kind
        )
        method = "oprm" if kind == "ordinal" else "bt"
        save_model(folder, network, template, method=method, partition=(3, 6), base_model="tiny")
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: Callable[..., Path]) -> Path:
    """An ordinal model."""
    return make_model()


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An app in a real uvicorn in a thread; its address."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class Server:
    """A reward server in this process. `swap` makes another version serve."""

    def __init__(self, held: Held | None, *, bound: int | None = None, **doors: Any) -> None:
        self.holder, self.metrics, self.url = Holder(), Metrics(), ""
        if held is not None:
            self.swap(held)
        self.batcher = Batcher(self.holder, self.metrics, bound=bound)
        self.app = Doors(self.batcher, self.metrics, **doors).app

    def swap(self, held: Held) -> None:
        self.holder.current, self.holder.problem = held, ""

    def post(self, door: str, body: Any, **given: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{door}", json=body, timeout=30, **given)


@contextlib.contextmanager
def serving(held: Held | None, **given: Any) -> Iterator[Server]:
    server = Server(held, **given)
    with running(server.app) as server.url:
        yield server


@pytest.fixture(scope="module")
def held(model_folder: Path) -> Held:
    return Held.load(model_folder)


@pytest.fixture(scope="module")
def reward_server(held: Held) -> Iterator[Server]:
    """A server that anybody may ask."""
    with serving(held) as server:
        yield server
