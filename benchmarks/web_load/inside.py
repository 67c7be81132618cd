"""What runs in the process that has an installation's Django: making it ready, counting afterwards, single saves."""

import random
import time
from collections import Counter
from typing import Any

from benchmarks.web_load.client import HIDDEN
from tests.chaos.people import CARD, LEVELS, PASSWORD, Intent

TRANSACTION = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT")


def prepare(slug: str, people: int, overlap: int, asks: str) -> None:
    """The database with a project and its annotators, all with the one password."""
    from django.contrib.auth.hashers import make_password
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Membership, Project

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    project = Project.objects.create(slug=slug, name=slug, overlap=overlap, asks=asks)
    password = make_password(PASSWORD)
    for number in range(people):
        user = User.objects.create(username=f"{slug}-{number}", password=password)
        Membership.objects.create(project=project, user=user, role="annotator")


def analyze() -> None:
    """What autovacuum does within a minute of an import."""
    from django.db import connection

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")


# --- After a leg ---


def wrongs(slug: str, intents: list[Intent], complete: bool) -> list[str]:
    """What is lost, doubled or miscounted, in words: receipts against rows, counters against what they count.

    `complete`: everything was judged to the end, so each pair has exactly what it wants and nothing is held.
    """
    from django.db.models import Count

    from webapp.corpus.models import Pair, Project
    from webapp.labels.counters import drift
    from webapp.labels.models import Assignment, Judgement, QualityLabel

    project = Project.objects.get(slug=slug)
    judged = Judgement.objects.of(project)
    rows = {
        key: (verdict, left)
        for key, verdict, left in judged.filter(assignment__isnull=False).values_list(
            "client_key", "verdict", "left"
        )
    }
    levels: dict[str, list[str]] = {}
    given = QualityLabel.objects.of(project).filter(judgement__assignment__isnull=False)
    for key, level in given.values_list("client_key", "level"):
        levels.setdefault(key.rpartition(":")[0], []).append(level)
    sent = {f"{intent.key}:{intent.revision}": intent for intent in intents}
    twice = Counter(f"{intent.key}:{intent.revision}" for intent in intents)
    found = [f"{key}: sent as two answers" for key, n in twice.items() if n > 1]
    for key, intent in sent.items():
        if not intent.acknowledged:
            continue
        verdict, left = rows.get(key, ("nothing", ""))
        sides = {"left": left, "right": "b" if left == "a" else "a"}
        if verdict != sides.get(intent.verdict, intent.verdict):
            found.append(f"{key}: {verdict} is stored, {intent.verdict} with {left} left was acknowledged")
        if sorted(levels.get(key, [])) != sorted(intent.levels.values()):
            found.append(f"{key}: levels {levels.get(key)} are stored, {intent.levels} were acknowledged")
    found += [f"{key}: a row that nobody sent" for key in rows.keys() - sent.keys()]
    voices = Counter(
        judged.verdicts().filter(assignment__isnull=False).values_list("pair_id", "annotator_id")
    )
    found += [f"pair {pair} by {person}: {n} rows" for (pair, person), n in voices.items() if n > 1]
    votes = dict(judged.verdicts().order_by().values_list("pair_id").annotate(n=Count("pk")))
    held = dict(
        Assignment.objects.filter(project=project, state="open", holds_place=True)
        .order_by()
        .values_list("pair_id")
        .annotate(n=Count("pk"))
    )
    asked = {pair for pair, _ in voices}
    for pk, wanted, told, reserved in Pair.objects.of(project).values_list(
        "pk", "wanted", "judged", "reserved"
    ):
        n = votes.get(pk, 0)
        if told != n or reserved != held.get(pk, 0):
            found.append(
                f"pair {pk}: counters say {told} and {reserved}, there are {n} and {held.get(pk, 0)}"
            )
        if (pk in asked and n + reserved > wanted) or (complete and n != wanted):
            found.append(f"pair {pk}: {n} judgements and {reserved} held of {wanted} wanted")
    return found + [f"queue counter: {each}" for each in drift(project)]


# --- One by one, through the test client ---


class Desk:
    """Annotators of a project who take turns, each with a signed-in test client."""

    def __init__(self, slug: str) -> None:
        from django.test import Client

        from webapp.accounts.models import User
        from webapp.corpus.models import Project

        self.project = Project.objects.get(slug=slug)
        self.path = f"/p/{slug}/annotate/"
        self.rng = random.Random(0)
        self.turn = 0
        self.clients = []
        for user in User.objects.filter(memberships__project=self.project).order_by("pk"):
            client = Client(headers={"host": "127.0.0.1"})
            client.force_login(user)
            self.clients.append(client)
        self.decks = [self.cards(self.page(client)) for client in self.clients]

    def page(self, client: Any) -> str:
        reply = client.get(self.path)
        assert reply.status_code == 200, reply.status_code
        return reply.content.decode()

    @staticmethod
    def cards(text: str) -> dict[str, dict[str, str]]:
        parts = (f"<article{part}" for part in text.split("<article")[1:])
        return {found[1]: dict(HIDDEN.findall(part)) for part in parts if (found := CARD.match(part))}

    def save(self) -> float:
        """The next annotator's answer; seconds until the receipt with the next card is there."""
        at = self.turn = (self.turn + 1) % len(self.clients)
        key, hidden = next(iter(self.decks[at].items()))
        del self.decks[at][key]
        fields = {
            **hidden,
            "verdict": self.rng.choice(("left", "right")),
            "holding": ",".join(self.decks[at]),
        }
        if self.project.asks_levels:
            fields |= {"level_left": self.rng.choice(LEVELS), "level_right": self.rng.choice(LEVELS)}
        fields["keep"] = ":".join(fields.get(name, "") for name in ("verdict", "level_left", "level_right"))
        began = time.perf_counter()
        reply = self.clients[at].post(self.path + f"{key}/", fields, headers={"HX-Request": "true"})
        took = time.perf_counter() - began
        assert reply.headers.get("Caliper-Receipt") == "kept", (reply.status_code, reply.content[:500])
        self.decks[at] |= self.cards(reply.content.decode())
        return took


_desks: dict[str, Desk] = {}


def saves(slug: str, count: int) -> list[float]:
    """Seconds of so many saves, one after another."""
    if slug not in _desks:
        _desks[slug] = Desk(slug)
    return [_desks[slug].save() for _ in range(count)]


def statements(slug: str) -> dict[str, tuple[int, int]]:
    """Of a save and of a page, as annotators ask for them all day: SQL statements, and words of transactions beside."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    desk = Desk(slug)
    for _ in range(3 * len(desk.clients)):
        desk.save()
    found = {}
    for name, ask in {"save": desk.save, "page": lambda: desk.page(desk.clients[0])}.items():
        with CaptureQueriesContext(connection) as captured:
            ask()
        said = [query["sql"] for query in captured.captured_queries]
        words = [sql for sql in said if sql.startswith(TRANSACTION)]
        found[name] = (len(said) - len(words), len(words))
    return found
