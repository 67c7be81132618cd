"""What older versions left, database and data folder, goes on under this one. The archives' story is in README.md."""

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.instance import REPOSITORY, own_environment

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
VERSIONS = ("0.1.0", "0.8.0")  # the first, through every migration, and the last
METHODS = {"bt", "clf", "oprm", "rgft", "haf"}


@pytest.fixture
def walk(tmp_path: Path) -> Callable[[str, str], dict[str, Any]]:
    """walk("0.1.0", "visit") unpacks that version's installation and lets walk.py loose on it."""

    def run(version: str, command: str) -> dict[str, Any]:
        data = tmp_path / "data"
        with tarfile.open(HERE / f"{version}.tar.gz") as archive:
            archive.extractall(data, filter="data")
        environment = own_environment(data) | {
            "CALIPER_CACHE_DIR": str(tmp_path / "cache"),
            # Nobody listens there: pages say that the broker doesn't answer, at once.
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "CALIPER_DEBUG": "true",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "tests.upgrade.walk", command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
        found = json.loads(ended.stdout.splitlines()[-1])
        return {**found, "before": json.loads((data / "fixture.json").read_text())["rows"]}

    return run


@pytest.mark.parametrize("version", VERSIONS)
def test_a_populated_installation_is_migrated_and_every_page_of_it_opens(
    version: str, walk: Callable[[str, str], dict[str, Any]]
) -> None:
    found = walk(version, "visit")
    answers = found["answers"]
    assert answers.pop("503", []) in ([], ["/healthz"])  # no broker and no worker runs here
    # The API asks for a token, not for a session; some of its placeholders nobody fills in.
    assert all(path.startswith("/api/v1/") for path in answers.pop("401", []))
    assert all(path.startswith("/api/v1/") and "<" in path for path in answers.pop("404", []))
    allowed = {"200", "204", "301", "302", "404, not known"}
    assert {word: paths for word, paths in answers.items() if word not in allowed} == {}
    assert len(answers["200"]) > 60
    for page in ("/", "/account/", "/p/plants/", "/p/plants/annotate/", "/p/levels/", "/p/plants/people/"):
        assert page in answers["200"]
    for page in ("/p/plants/runs/1/", "/p/plants/exports/2/README.md", "/p/plants/imports/1/errors.jsonl"):
        assert page in answers["200"]
    # Three exports of data and their archives, the rows left out of two imports, and since 0.2 a model's.
    asked = [*answers["200"], *answers["404, not known"]]
    archives = [page for page in asked if "/model-exports/" in page and page.endswith(".zip")]
    assert len(archives) == (0 if version == "0.1.0" else 2)
    assert found["downloads"] >= 8
    kept = {name: count for name, count in found["before"].items() if not name.startswith("accounts_user_")}
    assert kept["labels_judgement"] >= 90
    assert {name: found["rows"][name] for name in kept} == kept
    assert set(found["scores"]) == METHODS
    assert max(found["scores"].values()) < 1e-4


def test_a_training_that_an_older_version_left_interrupted_is_done_when_resumed(
    walk: Callable[[str, str], dict[str, Any]],
) -> None:
    found = walk("0.1.0", "resume")
    assert (found["state"], found["error"]) == ("done", "")
