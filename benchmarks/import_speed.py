"""How fast files are imported: rows a second by phase, the import's memory, and how long somebody who saves waits.

    python -m benchmarks.import_speed [--rows 775000] [--shape caliper trl ukp] [--database sqlite URL]

A row is a line of the file. `caliper` is prompts, four responses each, all six pairs, and 3.3 votes a pair; `trl` is
preferences with a prompt each; `ukp` is ../shared/data's votes. Each is imported into a new database by a process of
its own, through the job that a worker runs. Meanwhile another process changes one row every 20 ms, as a save does, and
reports its waits. The databases are an SQLite file in a temporary folder and, where DATABASE_URL or `--database` names
one, an empty PostgreSQL one.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.export_speed import django_setup, text

UKP = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "ukp_convarg1"
PEOPLE, RESPONSES = 40, 4
EVERY = 0.02


def caliper_rows(rows: int) -> Iterator[dict[str, Any]]:
    """Of 31 rows one prompt, four responses, six pairs and twenty votes."""
    draw = random.Random(0)
    start, votes = datetime(2026, 1, 1, tzinfo=UTC), 0
    for _ in range(rows // 31):
        name = f"{draw.getrandbits(64):016x}"
        yield {"type": "prompt", "id": name, "text": text(draw, 25)}
        answers = [f"{name}-{n}" for n in range(RESPONSES)]
        for n, id in enumerate(answers):
            yield {
                "type": "response",
                "id": id,
                "prompt": name,
                "text": text(draw, 80),
                "author": f"model-{n}",
            }
        pairs = [(a, b) for place, a in enumerate(answers) for b in answers[place + 1 :]]
        for a, b in pairs:
            yield {"type": "pair", "id": f"{a}:{b}", "a": a, "b": b}
        for n in range(20):
            a, b = pairs[n % 6]
            votes += 1
            yield {
                "type": "vote", "pair": f"{a}:{b}", "annotator": f"person-{(votes + n // 6) % PEOPLE}",
                "verdict": draw.choices(("a", "b", "tie", "both_bad", "skip"), (40, 40, 10, 5, 5))[0],
                "strength": draw.choice((None, 1, 2, 3)), "left": draw.choice("ab"), "policy": "random",
                "reasons": draw.choice(([], ["a:clear"], ["b:wrong", "a:short"])), "propensity": 0.25,
                "created_at": (start + timedelta(seconds=7.001 * votes)).isoformat(),
            }  # fmt: skip


def trl_rows(rows: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    for n in range(rows):
        prompt = f"{n}: {text(draw, 25)}"
        yield {"prompt": prompt, "chosen": text(draw, 80), "rejected": text(draw, 80)}


def put_files(shape: str, rows: int, folder: Path) -> None:
    folder.mkdir(parents=True)
    if shape == "ukp":
        for name in ("pairs.jsonl.gz", "responses.jsonl.gz"):
            shutil.copy(UKP / name, folder / name)
        return
    made = caliper_rows(rows) if shape == "caliper" else trl_rows(rows)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in made)


class Phases:
    """Wall and CPU seconds by phase, as the import's progress tells them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.phase = "reading"
        self.before = (time.perf_counter(), time.process_time())

    def go(self, phase: str) -> None:
        now = (time.perf_counter(), time.process_time())
        spent = self.seconds.setdefault(self.phase, [0.0, 0.0])
        for place in (0, 1):
            spent[place] += now[place] - self.before[place]
        self.phase, self.before = phase, now


def server_seconds() -> float:
    """What PostgreSQL's process for this connection used, where it is of this machine; else 0."""
    from django.db import connection

    if connection.vendor != "postgresql":
        return 0.0
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        path = Path(f"/proc/{cursor.fetchone()[0]}/stat")
    ticks = path.read_text().rpartition(")")[2].split()[11:13] if path.exists() else ()
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def import_one(shape: str) -> None:
    """One import in this process, from the confirmed row on; prints what it took as a line of JSON."""
    from webapp.corpus.models import Import
    from webapp.importing import services

    phases = Phases()
    chunks, counters = services.Spool.chunks, services.LabelWriter.write_counters

    def watched_chunks(self: Any, record_type: str) -> Iterator[Any]:
        if "counters" not in phases.seconds:  # the preview reads some again
            phases.go(record_type)
        yield from chunks(self, record_type)

    def watched_counters(self: Any) -> None:
        phases.go("counters")
        counters(self)
        phases.go("ending")

    services.Spool.chunks = watched_chunks  # type: ignore[method-assign]
    services.LabelWriter.write_counters = watched_counters  # type: ignore[method-assign]
    row = Import.objects.get(project__slug=shape)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    wall, cpu, before = time.perf_counter(), time.process_time(), usage.ru_maxrss / 1024
    services.import_run(row)
    phases.go("")
    took: dict[str, Any] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    row.refresh_from_db()
    assert row.state == "done", row.error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took["server"] = server_seconds()
    new = {name: counts["new"] for name, counts in row.report["counts"].items()}
    took |= {"rows": row.report["rows"], "peak": peak, "before": before, "new": new, "phases": phases.seconds}
    print(json.dumps(took))


