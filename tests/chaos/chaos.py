"""`make chaos`: people judge, import, export and train while everything that can break does; then all of it is counted.

    python -m tests.chaos.chaos [--seconds 300] [--seed N] [--database sqlite|postgres] [--judges 6]

A stack of its own (stack.py) on 127.0.0.1, faults at random from a printed seed, people (people.py) who send again
what was not acknowledged. At the end each receipt is compared with the rows, and every counter with what it counts.
Prints a line each, and ends with 1 when anything was lost, doubled, miscounted or stuck, or a process was left.
"""

import argparse
import contextlib
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.people import IMPORTS, PASSWORD, SLUG, Busy, Judge, Person, corpus
from tests.chaos.stack import LOST_AFTER_SECONDS, TICK_SECONDS, Stack, postgres_answers

READY_SECONDS = 90
# After the last fault: a lost job is noticed within the limit and a few ticks; the longest job takes ten seconds.
SETTLE_SECONDS = LOST_AFTER_SECONDS + 3 * TICK_SECONDS + 30
RESUMED_SECONDS = 90
OVERLAP = 4


# --- Faults ---


class Faults:
    """What goes wrong; each returns a few words on what it did, "" for nothing."""

    def __init__(self, stack: Stack, rng: random.Random) -> None:
        self.stack, self.rng = stack, rng
        self.struck: Counter[str] = Counter()
        self.all: list[Callable[[], str]] = [
            *(
                self.web_worker,
                self.redis_stopped,
                self.redis_hung,
                self.everything,
                self.pool,
                self.training,
            ),
            *(self.train_worker, self.worker_told_to_end),
        ]
        if stack.database:
            self.all.append(self.connections)

    def strike(self, seconds: float) -> None:
        """Each fault once in a drawn order, then any, until the time is over."""
        end = time.monotonic() + seconds
        waiting: list[Callable[[], str]] = []
        while (left := end - time.monotonic()) > 0:
            if not waiting:
                waiting = self.rng.sample(self.all, len(self.all))
            fault = waiting.pop()
            name = fault.__name__
            if words := fault():
                self.struck[name] += 1
                print(f"  {seconds - left:5.1f} s  {name}: {words}", flush=True)
            time.sleep(min(self.rng.uniform(0.5, 3), max(0.0, end - time.monotonic())))

    def _kill(self, processes: list[psutil.Process]) -> str:
        if not processes:
            return ""
        process = self.rng.choice(processes)
        with contextlib.suppress(psutil.Error):
            process.kill()
        return f"kill -9 of {process.pid}"

    def web_worker(self) -> str:
        return self._kill(self.stack.offspring("web"))

    def connections(self) -> str:
        cut = 0
        for _ in range(self.rng.randint(1, 3)):
            cut += self.stack.cut_connections()
            time.sleep(0.2)
        return f"{cut} connections cut"

    def redis_stopped(self) -> str:
        seconds = self.rng.uniform(2, 5)
        with self.stack.hands_off:
            self.stack.signal("redis", signal.SIGTERM)
            self.stack.children["redis"].wait(10)
            time.sleep(seconds)
        return f"away for {seconds:.1f} s"

    def redis_hung(self) -> str:
        seconds = self.rng.uniform(2, 5)
        self.stack.signal("redis", signal.SIGSTOP)
        time.sleep(seconds)
        self.stack.signal("redis", signal.SIGCONT)
        return f"stopped for {seconds:.1f} s"

    def everything(self) -> str:
        self.stack.kill_all()
        return "kill -9 of all processes at once"

    def pool(self) -> str:
        return self._kill(self.stack.offspring("default"))

    def training(self) -> str:
        below = self.stack.offspring("train")
        return self._kill([process for process in below if "trainer.py" in " ".join(_words(process))])

    def train_worker(self) -> str:
        return self._kill([psutil.Process(self.stack.children["train"].pid)])

    def worker_told_to_end(self) -> str:
        name = self.rng.choice([name for name in self.stack.children if name not in ("redis", "beat")])
        self.stack.signal(name, signal.SIGTERM)
        return f"SIGTERM to {name}"


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# --- Before ---


