"""The `caliper` command and the example of the documentation, at a live server with a worker behind it."""

import os
import pty
import queue
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from caliper.cli import main
from tests.rewards.serving.conftest import Server, running
from tests.workers.conftest import FAKE
from webapp import celery
from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement, QualityLabel, Source
from webapp.training.models import ModelVersion
from workers import tasks  # noqa: F401 - registers the tasks
from workers.rewards.serving import follow

pytestmark = pytest.mark.one_database

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def worker(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A thread in place of broker and worker: it does each task that is sent, in turn."""
    sent: queue.Queue[tuple[str, list[int]] | None] = queue.Queue()

    def send_task(task: str, *, args: list[int], **_: Any) -> None:
        sent.put((task, args))

    def work() -> None:
        while (message := sent.get()) is not None:
            task, args = message
            celery.app.tasks[task].run(*args)
        connections.close_all()

    monkeypatch.setattr(celery.app, "send_task", send_task)
    thread = threading.Thread(target=work)
    thread.start()
    yield
    sent.put(None)
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture
def there(
    worker: None, live_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], None]:
    """there(token): the environment of a person at their shell."""

    def make(token: str) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("CALIPER_URL", live_server.url)
        monkeypatch.setenv("CALIPER_TOKEN", token)

    return make


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._handle, side = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "caliper", *command],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=REPOSITORY,
            start_new_session=True,
            preexec_fn=_owns_terminal,
        )
        os.close(side)
        self.shown = ""

    def until(self, text: str) -> str:
        """What is shown up to a text that has to come within 20 s."""
        end = time.monotonic() + 20
        while text not in self.shown:
            ready, _, _ = select.select([self._handle], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.shown!r}"
            self.shown += os.read(self._handle, 65536).decode()
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def press(self, keys: str) -> None:
        os.write(self._handle, keys.encode())

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._handle)


def _owns_terminal() -> None:
    """Ctrl-C at the terminal is for this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Whoever was started with nohup hands it on ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_shell_imports_trains_labels_and_exports(
    there: Callable[[str], None],
    secret_of: Callable[..., str],
    project: Project,
    admin: User,
    settings: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    there(secret_of(admin))
    settings.TRAIN_COMMAND = [sys.executable, str(FAKE), "ok"]
    project.min_judgements = 1
    project.save()
    table = tmp_path / "answers.csv"
    steers = "\x1b[2J\u202egone"
    table.write_text(
        f"question,first,second,which\nWhere? {steers},Here.,There.,A\nWhen? {steers},Now.,Then.,B\n"
    )
    to = ["--project", project.slug]
    assert main(["import", *to, str(table)]) == 1
    refused = capfd.readouterr().err
    assert "Say which column is what" in refused
    assert "question, first, second, which" in refused
    assert not project.imports.exists()
    named = ["prompt=question", "a=first", "b=second", "winner=which", "winner.a=none", "winner.b=b"]
    mapped = [word for each in named for word in ("--map", each)]
    assert main(["import", *to, str(table), *mapped, "--dry-run"]) == 0
    assert "would be imported" in capfd.readouterr().out
    assert not Prompt.objects.exists()
    assert main(["import", *to, str(table), *mapped]) == 0
    assert "2 new" in capfd.readouterr().out
    assert Pair.objects.count() == 2
    with Terminal("label", *to) as terminal:
        card = terminal.until("A is better")
        # What the text would do to a terminal is spelt out.
        assert "<U+001B>[2J<U+202E>gone" in card
        assert "\u202e" not in card
        terminal.press("a2")
        terminal.until("A is: ")
        terminal.press("31")
        terminal.until("Saved.")
        terminal.until("A is better")
        terminal.press("u")
        terminal.until("Taken back")
        terminal.until("A is better")
        terminal.press("t22")
        terminal.until("Saved.")
        terminal.until("A is better")
        terminal.press("\x03")
        assert terminal.process.wait(10) == 130
    judgement = Judgement.objects.get(is_current=True, source=Source.API)
    assert (judgement.verdict, judgement.annotator) == ("tie", admin)
    assert QualityLabel.objects.filter(is_current=True, level="normal").count() == 2
    assert main(["train", *to, "--method", "oprm", "--set", "epochs=2", "--wait"]) == 0
    version = ModelVersion.objects.get()
    assert capfd.readouterr().out.startswith("oprm-1. ")
    assert version.run.config["epochs"] == 2
    assert main(["train", *to, "--method", "oprm", "--set", "colour=red"]) == 1
    assert "colour" in capfd.readouterr().err
    for name in ("judgements.jsonl", "judgements.csv", "judgements.zip"):
        out = tmp_path / name
        assert main(["export", *to, "--format", "judgements", "--out", str(out)]) == 0
        assert f"rows in {out}" in capfd.readouterr().out
        assert out.stat().st_size > 100


def test_the_example_of_the_documentation(
    there: Callable[[str], None],
    secret_of: Callable[..., str],
    admin: User,
    project: Project,
    live_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Import, label, train, score and export, with a real training and a real reward server that follows."""
    there(secret_of(admin))
    monkeypatch.setenv("CALIPER_PROJECT", project.slug)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(follow, "LONGEST_PAUSE", 0.5)

    async def behind() -> None:
        address, token = f"{live_server.url}/p/{project.slug}", os.environ["CALIPER_TOKEN"]
        async with follow.client_of(address, token) as client:
            follower = follow.Follower(
                client,
                server.holder,
                server.metrics,
                method=None,
                data=None,
                fetched=tmp_path / "fetched",
                ask_back=lambda wish: None,
            )
            await follower.run()

    server = Server(None, behind=behind)
    with running(server.app) as url:
        monkeypatch.setenv("CALIPER_SERVER", url)
        said = runpy.run_path(str(REPOSITORY / "docs" / "examples" / "loop.py"))
    assert Judgement.objects.count() == 12
    assert Response.objects.count() == 24
    version = ModelVersion.objects.get()
    assert (said["version"]["id"], said["server"].version["digest"]) == (version.pk, version.digest)
    assert said["full"]["score"] > said["vague"]["score"]
    assert len(said["rows"]) == 12
    assert (said["model"] / "model.safetensors").stat().st_size > 1000
