"""Many annotators at once on one database, as separate processes with threads: run by test_race.py.

    python -m tests.labels.race prepare            migrate, make the project and its annotators
    python -m tests.labels.race work FIRST LAST    annotators FIRST..LAST-1, a thread each, judge until nothing is open
    python -m tests.labels.race check              finish what late skips left open, then print what was found as JSON

The database is DATABASE_URL, as everywhere.
"""

import json
import os
import random
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

PEOPLE, RESPONSES, OVERLAP = 50, 6, 4


def prepare() -> None:
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Pair, Project, Prompt, Response

    call_command("migrate", verbosity=0)
    project = Project.objects.create(slug="race", name="Race", overlap=OVERLAP, asks="both")
    prompt = Prompt.objects.create(project=project, external_id="p", messages=[], digest="")
    responses = [
        Response.objects.create(project=project, prompt=prompt, external_id=f"r{i}", text=str(i), digest="")
        for i in range(RESPONSES)
    ]
    for i, first in enumerate(responses):
        for second in responses[i + 1 :]:
            Pair.objects.create(
                project=project,
                external_id=f"{first}:{second}",
                response_a=first,
                response_b=second,
                wanted=OVERLAP,
            )
    User.objects.bulk_create([User(username=f"annotator-{i}") for i in range(PEOPLE)])


def judge_all(name: str, rng: random.Random, *, wild: bool) -> None:
    """Judge as one annotator until nothing is open; wild: double clicks, skips, undos and late reservations."""
    from django.utils import timezone

    from webapp.accounts.models import User
    from webapp.corpus.models import Project
    from webapp.labels.models import Assignment
    from webapp.labels.queue import assignments_for, reservations_expire
    from webapp.labels.services import judgement_submit, judgement_undo

    project, user = Project.objects.get(slug="race"), User.objects.get(username=name)
    while cards := assignments_for(project=project, annotator=user, count=2):
        card = cards[0]
        assert card.pair is not None
        if wild and rng.random() < 0.1:
            late = timezone.now() - timedelta(seconds=1)
            Assignment.objects.filter(pk=card.pk).update(reserved_until=late)
            reservations_expire()
        verdict = "skip" if wild and rng.random() < 0.05 else rng.choice(["a", "b", "tie", "both_bad"])
        levels = (
            {card.pair.response_a_id: "good", card.pair.response_b_id: "bad"} if verdict != "skip" else {}
        )

        def send(card: Assignment = card, verdict: str = verdict, levels: dict[int, str] = levels) -> None:
            judgement_submit(key=card.key, annotator=user, verdict=verdict, levels=levels, revision=None)

        if wild and rng.random() < 0.3:
            in_threads([send, send])
        else:
            send()
        if wild and rng.random() < 0.1:
            judgement_undo(project=project, annotator=user)


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run all at once; a failure in any of them ends the process with its traceback."""
    from django.db import connection

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work(first: int, last: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()  # all processes start at the same moment
    in_threads(
        [
            lambda number=number: judge_all(f"annotator-{number}", random.Random(number), wild=True)
            for number in range(first, last)
        ]
    )


def check() -> None:
    from tests.labels.recount import counters_recount
    from webapp.corpus.models import Pair, Project, Response
    from webapp.labels.counters import drift
    from webapp.labels.models import Assignment, Judgement

    for number in range(PEOPLE):
        judge_all(f"annotator-{number}", random.Random(number), wild=False)

    def counters() -> list[Any]:
        pairs = Pair.objects.order_by("pk").values_list("judged", "reserved")
        return [*pairs, *Response.objects.order_by("pk").values_list("labelled", "reserved")]

    before = counters()
    counters_recount(project=Project.objects.get())
    voices = Counter(Judgement.objects.verdicts().values_list("pair_id", "annotator_id"))
    per_pair = Counter(pair for pair, _ in voices)
    found = {
        "pairs": Pair.objects.count(),
        "judgements_per_pair": sorted(set(per_pair.values())),
        "pairs_judged": len(per_pair),
        "twice_by_one": sum(count > 1 for count in voices.values()),
        "counters_equal_recount": before == counters(),
        "drift": [str(number) for number in drift(Project.objects.get())],
        "rows": Judgement.objects.count(),
        "retractions": Judgement.objects.filter(retraction=True).count(),
        "expired": Assignment.objects.filter(state="expired").count(),
        "people": len({annotator for _, annotator in voices}),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    django.setup()
    command, *numbers = sys.argv[1:]
    {"prepare": prepare, "work": work, "check": check}[command](*map(int, numbers))