def prepare(judges: int, seconds: float) -> None:
    """The database with its people, a project to judge and one to import into."""
    from django.core.management import call_command

    from webapp.accounts.models import User
    from webapp.corpus.models import Membership, Pair, Project, Prompt, Response

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    # A new training every so many labels, beside those that are asked for by hand.
    project = Project.objects.create(
        slug=SLUG, name="Chaos", overlap=OVERLAP, min_judgements=5, methods=["bt"], retrain_after_labels=400
    )
    imports = Project.objects.create(slug=IMPORTS, name="Imports", overlap=1)
    ada = User.objects.create_user("ada", password=PASSWORD)
    for place in (project, imports):
        Membership.objects.create(project=place, user=ada, role="admin")
    for number in range(judges):
        user = User.objects.create_user(f"judge-{number}", password=PASSWORD)
        Membership.objects.create(project=project, user=user, role="annotator")
    for number in range(max(60, int(seconds))):
        prompt = Prompt.objects.create(project=project, external_id=f"p{number}", messages=[], digest="")
        responses = Response.objects.bulk_create(
            Response(
                project=project, prompt=prompt, external_id=f"p{number}-r{i}", text=f"answer {i}", digest=""
            )
            for i in range(5)
        )
        Pair.objects.bulk_create(
            Pair(
                project=project,
                external_id=f"{first.external_id}:{second.external_id}",
                response_a=first,
                response_b=second,
                wanted=OVERLAP,
            )
            for place, first in enumerate(responses)
            for second in responses[place + 1 :]
        )


def import_turn(admin: Busy, number: int) -> None:
    """A file, its preview, then the import itself."""
    content = corpus(random.Random(number), f"file{number}-{admin.retried}", 60, 12)
    base = f"/p/{IMPORTS}/imports/"
    pk = admin.number_after(base, {"format": "auto"}, file=(f"{number}.jsonl", content))
    for path in ("confirm", ""):
        if not admin.ends(f"{base}{pk}/", f"{base}{pk}/retry/"):
            return
        if path:
            admin.person.insist(f"{base}{pk}/{path}/", {})


def export_turn(admin: Busy, number: int) -> None:
    base = f"/p/{SLUG}/exports/"
    format, file_type = (("judgements", "parquet"), ("caliper", "jsonl"), ("trl-explicit", "csv"))[number % 3]
    admin.person.insist(base, {"format": format, "file_type": file_type, "aggregation": "vote"})
    admin.ends(base, rf"{base}\d+/retry/")


def train_turn(admin: Busy, number: int) -> None:
    admin.bell.wait(3)
    base = f"/p/{SLUG}/runs/"
    pk = admin.number_after(f"{base}start/", {"method": "bt", "seed": str(number)})
    admin.ends(f"{base}{pk}/", f"{base}{pk}/resume/")


# --- After ---


def again(action: Callable[[], Any]) -> Any:
    """Ask the database; again when it had cut the connection."""
    from django.db import InterfaceError, OperationalError, connection

    for attempt in range(5):
        try:
            return action()
        except (OperationalError, InterfaceError):
            connection.close()
            if attempt == 4:
                raise
            time.sleep(1)
    raise AssertionError


def jobs() -> list[Any]:
    from webapp.corpus.models import Import
    from webapp.snapshots.models import Export
    from webapp.training.models import TrainingRun

    return [row for model in (Import, Export, TrainingRun) for row in model.objects.order_by("pk")]


def words_of(job: Any) -> str:
    return f"{type(job).__name__} {job.pk} {job.state} {job.phase or '-'}: {job.error[:150] or 'no error'}"


