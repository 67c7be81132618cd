"""The legs: what is started, who works on it for how long, and the lines they give the table."""

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.web_load import inside, material
from benchmarks.web_load.client import Annotator, Browser, Noted, play
from benchmarks.web_load.installation import Installation
from benchmarks.web_load.studio import Studio, StudioAnnotator

SLUG = "load"
THINK_SECONDS = 3.0
WARM_SECONDS = 5.0
"""Not counted: fresh processes load their code with the first requests."""


@dataclass(frozen=True)
class Options:
    """`scale` multiplies the sizes of the projects; `seconds` is a round of `versus`, or a loop of `big`."""

    seconds: float = 30.0
    rounds: int = 3
    scale: float = 1.0
    people: int = 0
    saves: int = 200
    studio: Path | None = None

    def size(self, pairs: int, least: int = 60) -> int:
        return max(least, round(pairs * self.scale))


@dataclass(frozen=True)
class Line:
    """A row of the table: what is asked, what was found, and whether that is what was wanted."""

    bar: str
    figure: str
    goal: str
    reached: bool


@contextlib.contextmanager
def installed(*, postgres: bool, people: int, overlap: int, asks: str) -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="caliper-load-") as folder:
        installation = Installation(Path(folder), postgres=postgres)
        try:
            installation.call(inside.prepare, SLUG, people, overlap, asks)
            yield installation
        finally:
            for stray in installation.end():
                print(f"  had to be killed: {stray}", flush=True)


def team(installation: Installation, count: int, *, levels: bool, insists: bool = False) -> list[Annotator]:
    return [
        Annotator(
            f"{SLUG}-{number}", Browser(installation.port), SLUG, Noted(), random.Random(number), levels, insists
        )
        for number in range(count)
    ]  # fmt: skip


async def sign_in(people: Sequence[Annotator]) -> None:
    """A few at a time: hashing passwords is slow on purpose."""
    for start in range(0, len(people), 4):
        await asyncio.gather(*(person.sign_in() for person in people[start : start + 4]))


def gather(people: Sequence[Annotator | StudioAnnotator]) -> Noted:
    """What all have noted since the last time; their notes are empty afterwards."""
    total = Noted()
    for person in people:
        for name, values in person.noted.seconds.items():
            total.seconds[name] += values
        total.broken += person.noted.broken
        total.refused += person.noted.refused
        person.noted = Noted()
    return total


def tail(values: Sequence[float]) -> str:
    """Median, 95th and 99th percentile in milliseconds."""
    return " / ".join(f"{1000 * percentile(values, share):,.0f}" for share in (50, 95, 99)) + " ms"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))] if ordered else float("nan")


def tell(name: str, noted: Noted, seconds: float) -> float:
    """Print a loop; judgements a second."""
    rate = len(noted.seconds["save"]) / seconds
    print(
        f"  {name}: {rate:.1f} judgements/s; next card {tail(noted.seconds['page'])} of {len(noted.seconds['page'])}, "
        f"save {tail(noted.seconds['save'])} of {len(noted.seconds['save'])} (p50 / p95 / p99); "
        f"{len(noted.broken)} broken, {len(noted.refused)} refused",
        flush=True,
    )
    for line in (noted.broken + noted.refused)[:3]:
        print(f"    {line}", flush=True)
    return rate


def tell_cpu(installation: Installation, before: dict[tuple[str, int], float], saves: int) -> None:
    spent: defaultdict[str, float] = defaultdict(float)
    for (name, pid), seconds in installation.used().items():
        spent[name] += 1000 * (seconds - before.get((name, pid), 0.0)) / max(1, saves)
    words = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
    print(f"  CPU ms a judgement: {words}; two free cores: {2000 / sum(spent.values()):.0f}/s", flush=True)