def save_now_and_then(folder: Path) -> None:
    """Until a file says that it is over: one conditional UPDATE every 20 ms, and how long each took."""
    from webapp.corpus.models import Project

    waits = []
    while not (folder / "over").exists():
        begun = time.perf_counter()
        Project.objects.filter(slug="beside", overlap__gt=0).update(description=f"{begun}")
        waits.append(time.perf_counter() - begun)
        (folder / "saving").touch()
        time.sleep(EVERY)
    waits.sort()
    print(json.dumps({"saves": len(waits), "p95": waits[len(waits) * 95 // 100], "longest": waits[-1]}))


def measure(shape: str, rows: int, database: str, folder: Path) -> None:
    environment = os.environ | {
        "CALIPER_DATA_DIR": str(folder),
        "DATABASE_URL": database if database != "sqlite" else f"sqlite:///{folder}/speed.sqlite3",
    }

    def step(name: str) -> list[str]:
        return [sys.executable, "-m", "benchmarks.import_speed", "--step", name, "--shape", shape]

    subprocess.run([*step("make"), "--rows", str(rows)], env=environment, check=True)
    saver = subprocess.Popen(step("save"), env=environment, stdout=subprocess.PIPE, text=True)
    while not (folder / "saving").exists():
        time.sleep(0.1)
    done = subprocess.run(step("import"), env=environment, check=True, stdout=subprocess.PIPE, text=True)
    (folder / "over").touch()
    waits = json.loads(saver.communicate()[0].splitlines()[-1])
    took = json.loads(done.stdout.splitlines()[-1])
    name = database.partition(":")[0]
    print(
        f"{shape} on {name}: {took['rows']:,} rows in {took['wall']:.1f} s ({took['rows'] / took['wall']:,.0f} rows/s, "
        f"{took['cpu']:.1f} CPU s and {took['server']:.1f} of the server); "
        f"peak {took['peak']:.0f} MB, {took['before']:.0f} before; "
        f"beside it {waits['saves']:,} saves, p95 {1000 * waits['p95']:.0f} ms, "
        f"longest {1000 * waits['longest']:.0f} ms"
    )
    for phase, (wall, cpu) in took["phases"].items():
        rate = took["rows" if phase == "reading" else "new"]
        count = rate if phase == "reading" else rate.get(phase, 0)
        speed = f"{count / wall:>10,.0f} rows/s" if count else ""
        print(f"    {phase:<10} {wall:7.1f} s {cpu:7.1f} CPU s {speed}", flush=True)


def make(shape: str, rows: int) -> None:
    from django.conf import settings
    from django.core.management import call_command

    from webapp.corpus.models import Import, Project

    call_command("migrate", verbosity=0)
    project = Project.objects.create(slug=shape, name=shape, asks="pairs")
    Project.objects.get_or_create(slug="beside", name="Beside")
    Import.objects.create(project=project, file_name=shape, folder="imports/speed", dry_run=False)
    put_files(shape, rows, settings.DATA_DIR / "imports" / "speed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=775_000)
    parser.add_argument("--shape", nargs="+", default=["caliper", "ukp"], choices=["caliper", "trl", "ukp"])
    parser.add_argument(
        "--database", nargs="+", default=["sqlite"] + [os.environ.get("DATABASE_URL", "sqlite")]
    )
    parser.add_argument("--step", choices=["make", "save", "import"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        django_setup()
        from django.conf import settings

        if options.step == "make":
            make(options.shape[0], options.rows)
        elif options.step == "save":
            save_now_and_then(settings.DATA_DIR)
        else:
            import_one(options.shape[0])
        return
    for shape in options.shape:
        for database in dict.fromkeys(options.database):
            with tempfile.TemporaryDirectory(prefix="caliper-import-speed-") as folder:
                measure(shape, options.rows, database, Path(folder))


if __name__ == "__main__":
    main()
