"""How many judgements a second Caliper's pages take, how long people wait, and whether every one is there afterwards.

    python -m benchmarks.web_load [versus] [big] [sizes] [kills] [--quick] [--scale 0.1] [--seconds 30]

Starts a Caliper of its own for each leg (the processes and the gunicorn of docker-compose, a private data folder,
Redis, a database that is dropped at the end), imports the project with `manage.py import_data`, and lets people work
who do what the page does: sign in, open the page, save; each receipt brings the next card. Each 25th answer they open
the page anew. Everything stays on 127.0.0.1. PostgreSQL is the local server (127.0.0.1:5432, user postgres).

    versus   8 people, 5,000 pairs, SQLite; beside it Label Studio 1.23 in a virtual environment that is made when it
             is not there (--studio); the two work in turns
    big      PostgreSQL, 100,000 responses, 150,000 pairs, 500,000 votes, 50 people: without thinking (closed loop),
             then with 3 s of it (open loop: 2 to 4 s, evenly drawn; waiting counts from when the answer was due)
    sizes    what a save costs in a large project over a small one (Django's test client, in turns, medians)
    kills    a project judged to its end while a web process, a worker and Redis are killed

Times are what people wait for, client and server on the same machine. Queries of a save and of a page are counted with
the test client: statements, without BEGIN, COMMIT and SAVEPOINT, which are told beside. After each leg receipts are
compared with rows, and counters with what they count. Ends with 1 if a bar was missed.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.web_load.legs import LEGS, Options, run


def between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"from {low:g} to {high:g}")
        return float(text)

    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("legs", nargs="*", metavar="LEG", help=f"{', '.join(LEGS)}; all where none is named")
    parser.add_argument(
        "--seconds", type=between(1, 600), default=30, help="of a round, and of a loop (1 to 600)"
    )
    parser.add_argument(
        "--rounds", type=int, choices=range(1, 21), default=3, metavar="N", help="of versus (1 to 20)"
    )
    parser.add_argument(
        "--people", type=int, choices=range(1, 201), default=50, metavar="N", help="of big (1 to 200)"
    )
    parser.add_argument(
        "--scale", type=between(0.001, 2), default=1.0, help="of the projects' sizes (0.001 to 2)"
    )
    parser.add_argument(
        "--saves", type=int, choices=range(10, 2001), default=200, metavar="N", help="of sizes"
    )
    parser.add_argument("--studio", type=Path, help="Label Studio's virtual environment")
    parser.add_argument(
        "--quick", action="store_true", help="seconds and small projects: whether it works at all"
    )
    given = parser.parse_args()
    if unknown := set(given.legs) - LEGS.keys():
        parser.error(f"no such leg: {', '.join(sorted(unknown))}; there are {', '.join(LEGS)}")
    options = Options(
        seconds=given.seconds,
        rounds=given.rounds,
        scale=given.scale,
        people=given.people,
        saves=given.saves,
        studio=given.studio,
    )
    if given.quick:
        options = Options(seconds=2, rounds=1, scale=0.001, people=4, saves=20, studio=given.studio)
    return run(given.legs or [*LEGS], options)


if __name__ == "__main__":
    raise SystemExit(main())
