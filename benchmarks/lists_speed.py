"""How long the pages of a large project take: overview, lists under each filter and sort, people, runs, leaderboard.

    python -m benchmarks.lists_speed [--responses 100000] [--database FILE] [--plans] [PAGE ...]

This builds a project of so many responses (four a prompt, six pairs a prompt, three votes a pair) with a version
that rates them all, in an SQLite file in a temporary folder or in FILE, or in the PostgreSQL database that
DATABASE_URL names (it is used again where it has the project). The worker's part is done first, and timed. Each page
is asked for twice right after a new label, with an empty cache, and twice again: the better time counts. Times are of
the processor: this process, and PostgreSQL's that serves it (on this machine, without parallel workers), so that
others on the machine don't count; the clock's stand beside. `--plans` explains the slowest query of each page that
takes longer than the bar.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.export_speed import VOTES, build, django_setup

VOTES_A_RESPONSE = 4.5  # six pairs of four responses, three votes each

BAR_MS = 150

PAGES = [
    "", "people/", "runs/", "leaderboard/",
    "responses/", "responses/?sort=-spread", "responses/?sort=-gap", "responses/?sort=-level",
    "responses/?sort=-split", "responses/?sort=-length", "responses/?sort=author", "responses/?sort=-added",
    "responses/?level=good", "responses/?level=disputed", "responses/?level=none", "responses/?author=model-1",
    "responses/?split=held_out", "responses/?split=unrated", "responses/?state=unlabelled",
    "responses/?annotator=PERSON", "responses/?q=rivers", "responses/?q=RARE",
    "pairs/", "pairs/?page=99", "pairs/?sort=-added&at=MIDDLE", "pairs/?at=MIDDLE", "pairs/?sort=-even",
    "pairs/?sort=-model", "pairs/?sort=-added&author=model-1",
    "pairs/?sort=-added&author=model-1&rival=model-2", "pairs/?sort=-added&split=held_out",
    "pairs/?sort=-added&level=good", "pairs/?annotator=PERSON", "pairs/?votes=even", "pairs/?model=against",
    "pairs/?state=unjudged", "pairs/?q=rivers", "pairs/?q=RARE", "pairs/MIDDLE/",
]  # fmt: skip


def rate(project: Any) -> None:
    """A serving version that rates all responses at random, a fifth of the prompts held out."""
    from webapp.corpus.models import Pair
    from webapp.ratings.models import Prediction
    from webapp.training.models import ModelVersion, TrainingRun

    if project.versions.exists():
        return
    Pair.objects.of(project).update(judged=VOTES)
    run = TrainingRun.objects.create(
        project=project, method="rgft", trigger="button", config={}, config_digest="1", state="done"
    )
    version = ModelVersion.objects.create(
        project=project, run=run, method="rgft", number=1, kind="ordinal", digest="1", is_serving=True,
        metrics={"training": {"levels": 1, "levelled": 1}},
    )  # fmt: skip
    draw = random.Random(0)
    rows = []
    for response, prompt in project.responses.values_list("pk", "prompt_id"):
        weights = [draw.random() ** 3 for _ in range(9)]
        p = [weight / sum(weights) for weight in weights]
        mean = sum(k * share for k, share in enumerate(p, start=1))
        split = Prediction.Split.HELD_OUT if prompt % 5 == 0 else Prediction.Split.TRAIN
        rows.append(
            Prediction(
                version=version, response_id=response, score=mean, expected=mean, spread=draw.random() * 3, p=p,
                percentile=50.0, split=split,
            )
        )  # fmt: skip
    Prediction.objects.bulk_create(rows, batch_size=2000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--database", type=Path)
    parser.add_argument("--plans", action="store_true")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="as in the address, behind /p/PROJECT/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CALIPER_DATA_DIR"] = folder
        if options.database or not os.environ.get("DATABASE_URL"):
            file = options.database or Path(folder) / "lists.sqlite3"
            os.environ["DATABASE_URL"] = f"sqlite:///{file.absolute()}"
        django_setup()
        build(int(options.responses * VOTES_A_RESPONSE))
        measure(options.pages or PAGES, options.plans)


def work() -> None:
    """What the worker does of it, until nothing is left."""
    from django.db import connection

    from webapp.corpus.models import Project
    from webapp.labels.counters import recount
    from webapp.ratings import stored, tallies

    for project in Project.objects.all():
        recount(project)
    for part in (tallies.count_noted, tallies.compare_noted, stored.summaries_make):
        start, done = time.perf_counter(), 0
        while found := part():
            done += found
        print(f"worker: {part.__name__} {done:,} in {time.perf_counter() - start:.1f} s", flush=True)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    else:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def cpu_clock() -> Callable[[], float]:
    """Milliseconds of the processor that this process and the database's have used."""
    from django.db import connection

    statistics = None
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET max_parallel_workers_per_gather = 0")
            cursor.execute("SELECT pg_backend_pid()")
            statistics = Path(f"/proc/{cursor.fetchone()[0]}/schedstat")

    def read() -> float:
        theirs = int(statistics.read_text().split()[0]) / 1e6 if statistics else 0.0
        return 1000 * time.process_time() + theirs

    return read


