"""The `caliper` command: logging in, results, exit codes."""

import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caliper import credentials
from caliper.cli import main
from caliper.commands.common import shown
from webapp.accounts.models import User
from webapp.corpus.models import Project, Prompt
from webapp.labels.models import Judgement

from .conftest import URL

pytestmark = pytest.mark.usefixtures("at_home")


def test_login_keeps_the_token_for_its_owner_alone(
    project: Project,
    researcher: User,
    secret_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["projects"]) == 2
    assert "caliper login" in capsys.readouterr().err
    secret = secret_of(researcher, "read")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{secret}\n"))
    assert main(["login", "--url", f"{URL}/", "--token-stdin"]) == 0
    out, err = capsys.readouterr()
    assert "as rita (read)" in out
    assert "no TLS" in err
    assert secret not in out + err
    file = credentials.path()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert main(["projects"]) == 0
    assert capsys.readouterr().out == "capitals  Capitals\n"
    assert main(["projects", "--json"]) == 0
    assert [row["slug"] for row in json.loads(capsys.readouterr().out)] == ["capitals"]
    # A token that is none changes nothing that is kept.
    monkeypatch.setattr("getpass.getpass", lambda prompt: "cal_none")
    assert main(["login", "--url", URL]) == 1
    assert credentials.found() == (URL, secret)
    monkeypatch.setenv("CALIPER_TOKEN", "cal_other")
    assert main(["projects"]) == 1
    monkeypatch.delenv("CALIPER_TOKEN")
    assert main(["logout"]) == 0
    assert secret not in file.read_text()
    assert main(["projects"]) == 2
    file.write_text("{")
    assert main(["projects"]) == 1
    assert "delete it and log in again" in capsys.readouterr().err


def test_refusals_have_a_status_and_words(
    project: Project,
    researcher: User,
    secret_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("CALIPER_URL", URL)
    monkeypatch.setenv("CALIPER_TOKEN", secret_of(researcher))
    file = tmp_path / "a.jsonl"
    file.write_text("{}")
    for arguments, status, words in (
        (["export", "--project", "capitals", "--format", "trl", "--out", "x.pdf"], 2, ".jsonl, .csv or .zip"),
        (["export", "--project", "nowhere", "--format", "trl", "--out", "x.jsonl"], 1, "not a member"),
        (["import", "--project", "capitals", str(file)], 1, "role"),
        (["import", "--project", "capitals", str(tmp_path / "absent")], 2, "no file"),
        (["train", "--project", "capitals", "--method", "bt", "--set", "epochs"], 2, "KEY=VALUE"),
        (["label", "--project", "capitals"], 1, "Only annotators"),
        (["projects", "--url", "nonsense"], 1, "http"),
    ):
        assert main(arguments) == status, arguments
        assert words in capsys.readouterr().err, arguments

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("caliper.client.Projects.list", interrupted)
    assert main(["projects"]) == 130
    with pytest.raises(SystemExit) as usage:
        main(["train"])
    assert usage.value.code == 2


def test_labelling_by_lines(
    project: Project,
    annotator: User,
    make_prompt: Callable[..., Prompt],
    secret_of: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where there are no single keys: the first letter of each line. A contradiction is asked about."""
    make_prompt(project, "p1", ["Paris.", "Lyon."])
    monkeypatch.setenv("CALIPER_URL", URL)
    monkeypatch.setenv("CALIPER_TOKEN", secret_of(annotator))
    monkeypatch.setattr(sys, "stdin", io.StringIO("?\na\n\n1\n3\nn\nb\n3\n1\n3\n"))
    assert main(["label", "--project", "capitals", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "Is it meant?" in out
    assert json.loads(out[out.rindex("{") :]) == {"answered": 1}
    assert "All is judged" in err
    judgement = Judgement.objects.get()
    assert (judgement.strength, judgement.verdict == judgement.left) == (3, False)


def test_texts_do_not_steer_the_terminal() -> None:
    assert shown("a\tb\r\nc é 🌱") == "a\tb\nc é 🌱"
    assert shown("\x1b]0;x\x07\x9b\u2066\ud800") == "<U+001B>]0;x<U+0007><U+009B><U+2066><U+D800>"
