"""Fifty annotators at once, in five processes, on a SQLite file and on PostgreSQL: the overlap stays exact."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.labels.race import OVERLAP, PEOPLE, RESPONSES

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database of its own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'race.sqlite3'}"
        return
    server = os.environ.get("TEST_DATABASE_URL", "postgres://postgres@127.0.0.1:5432/postgres")
    base, name = server.rsplit("/", 1)[0], f"caliper_race_{uuid.uuid4().hex[:8]}"
    try:
        connection = psycopg.connect(f"{base}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        pytest.skip(f"no PostgreSQL at hand ({error}); set TEST_DATABASE_URL")
    with connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield f"{base}/{name}"
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.slow
def test_fifty_annotators_at_once(database_url: str, data_dir: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": database_url, "CALIPER_DATA_DIR": str(data_dir)}

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "tests.labels.race", *map(str, arguments)]

    subprocess.run(command("prepare"), env=environment, cwd=REPOSITORY, check=True, timeout=120)
    each = PEOPLE // PROCESSES
    workers = [
        subprocess.Popen(
            command("work", first, first + each),
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in range(0, PEOPLE, each)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        assert [worker.wait(timeout=240) for worker in workers] == [0] * PROCESSES
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    checked = subprocess.run(
        command("check"),
        env=environment,
        cwd=REPOSITORY,
        check=True,
        timeout=120,
        capture_output=True,
        text=True,
    )
    found = json.loads(checked.stdout.splitlines()[-1])
    pairs = RESPONSES * (RESPONSES - 1) // 2
    assert found["pairs"] == found["pairs_judged"] == pairs
    assert found["judgements_per_pair"] == [OVERLAP]
    assert found["twice_by_one"] == 0
    assert found["counters_equal_recount"]
    assert found["drift"] == []
    # The race was one: reservations ran out, answers were taken back, and many people had a part.
    assert found["people"] > PEOPLE / 5
    assert found["rows"] > pairs * OVERLAP