def label(project: Any, person: Any) -> None:
    """One more judgement, on a pair that the person has not judged."""
    from django.db.models import F

    from webapp.corpus.models import Pair
    from webapp.labels.models import Judgement

    pair = Pair.objects.of(project).exclude(judgements__annotator=person).order_by("-pk").first()
    assert pair is not None
    Pair.objects.filter(pk=pair.pk).update(judged=F("judged") + 1)
    Judgement.objects.create(pair=pair, annotator=person, verdict="a", client_key=uuid4().hex)


def measure(pages: list[str], plans: bool) -> None:
    from django.conf import settings
    from django.core.cache import caches
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext, override_settings

    from webapp.accounts.models import User
    from webapp.corpus.models import Membership, Project

    project = Project.objects.get(slug="speed")
    rate(project)
    user, _ = User.objects.get_or_create(username="speed", defaults={"is_superuser": True})
    people = list(User.objects.filter(username__startswith="person-").order_by("pk"))
    for person in people:
        Membership.objects.get_or_create(project=project, user=person, role="annotator")
    work()
    pks = list(project.pairs.order_by("pk").values_list("pk", flat=True))
    rare = project.responses.values_list("external_id", flat=True)[0][:10]
    client = Client()
    client.force_login(user)
    clock = cpu_clock()
    print(f"{connection.vendor}: {project.responses.count():,} responses, {len(pks):,} pairs")
    plain = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    missed = 0
    with override_settings(ALLOWED_HOSTS=["*"], STORAGES={**settings.STORAGES, **plain}):
        for page in pages:
            address = page.replace("MIDDLE", str(pks[len(pks) // 2])).replace("RARE", rare)
            address = f"/p/{project.slug}/{address.replace('PERSON', str(people[0].pk))}"
            times: list[list[tuple[float, float]]] = [[], []]
            for again in (False, True) * 2:
                if not again:
                    label(project, user)
                    caches["local"].clear()
                start, wall = clock(), time.perf_counter()
                with CaptureQueriesContext(connection) as queries:
                    answer = client.get(address)
                times[again].append((clock() - start, 1000 * (time.perf_counter() - wall)))
                assert answer.status_code == 200, (address, answer.status_code)
            first, second = (min(each) for each in times)
            slow = max(first[0], second[0]) > BAR_MS
            missed += slow
            said = [f"{cpu:5.0f} ms (clock {wall:5.0f})" for cpu, wall in (first, second)]
            print(
                f"{page:50}{', again'.join(said)}, {len(queries):2} queries{'  MISSED' if slow else ''}",
                flush=True,
            )
            if plans and slow:
                explain(max(queries.captured_queries, key=lambda query: float(query["time"])))
    print(f"{len(pages) - missed} of {len(pages)} pages within {BAR_MS} ms")


def explain(query: dict[str, str]) -> None:
    """How the database answers a query that was asked."""
    from django.db import connection

    print(f"  {query['time']} s: {query['sql']}")
    how = "EXPLAIN (ANALYZE, BUFFERS)" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
    with connection.cursor() as cursor:
        cursor.execute(f"{how} {query['sql']}")
        for row in cursor.fetchall():
            print("   ", row[-1])


if __name__ == "__main__":
    main()