def counted(
    installation: Installation, people: Sequence[Annotator], leg: str, *, complete: bool = False
) -> Line:
    """Receipts against the database."""
    intents = [intent for person in people for intent in person.intents]
    wrong = installation.call(inside.wrongs, SLUG, intents, complete)
    for words in wrong[:10]:
        print(f"    {words}", flush=True)
    acknowledged = sum(intent.acknowledged for intent in intents)
    figure = f"{acknowledged:,} acknowledged, {len(wrong)} lost, doubled or miscounted"
    exact = not wrong and acknowledged > 0
    return Line(f"{leg}: acknowledged = stored, 0 doubled, overlap exact", figure, "exact", exact)


# --- Caliper and Label Studio in turns ---


def versus(options: Options) -> list[Line]:
    """8 people, 5,000 pairs on SQLite, pairs only in both, overlap 3; rounds in turns."""
    with installed(postgres=False, people=8, overlap=3, asks="pairs") as installation:
        pairs = options.size(5000)
        installation.load(SLUG, pairs, votes=False)
        home = options.studio or Path(tempfile.gettempdir()) / "label-studio-venv"
        studio = Studio(home, installation.folder / "studio")
        try:
            studio.start()
            installation.ready()
            return asyncio.run(_versus(installation, studio, pairs, options))
        finally:
            studio.end()


async def _versus(installation: Installation, studio: Studio, pairs: int, options: Options) -> list[Line]:
    ours = team(installation, 8, levels=False)
    theirs = [
        StudioAnnotator(f"person{number}", Browser(studio.port), studio, Noted(), random.Random(number))
        for number in range(8)
    ]
    await sign_in(ours)
    await studio.load(theirs, pairs, 3)
    ratios = []
    for number in range(options.rounds):
        rates = []
        before = installation.used()
        for name, people in (("Caliper", ours), ("Label Studio", theirs)):
            took = await play(people, options.seconds, seed=number)
            noted = gather(people)
            rates.append(tell(f"round {number + 1}, {name}", noted, took))
            if name == "Caliper":
                tell_cpu(installation, before, len(noted.seconds["save"]))
        ratios.append(rates[0] / max(rates[1], 1e-9))
    ratio = statistics.median(ratios)
    spread = f"{ratio:.1f}x ({min(ratios):.1f} to {max(ratios):.1f} in {len(ratios)} rounds)"
    line = Line(
        "judgements/s, 8 people, 5,000 pairs, SQLite, over Label Studio's", spread, ">= 10x", ratio >= 10
    )
    return [line, counted(installation, ours, "versus")]


# --- The big project ---


def big(options: Options) -> list[Line]:
    """50 people, 150,000 pairs with 500,000 votes on PostgreSQL: a closed loop, then an open one."""
    count = options.people or 50
    with installed(
        postgres=True, people=count, overlap=material.OVERLAP_WITH_VOTES, asks="both"
    ) as installation:
        installation.load(SLUG, options.size(150_000), votes=True)
        installation.call(inside.analyze)
        installation.ready()
        return asyncio.run(_big(installation, count, options)) + statements(installation)


async def _big(installation: Installation, count: int, options: Options) -> list[Line]:
    people = team(installation, count, levels=True)
    await sign_in(people)
    await play(people, WARM_SECONDS)
    gather(people)
    before = installation.used()
    took = await play(people, options.seconds)
    noted = gather(people)
    rate = tell("closed loop", noted, took)
    tell_cpu(installation, before, len(noted.seconds["save"]))
    bar = f"judgements/s, {count} people without thinking, big, PostgreSQL"
    lines = [Line(bar, f"{rate:.1f}", ">= 60", rate >= 60)]
    for person in people:
        person.deck = {}  # everybody opens the page anew
    before = installation.used()
    took = await play(people, options.seconds, think=THINK_SECONDS)
    noted = gather(people)
    tell("open loop", noted, took)
    tell_cpu(installation, before, len(noted.seconds["save"]))
    for name, words in (("page", "next card"), ("save", "save")):
        p95 = percentile(noted.seconds[name], 95)
        bar = f"{count} people, 3 s of thinking: {words}, p95"
        lines.append(Line(bar, f"{1000 * p95:.0f} ms", "< 100 ms", p95 < 0.1))
    return [*lines, counted(installation, people, "big")]