def settle(stack: Stack, say: Callable[[str], None]) -> list[str]:
    """Wait until no job is on its way, resume what ended badly, wait for that; what is stuck, in words."""
    from webapp.importing.services import import_retry
    from webapp.snapshots.exporting import export_retry
    from webapp.training.services import run_resume

    def active() -> list[Any]:
        return again(lambda: [job for job in jobs() if job.is_active])

    began = time.monotonic()
    stack.wait_for(lambda: not active(), SETTLE_SECONDS)
    stuck = [f"still {words_of(job)}" for job in active()]
    say(f"settled after {time.monotonic() - began:.0f} s")
    retry: dict[str, Callable[[Any], bool]] = {
        "Import": lambda job: import_retry(import_row=job),
        "Export": lambda job: export_retry(export_row=job),
        "TrainingRun": lambda job: run_resume(run=job),
    }
    resumed: set[str] = set()
    end = time.monotonic() + RESUMED_SECONDS
    while left := again(lambda: [job for job in jobs() if job.state != "done"]):
        if time.monotonic() > end:
            break
        # One that is refused, since another of its kind is on its way, is asked for again when that one is done.
        for job in left:
            if job.can_requeue and retry[type(job).__name__](job):
                resumed.add(f"{type(job).__name__} {job.pk}")
        time.sleep(1)
    say(f"{len(resumed)} jobs resumed by hand; all quiet after {time.monotonic() - began:.0f} s")
    return stuck + [f"after resuming: {words_of(job)}" for job in left]


def compare(judges: list[Judge]) -> dict[str, list[str]]:
    """Each receipt with its rows, each row with what was sent, each counter with what it counts."""
    from tests.labels.recount import counters_recount
    from webapp.corpus.models import Pair, Project, Response
    from webapp.labels.counters import drift
    from webapp.labels.models import Assignment, Judgement, QualityLabel

    rows = {row.client_key: row for row in Judgement.objects.select_related("assignment", "pair")}
    retracted = {str(row.assignment.key) for row in rows.values() if row.retraction and row.assignment}
    given = QualityLabel.objects.filter(judgement__isnull=False, retraction=False)
    levels: dict[str, list[str]] = {}
    for key, level in given.values_list("client_key", "level"):
        levels.setdefault(key.rpartition(":")[0], []).append(level)
    sent = {f"{intent.key}:{intent.revision}": intent for judge in judges for intent in judge.intents}
    lost, doubled, off = [], [], []
    for key, intent in sent.items():
        if intent.acknowledged and (wrong := _wrong(rows.get(key), intent)):
            lost.append(f"{key}: {wrong}")
        elif intent.acknowledged and sorted(levels.get(key, [])) != sorted(intent.levels.values()):
            lost.append(f"{key}: levels {levels.get(key)} are there, {intent.levels} were acknowledged")
        if intent.undo == "acknowledged" and intent.key not in retracted:
            lost.append(f"{key}: the undo left no row")
    asked_back = {intent.key for intent in sent.values() if intent.undo}
    for key, row in rows.items():
        if row.assignment is None:
            continue
        expected = str(row.assignment.key) in asked_back if row.retraction else key in sent
        if not expected:
            doubled.append(f"{key}: a row that nobody asked for ({row.verdict})")
    voices = Counter(Judgement.objects.verdicts().values_list("pair_id", "annotator_id"))
    doubled += [f"pair {pair} by {person}: {n} rows" for (pair, person), n in voices.items() if n > 1]
    names = Counter(Response.objects.values_list("project__slug", "external_id"))
    doubled += [f"response {name} is there {n} times" for name, n in names.items() if n > 1]

    def counters() -> list[tuple[Any, ...]]:
        pairs = Pair.objects.order_by("pk").values_list("pk", "judged", "reserved")
        return [*pairs, *Response.objects.order_by("pk").values_list("pk", "labelled", "reserved")]

    before = counters()
    per_pair = Counter(pair for pair, _ in voices)
    off += [f"pair {pair} has {n} judgements" for pair, n in per_pair.items() if n > OVERLAP]
    for project in Project.objects.all():
        counters_recount(project=project)
    off += [f"{told} should be {true}" for told, true in zip(before, counters(), strict=True) if told != true]
    off += [str(number) for project in Project.objects.all() for number in drift(project)]
    open_twice = Counter(Assignment.objects.filter(state="open").values_list("pair_id", "annotator_id"))
    off += [f"card {card} is open {n} times" for card, n in open_twice.items() if n > 1]
    return {"lost": lost, "doubled": doubled, "counters off": off}


