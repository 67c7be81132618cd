"""How fast Responses and Pairs answer under each filter and sort, and the leaderboard, in a large project.

    python -m benchmarks.lists_speed [--responses 50000] [--database FILE] [--plans]

This builds a project of so many responses (four a prompt, six pairs a prompt, three votes a pair) with a version
that rates them all, in an SQLite file in a temporary folder or in FILE, and asks for each page twice: with an empty
cache, as after a new label, and again. Times are of the processor, SQLite's included. `--plans` prints how SQLite
finds the keys.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.export_speed import VOTES, build, django_setup

VOTES_A_RESPONSE = 4.5  # six pairs of four responses, three votes each

PAGES = [
    "responses/", "responses/?sort=-spread", "responses/?sort=-gap", "responses/?sort=-level",
    "responses/?sort=-split", "responses/?sort=-length", "responses/?sort=author", "responses/?sort=-added",
    "responses/?level=good", "responses/?level=disputed", "responses/?level=none", "responses/?author=model-1",
    "responses/?split=held_out", "responses/?split=unrated", "responses/?state=unlabelled",
    "responses/?annotator=1", "responses/?q=rivers",
    "pairs/", "pairs/?sort=-even", "pairs/?sort=-model", "pairs/?sort=-added&author=model-1",
    "pairs/?sort=-added&author=model-1&rival=model-2", "pairs/?sort=-added&split=held_out",
    "pairs/?sort=-added&level=good", "pairs/?annotator=1", "pairs/?votes=even", "pairs/?model=against",
    "pairs/?state=unjudged", "pairs/?q=rivers", "leaderboard/",
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
    parser.add_argument("--responses", type=int, default=50_000)
    parser.add_argument("--database", type=Path)
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.database or Path(folder) / "lists.sqlite3"
        os.environ.update(DATABASE_URL=f"sqlite:///{file.absolute()}", CALIPER_DATA_DIR=folder)
        django_setup()
        build(int(options.responses * VOTES_A_RESPONSE))
        measure(options.plans)


def measure(plans: bool) -> None:
    from django.conf import settings
    from django.core.cache import caches
    from django.test import Client
    from django.test.utils import override_settings

    from webapp.accounts.models import User
    from webapp.corpus.models import Project
    from webapp.ratings import lists
    from webapp.ratings.lists_query import PAIRS, RESPONSES, Query

    project = Project.objects.get(slug="speed")
    rate(project)
    version = project.versions.get()
    user, _ = User.objects.get_or_create(username="speed", defaults={"is_superuser": True})
    client = Client()
    client.force_login(user)
    print(f"{project.responses.count():,} responses, {project.pairs.count():,} pairs")
    plain = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    with override_settings(ALLOWED_HOSTS=["*"], STORAGES={**settings.STORAGES, **plain}):
        for page in PAGES:
            caches["local"].clear()
            times = []
            for _ in range(2):
                start = time.process_time()
                answer = client.get(f"/p/{project.slug}/{page}")
                times.append(time.process_time() - start)
                assert answer.status_code == 200, (page, answer.status_code)
            print(f"{page:55} {1000 * times[0]:6.0f} ms, again {1000 * times[1]:5.0f} ms", flush=True)
            if plans and page.startswith("responses"):
                query = Query.of(answer.wsgi_request.GET, RESPONSES, rated=True)
                keys = lists.response_keys(project, query, version)
                print(keys.explain() if hasattr(keys, "explain") else "(sorted here)")
            elif plans:
                query = Query.of(answer.wsgi_request.GET, PAIRS, rated=True)
                print(lists.pairs_matching(project, query, version).values_list("pk").explain())


if __name__ == "__main__":
    main()
