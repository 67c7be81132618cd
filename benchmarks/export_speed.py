"""How fast a project's labels are exported: rows per second of one core, and memory.

    python -m benchmarks.export_speed [--judgements 500000] [--format judgements --file-type parquet] ...

This builds a project of so many judgements (three a pair, six pairs a prompt) in a new database, and exports it in each
format by a process of its own. The database is SQLite in a temporary folder, or an empty PostgreSQL one that
DATABASE_URL names. With `--database FILE` the SQLite file is kept and used again.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ASKED = [
    ("judgements", "parquet"), ("judgements", "jsonl"), ("judgements", "csv"), ("caliper", "jsonl"),
    ("trl-explicit", "parquet"), ("trl-conversational", "jsonl"), ("trl-unpaired", "parquet"),
    ("arena", "parquet"), ("helpsteer2", "csv"), ("rewardbench", "jsonl"),
]  # fmt: skip
PEOPLE, VOTES, RESPONSES, BATCH = 40, 3, 4, 5000
WORDS = [
    "the",
    "model",
    "answers",
    "a",
    "question",
    "about",
    "history",
    "rivers",
    "prime",
    "numbers",
    "and",
    "the",
    "weather",
    "in",
    "Oslo",
    "quickly",
]


def django_setup() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()


def text(random_: random.Random, words: int) -> str:
    return " ".join(random_.choices(WORDS, k=words)).capitalize() + "."


def build(judgements: int) -> None:
    """A project with prompts of four responses, all six pairs, three votes a pair and a level for every third."""
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Pair, Project, Prompt, Response, messages_digest, text_digest
    from webapp.labels.models import Judgement, QualityLabel

    call_command("migrate", verbosity=0)
    if Project.objects.filter(slug="speed").exists():
        return
    draw = random.Random(0)
    project = Project.objects.create(slug="speed", name="Speed")
    people = [User.objects.create(username=f"person-{n}") for n in range(PEOPLE)]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = 0
    while made < judgements:
        prompts, responses, pairs, votes, levels = [], [], [], [], []
        for _ in range(300):
            name = f"{draw.getrandbits(64):016x}"
            messages = [{"role": "user", "content": text(draw, 25)}]
            prompt = Prompt(
                project=project, external_id=name, messages=messages, digest=messages_digest(messages)
            )
            prompts.append(prompt)
            own = [
                Response(
                    project=project, prompt=prompt, external_id=f"{name}-{n}", text=(said := text(draw, 80)),
                    digest=text_digest(said), author=f"model-{n}",
                )
                for n in range(RESPONSES)
            ]  # fmt: skip
            responses += own
            for i, a in enumerate(own):
                for b in own[i + 1 :]:
                    pair = Pair(
                        project=project,
                        external_id=f"{a.external_id}:{b.external_id}",
                        response_a=a,
                        response_b=b,
                    )
                    pairs.append(pair)
                    for person in draw.sample(people, VOTES):
                        made += 1
                        votes.append(
                            Judgement(
                                pair=pair, annotator=person, created_at=start + timedelta(seconds=7.001 * made),
                                verdict=draw.choices(("a", "b", "tie", "both_bad", "skip"), (40, 40, 10, 5, 5))[0],
                                strength=draw.choice((None, 1, 2, 3)), left=draw.choice("ab"), client_key=f"j{made}",
                                reasons=draw.choice(([], ["a:clear"], ["b:wrong", "a:short"])), policy="random",
                                propensity=0.25,
                            )
                        )  # fmt: skip
            levels += [
                QualityLabel(
                    response=response, annotator=draw.choice(people), level=draw.choice(("bad", "normal", "good")),
                    client_key=f"l{response.external_id}", created_at=start,
                )
                for response in own[:2]
            ]  # fmt: skip
        made_rows: tuple[list[Any], ...] = (prompts, responses, pairs, votes, levels)
        for rows in made_rows:
            type(rows[0])._default_manager.bulk_create(rows, batch_size=BATCH)


def export(format: str, file_type: str) -> None:
    """One export in this process; prints what it took as a line of JSON."""
    import pyarrow.parquet  # noqa: F401 - its loading is not the export's

    from webapp.corpus.models import Project
    from webapp.labels.models import Judgement
    from webapp.snapshots.exporting import export_write

    project = Project.objects.get(slug="speed")
    judged = Judgement.objects.filter(pair__project=project).count()
    wall, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        report = export_write(
            project=project,
            format=format,
            file_type=file_type,
            aggregation="vote",
            folder=Path(folder) / "out",
        )
        size = report["files"][0]["bytes"]
    used = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = {"wall": time.perf_counter() - wall, "cpu": used, "peak": peak, "size": size, "judged": judged}
    print(json.dumps({**took, "rows": report["rows"]}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judgements", type=int, default=500_000)
    parser.add_argument("--format")
    parser.add_argument("--file-type", default="parquet")
    parser.add_argument("--database", type=Path, help="an SQLite file to build in, or to use again")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        django_setup()
        return export(options.format, options.file_type)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CALIPER_DATA_DIR"] = folder
        if options.database or not os.environ.get("DATABASE_URL"):
            file = (options.database or Path(folder) / "speed.sqlite3").resolve()
            os.environ["DATABASE_URL"] = f"sqlite:///{file}"
        django_setup()
        build(options.judgements)
        asked = [(options.format, options.file_type)] if options.format else ASKED
        print(
            f"{'format':<20} {'file':<8} {'judgements/s of a core':>22} {'seconds':>8} {'CPU s':>6} {'peak MB':>8}"
        )
        for format, file_type in asked:
            command = [sys.executable, "-m", "benchmarks.export_speed", "--child", "--format", format]
            done = subprocess.run(
                [*command, "--file-type", file_type], check=True, capture_output=True, text=True
            )
            took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{format:<20} {file_type:<8} {took['judged'] / took['cpu']:>22,.0f} {took['wall']:>8.1f} "
                f"{took['cpu']:>6.1f} {took['peak']:>8,.0f}",
                flush=True,
            )
    return None


if __name__ == "__main__":
    main()