def _wrong(row: Any, intent: Any) -> str:
    if row is None:
        return "no row"
    sides = {"left": row.left, "right": "b" if row.left == "a" else "a"}
    expected = sides.get(intent.verdict, intent.verdict)
    return "" if row.verdict == expected else f"{row.verdict} is stored, {expected} was acknowledged"


# --- The play ---


def play(stack: Stack, options: argparse.Namespace) -> int:
    import django

    os.environ.update(stack.environment)
    django.setup()
    began = time.monotonic()
    prepare(options.judges, options.seconds)
    stack.start()
    if not stack.wait_for(stack.answers, READY_SECONDS):
        raise SystemExit(f"chaos: the web process did not answer; see {stack.logs}")
    print(f"ready after {time.monotonic() - began:.0f} s: {', '.join(stack.children)}", flush=True)
    bell, closed = threading.Event(), threading.Event()
    judges = [
        Judge(Person(stack.url, f"judge-{number}", closed), random.Random(options.seed + number), bell)
        for number in range(options.judges)
    ]
    turns = (import_turn, export_turn, train_turn)
    admins = [Busy(Person(stack.url, "ada", closed), bell, turn) for turn in turns]
    everybody: list[Judge | Busy] = [*judges, *admins]
    threads = [threading.Thread(target=someone.run, daemon=True) for someone in everybody]
    for thread in threads:
        thread.start()
    faults = Faults(stack, random.Random(options.seed))
    faults.strike(options.seconds)
    # Whoever waits for a receipt goes on sending for a while; nothing new is begun.
    bell.set()
    end = time.monotonic() + 40
    for thread in threads:
        thread.join(max(0.1, end - time.monotonic()))
    closed.set()
    for thread in threads:
        thread.join(30)
    alive = [thread.name for thread in threads if thread.is_alive()]
    print(f"faults: {', '.join(f'{name} {n}' for name, n in sorted(faults.struck.items()))}")
    people = [someone.person for someone in everybody]
    print(f"broken requests: {sum(person.broken for person in people)}, ", end="")
    print(f"longest until an answer: {max(person.longest for person in people):.1f} s")
    for turn, admin in zip(turns, admins, strict=True):
        print(f"{turn.__name__.removesuffix('_turn')}s: {admin.done} by hand, {admin.retried} tried again")
    stuck = [f"client {name} hangs" for name in alive] + settle(stack, lambda line: print(line, flush=True))
    found = again(lambda: compare(judges))
    problems = [line for admin in admins for line in admin.problems]
    problems += [line for judge in judges for line in judge.refused]
    states = Counter(f"{type(job).__name__} {job.state}" for job in jobs())
    print(f"jobs: {', '.join(f'{name} {n}' for name, n in sorted(states.items()))}")
    from django.db import connections

    connections.close_all()
    left = stack.end()
    acknowledged = sum(intent.acknowledged for judge in judges for intent in judge.intents)
    print(
        f"acknowledged: {acknowledged} judgements, {sum(judge.dropped for judge in judges)} told “not stored”"
    )
    bad = {**found, "stuck": stuck, "stray processes": left, "refused requests": problems}
    for name, lines in bad.items():
        print(f"{name}: {len(lines)}")
        for line in lines[:10]:
            print(f"    {line}")
    return 1 if any(bad.values()) or not acknowledged else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Break everything while people judge, then count.")
    parser.add_argument("--seconds", type=float, default=300, help="how long faults strike (default 300)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="the faults' order")
    parser.add_argument("--judges", type=int, default=6)
    parser.add_argument("--database", choices=("sqlite", "postgres"), help="default: what is there")
    options = parser.parse_args()
    postgres = options.database == "postgres" or (options.database is None and postgres_answers())
    print(
        f"chaos: seed {options.seed}, {options.seconds:.0f} s, {'PostgreSQL' if postgres else 'SQLite'}",
        flush=True,
    )
    # So that an interrupt and a polite kill leave no process and no database behind either.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="caliper-chaos-") as folder:
        stack = Stack(Path(folder), postgres=postgres)
        try:
            return play(stack, options)
        finally:
            stack.end()


if __name__ == "__main__":
    sys.exit(main())
