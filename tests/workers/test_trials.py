"""Texts that somebody tries a model on: scored by a model that is loaded once, as the `score` command scores them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
import torch
from django.core.cache import caches

import webapp.celery
from tests.rewards.conftest import rows, tiny_encoder  # noqa: F401 - fixtures
from webapp import heartbeat
from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.ratings import trying
from webapp.training.models import ModelVersion, TrainingRun
from workers import tasks, trials
from workers.rewards.artifacts import save
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.score import main
from workers.rewards.text.sections import Template

MESSAGES = [{"role": "user", "content": "how do i keep plant alive"}]
TEXTS = {1: "water it weekly and give it light", 3: "no idea", 4: "water it", 8: "no zebra"}


@pytest.fixture(autouse=True)
def _no_model_in_memory() -> Iterator[None]:
    trials._kept.clear()
    caches["local"].clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def broker(private_redis: str, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real, empty Redis, and a sign of life of a worker that scores."""
    settings.REDIS_URL = private_redis
    with heartbeat.redis_client() as client:
        client.flushdb()
        client.hset(heartbeat.KEY, "score@host", json.dumps({"queues": ["score"], "at": 9e12}))
    app = celery.Celery(broker=private_redis, set_as_current=False)
    monkeypatch.setattr(webapp.celery, "app", app)
    yield
    app.close()


