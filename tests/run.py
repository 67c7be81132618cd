"""`make test`: the whole suite on SQLite, then everything that touches the database once more on PostgreSQL.

PostgreSQL is the server of TEST_DATABASE_URL, else one at 127.0.0.1:5432 that lets `postgres` in; without
either, the second run is left out and said so. Arguments are handed on to pytest: `python -m tests.run -k queue`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import psycopg

LOCAL_SERVER = "postgres://postgres@127.0.0.1:5432/postgres"
NOTHING_COLLECTED = 5


def postgres_url() -> str | None:
    """The server to test on, None where there is none. One that was asked for by name has to answer."""
    asked = os.environ.get("TEST_DATABASE_URL")
    url = asked or LOCAL_SERVER
    try:
        psycopg.connect(url.replace("postgres://", "postgresql://", 1), connect_timeout=3).close()
    except psycopg.OperationalError as error:
        if asked:
            raise SystemExit(f"TEST_DATABASE_URL does not answer: {error}") from error
        return None
    return url


def run_pytest(name: str, arguments: list[str], environment: dict[str, str], report: Path) -> int:
    print(f"\n==== tests: {name}", flush=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "auto",
        "--maxprocesses",
        "4",
        "--dist",
        "loadgroup",
    ]
    command += [f"--junitxml={report}", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def count(report: Path) -> tuple[int, int, int]:
    """Passed, failed (errors too) and skipped tests of a JUnit report."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    totals = [
        [int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")] for suite in suites
    ]
    tests, failures, errors, skipped = (sum(column) for column in zip(*totals, strict=True))
    return tests - failures - errors - skipped, failures + errors, skipped


def main() -> int:
    arguments = sys.argv[1:]
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        print("tests: no Chromium on PATH (Debian: apt-get install chromium): the browser tests are skipped")
    postgres = postgres_url()
    with tempfile.TemporaryDirectory(prefix="caliper-tests-") as folder:
        base = {**os.environ, "CALIPER_DATA_DIR": f"{folder}/data", "PYTHONUNBUFFERED": "1"}
        base.pop("DATABASE_URL", None)
        # The processes share the cores; more threads in each only get in each other's way.
        base.setdefault("OMP_NUM_THREADS", "1")
        runs = [("SQLite, everything", base)]
        if postgres is not None:
            only_database = {"DATABASE_URL": postgres, "CALIPER_TESTS": "database"}
            runs.append(("PostgreSQL, what touches the database", {**base, **only_database}))
        codes: list[int] = []
        totals = [0, 0, 0]
        for index, (name, environment) in enumerate(runs):
            report = Path(folder) / f"report-{index}.xml"
            codes.append(run_pytest(name, arguments, environment, report))
            if report.exists():
                totals = [total + new for total, new in zip(totals, count(report), strict=True)]
    if postgres is None:
        print("tests: no PostgreSQL at 127.0.0.1:5432 and no TEST_DATABASE_URL: tested on SQLite only")
    # The second run may find nothing to do when the arguments chose a few tests.
    failed = codes[0] != 0 or any(code not in (0, NOTHING_COLLECTED) for code in codes[1:])
    print(f"\n{totals[0]} passed, {totals[1]} failed, {totals[2]} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
