"""How often the warning of the page Rollouts is false, and how soon it comes (docs/rollouts.md has the table).

Made-up proxies: their probabilities are drawn from Beta(2, 2), and people agree with each as often as it expects to be
agreed with, less a shift that begins after some calm pairs. One judgement a pair; the warning is looked at after each.

    python -m benchmarks.rollout_warning        about a minute
"""

import argparse
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from webapp.rollouts.monitor import MARGIN, Judged, betting, towards_preferred

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
NEVER = 10**9


def stream(rng: random.Random, *, number: int, calm: int, shift: float, overlap: int = 1) -> Iterator[Judged]:
    """Pairs of a proxy that is right for `calm` pairs, and then agreed with by `shift` less than it expects."""
    for place in range(number):
        preferred = rng.betavariate(2, 2)
        right = max(preferred, 1 - preferred) - (shift if place >= calm else 0)
        agreed = sum(rng.random() < right for _ in range(overlap)) / overlap
        share = agreed if preferred > 0.5 else 1 - agreed
        yield Judged(*towards_preferred(preferred, share), done=BEGIN + timedelta(minutes=place))


def warned(
    rng: random.Random, times: int, *, number: int, calm: int, shift: float, overlap: int = 1
) -> list[int]:
    """After how many pairs each of so many proxies is warned of, in rising order; NEVER where it is not."""
    streams = (stream(rng, number=number, calm=calm, shift=shift, overlap=overlap) for _ in range(times))
    return sorted(betting(pairs)[1] or NEVER for pairs in streams)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    rng = random.Random(17)
    for name, shift in (("right", 0.0), ("at the edge of what is let pass", MARGIN)):
        found = warned(rng, 400, number=1000, calm=0, shift=shift)
        print(
            f"{name}: {100 * sum(each < NEVER for each in found) / 400:.1f} % of 400 warned of in 1,000 pairs"
        )
    for shift in (0.1, 0.2, 0.3, 0.4):
        words = []
        for calm in (0, 100):
            found = [each - calm for each in warned(rng, 200, number=3000 + calm, calm=calm, shift=shift)]
            early = sum(each <= 0 for each in found)
            words.append(
                f"after {calm} calm pairs: median {found[100]:,}, 90th percentile {found[180]:,}"
                + (f" ({early} warned of before)" if early else "")
            )
        print(f"{100 * shift:.0f} points less: {'; '.join(words)}")


if __name__ == "__main__":
    main()