def statements(installation: Installation) -> list[Line]:
    lines = []
    for name, limit in (("save", 16), ("page", 8)):
        asked, words = installation.call(inside.statements, SLUG)[name]
        figure = f"{asked} (and {words} of BEGIN, COMMIT, SAVEPOINT)"
        lines.append(Line(f"queries of a {name}", figure, f"<= {limit}", asked <= limit))
    return lines


# --- What a save costs in a small and in a large project ---


def sizes(options: Options) -> list[Line]:
    """Saves through the test client, in turns in two installations on the same kind of database."""
    return [
        _sizes("SQLite", 600, options.size(90_000, 1200), options, postgres=False),
        _sizes("PostgreSQL", 1000, options.size(150_000, 2000), options, postgres=True),
    ]


def _sizes(name: str, small: int, large: int, options: Options, *, postgres: bool) -> Line:
    with contextlib.ExitStack() as stack:
        two = []
        for pairs in (small, large):
            installation = stack.enter_context(
                installed(postgres=postgres, people=8, overlap=material.OVERLAP_WITH_VOTES, asks="both")
            )
            installation.load(SLUG, pairs, votes=True)
            installation.call(inside.analyze)
            installation.call(inside.saves, SLUG, 16)
            two.append(installation)
        seconds: list[list[float]] = [[], []]
        for _ in range(options.saves // 10):
            for found, installation in zip(seconds, two, strict=True):
                found += installation.call(inside.saves, SLUG, 10)
        medians = [statistics.median(found) for found in seconds]
    ratio = medians[1] / medians[0]
    figure = f"{ratio:.2f}x ({1000 * medians[1]:.1f} over {1000 * medians[0]:.1f} ms)"
    return Line(f"a save at {large:,} pairs over one at {small:,}, {name}", figure, "<= 1.15x", ratio <= 1.15)


# --- Things break in the middle ---


def kills(options: Options) -> list[Line]:
    """8 people judge a project to its end while a web process, a worker and Redis are killed."""
    with installed(postgres=True, people=8, overlap=3, asks="both") as installation:
        installation.load(SLUG, options.size(300), votes=False)
        installation.ready()
        return asyncio.run(_kills(installation))


async def _kills(installation: Installation) -> list[Line]:
    people = team(installation, 8, levels=True, insists=True)
    await sign_in(people)

    def strike() -> None:
        time.sleep(3)
        installation.offspring("web")[0].kill()
        time.sleep(3)
        installation.children["default"].kill()
        time.sleep(3)
        installation.children["redis"].terminate()
        print("  kill -9 of a web process and of a worker; Redis told to end and started again", flush=True)

    took = await play(people, 600, to_the_end=True, meanwhile=strike)
    tell("to the end", gather(people), took)
    return [counted(installation, people, "kills", complete=True)]


LEGS = {"versus": versus, "big": big, "sizes": sizes, "kills": kills}


def run(names: Sequence[str], options: Options) -> int:
    lines: list[Line] = []
    for name in names:
        print(f"{name}: {(LEGS[name].__doc__ or '').splitlines()[0]}", flush=True)
        lines += LEGS[name](options)
    width = max(len(line.bar) for line in lines)
    figures = max(len(line.figure) for line in lines)
    print(f"\n{'bar':<{width}}  {'figure':<{figures}}  {'goal':<8}")
    for line in lines:
        word = "reached" if line.reached else "MISSED"
        print(f"{line.bar:<{width}}  {line.figure:<{figures}}  {line.goal:<8}  {word}")
    return int(not all(line.reached for line in lines))
