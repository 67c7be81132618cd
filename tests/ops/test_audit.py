"""The audit of dependencies in `make lint`, with a pip-audit that answers as it is told."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import audit

FINE = {"name": "django", "version": "5.2.19", "vulns": []}
HOLE = {"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """answer({...}, ...) puts a pip-audit on PATH that gives these answers in turn; answer("words") one that fails."""

    def make(*answers: Any) -> Path:
        program = tmp_path / "pip-audit"
        (tmp_path / "answers.json").write_text(json.dumps(answers))
        program.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"path = pathlib.Path({str(tmp_path / 'answers.json')!r})\n"
            "first, *rest = json.loads(path.read_text())\n"
            "path.write_text(json.dumps(rest))\n"
            "sys.exit(first) if isinstance(first, str) else print(json.dumps({'dependencies': first, 'fixes': []}))\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        constraints = tmp_path / "constraints.txt"
        constraints.write_text("# the lock\ndjango==5.2.19\nnh3==1.0  # cleans\n")
        return constraints

    return make


def test_a_known_vulnerability_fails(answer: Callable[..., Path], capfd: pytest.CaptureFixture[str]) -> None:
    bad = {"name": "nh3", "version": "1.0", "vulns": [HOLE]}
    assert audit.main(answer([FINE], [FINE, bad])) == 1
    told = capfd.readouterr()
    assert "nh3 1.0: PYSEC-2026-1, fixed in 1.1" in told.err
    assert "2 packages looked up, 1 known vulnerabilities" in told.out


def test_none_is_fine_and_what_was_not_looked_up_is_said(
    answer: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(answer([FINE], [FINE, {"name": "nh3", "skip_reason": "not on PyPI"}])) == 0
    told = capfd.readouterr().out
    assert "1 packages looked up, 0 known vulnerabilities" in told
    assert "not looked up: nh3" in told


@pytest.mark.parametrize(
    "first", [[{"name": "django", "skip_reason": "not found on PyPI"}], "ERROR: Could not connect to PyPI"]
)
def test_data_out_of_reach_is_skipped_with_a_word(
    answer: Callable[..., Path], capfd: pytest.CaptureFixture[str], first: Any
) -> None:
    assert audit.main(answer(first)) == 0
    assert "pip-audit: skipped" in capfd.readouterr().out


def test_a_broken_audit_is_no_skipped_one(
    answer: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(answer("error: unrecognized arguments: --format")) == 1
    assert "unrecognized arguments" in capfd.readouterr().err