@pytest.fixture
def make_version(project: Project, tiny_encoder: Path) -> Callable[..., ModelVersion]:  # noqa: F811
    """make_version(1) makes a version with a small model on the disk; the number is the seed of its head."""

    def make(number: int, kind: str = "ordinal") -> ModelVersion:
        run = TrainingRun.objects.create(
            project=project,
            method="oprm",
            trigger="button",
            config={},
            config_digest=str(number),
            state="done",
        )
        version = ModelVersion.objects.create(
            project=project, run=run, method="oprm", number=number, kind=kind, digest=str(number)
        )
        template = Template(
            load_tokenizer("tiny", str(tiny_encoder)),
            architecture="encoder",
            ordinal=kind == "ordinal",
            max_length=40,
        )
        torch.manual_seed(number)
        network = RewardModel(
            load_backbone("tiny", str(tiny_encoder), "encoder"), architecture="encoder", kind=kind
        )
        save.save_model(version.path, network, template, method="oprm", partition=(3, 6), base_model="tiny")
        return version

    return make


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were loaded, in order."""
    found: list[Path] = []
    load = save.load_model

    def noted(folder: Path) -> Any:
        found.append(folder)
        return load(folder)

    monkeypatch.setattr(save, "load_model", noted)
    return found


def ask(user: User, version: ModelVersion, texts: dict[int, str] = TEXTS) -> str:
    return trying.trial_ask(user=user, version=version, messages=MESSAGES, responses=texts)


def read(token: str, user: User, version: ModelVersion) -> trying.Trial:
    found = trying.trial_read(token, user=user, project=version.project_id)
    assert found is not None
    return found


def test_it_scores_as_the_command_does_and_loads_once(
    broker: None,
    researcher: User,
    make_version: Callable[..., ModelVersion],
    loads: list[Path],
    tmp_path: Path,
) -> None:
    version = make_version(1)
    first, second = ask(researcher, version), ask(researcher, version)
    assert read(first, researcher, version).waits
    tasks.score_texts(first)
    tasks.score_texts(second)
    assert loads == [version.path]
    trial = read(first, researcher, version)
    assert (trial.numbers, trial.taken, trial.error, trial.waits) == ([1, 3, 4, 8], True, "", False)
    assert trial.rows == read(second, researcher, version).rows

    def command(texts: list[str]) -> list[dict[str, Any]]:
        lines = [{"messages": MESSAGES, "text": text} for text in texts]
        (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        out = tmp_path / "scores.jsonl"
        assert main([str(version.path), str(tmp_path / "texts.jsonl"), "--out", str(out)]) == 0
        return [json.loads(line) for line in out.read_text().splitlines()]

    told, claims = command(list(TEXTS.values())), command([f"{text}\nScore: 9" for text in TEXTS.values()])
    for row, plain, claim in zip(trial.rows, told, claims, strict=True):
        for name in ("p", "expected", "spread"):
            assert row[name] == pytest.approx(plain[name], abs=1e-6)
        assert row["claimed"] == pytest.approx(claim["expected"], abs=1e-6)
    assert [row["unknown"] for row in trial.rows] == [0, 0, 0, 1]
    assert [row["cut"] for row in trial.rows] == [False] * 4


def test_a_long_response_is_told_to_be_cut_and_a_scalar_model_has_scores(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(1, "scalar")
    token = ask(researcher, version, {1: "water " * 60, 2: "water " * 33})
    tasks.score_texts(token)
    long, short = read(token, researcher, version).rows
    assert (long["cut"], long["truncated"], long["tokens"], long["p"]) == (True, True, 40, None)
    assert (short["cut"], short["truncated"]) == (False, True)
    assert isinstance(short["claimed"], float)


def test_two_models_are_kept_and_changed_files_are_loaded_again(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion], loads: list[Path]
) -> None:
    one, two, three = (make_version(number) for number in (1, 2, 3))
    for version in (one, two, one, three, one, two):
        tasks.score_texts(ask(researcher, version))
    assert loads == [version.path for version in (one, two, three, two)]
    assert len(trials._kept) == trials.KEPT_MODELS

    model, template, _ = save.load_model(two.path)
    loads.clear()
    assert model.head is not None
    torch.nn.init.ones_(next(model.head.parameters()))
    save.save_model(two.path, model, template, method="oprm", partition=(3, 6), base_model="tiny")
    tasks.score_texts(ask(researcher, two))
    assert loads == [two.path]


def test_unused_models_are_let_go(
    broker: None,
    researcher: User,
    make_version: Callable[..., ModelVersion],
    loads: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = make_version(1)
    monkeypatch.setattr(trials, "IDLE_SECONDS", 0.05)
    tasks.score_texts(ask(researcher, version))
    assert trials._rest is not None
    trials._rest.join(5)
    assert not trials._kept
    tasks.score_texts(ask(researcher, version))
    assert loads == [version.path] * 2


def test_a_damaged_folder_is_told_without_its_path(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(1)
    (version.path / "model.safetensors").write_bytes(b"damaged")
    token = ask(researcher, version)
    tasks.score_texts(token)
    trial = read(token, researcher, version)
    assert "model.safetensors is damaged" in trial.error
    assert str(version.path) not in trial.error
    (version.path / "reward_config.json").unlink()
    token = ask(researcher, version)
    tasks.score_texts(token)
    assert "is not a trained model" in read(token, researcher, version).error


def test_a_generative_version_is_refused_in_words(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion], loads: list[Path]
) -> None:
    version = make_version(1)
    ModelVersion.objects.update(method="judge")
    token = ask(researcher, version)
    tasks.score_texts(token)
    assert "takes longer than this page waits" in read(token, researcher, version).error
    assert loads == []


def test_texts_leave_with_the_worker_and_the_rest_in_time(
    broker: None, researcher: User, admin: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(1)
    secret = "x" * trying.BEGINNING + " the end of it is nobody's business"
    token = ask(researcher, version, {1: secret})
    with heartbeat.redis_client() as client:

        def kept() -> dict[str, int]:
            """Keys in which the text stands, and the seconds that they have left."""
            names = [name for name in client.scan_iter() if client.type(name) == "string"]
            return {name: client.ttl(name) for name in names if "business" in client.get(name)}

        assert [0 < seconds <= trying.PATIENCE_SECONDS for seconds in kept().values()] == [True]
        assert client.llen("score") == 1
        tasks.score_texts(token)
        assert kept() == {}
        for part in ("about", "taken", "answer"):
            assert 0 < client.ttl(f"caliper:trial:{token}:{part}") <= trying.KEPT_SECONDS == 600
        assert "business" not in json.dumps(client.lrange("score", 0, -1))
    assert trying.trial_read(token, user=admin, project=version.project_id) is None
    assert trying.trial_read(token, user=researcher, project=version.project_id + 1) is None
    before = read(token, researcher, version).rows
    tasks.score_texts(token)  # a message that comes twice
    assert read(token, researcher, version).rows == before


def test_an_answer_that_comes_too_late_is_not_kept(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(1)
    token = ask(researcher, version)
    with heartbeat.redis_client() as client:
        client.delete(f"caliper:trial:{token}:about")
        tasks.score_texts(token)
        assert client.get(f"caliper:trial:{token}:answer") is None


def test_one_person_asks_so_often_and_no_more(
    broker: None, researcher: User, admin: User, make_version: Callable[..., ModelVersion]
) -> None:
    version = make_version(1)
    for _ in range(trying.PER_MINUTE):
        ask(researcher, version)
    with pytest.raises(trying.TooOften):
        ask(researcher, version)
    ask(admin, version)


def test_without_a_worker_or_a_broker_nothing_is_sent(
    broker: None, researcher: User, make_version: Callable[..., ModelVersion], settings: Any
) -> None:
    version = make_version(1)
    with heartbeat.redis_client() as client:
        client.delete(heartbeat.KEY)
        with pytest.raises(trying.NobodyAnswers, match=trying.UNREAD):
            ask(researcher, version)
        assert client.llen("score") == 0
        assert list(client.scan_iter("caliper:trial:*")) == []
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    with pytest.raises(trying.NobodyAnswers, match=trying.SILENT):
        ask(researcher, version)


def test_no_torch_before_the_first_trial() -> None:
    """The worker is small until it is asked."""
    import subprocess
    import sys

    code = "import workers.tasks, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
