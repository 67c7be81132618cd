"""The leaderboard's fit: how often its 95 % intervals hold the truth of made-up authors, and what it takes.

python -m benchmarks.strengths [--seeds 60]
"""

import argparse
import math
import time
from collections.abc import Sequence

import numpy as np

from webapp.labels.strengths import RESAMPLES, Battles, standardised, strengths

ELO = 400 / math.log(10)


def made_up(
    theta: Sequence[float], n: int, prompts: int, *, per_sd: float = 0.0, longer: float = 0.0, seed: int = 0
) -> Battles:
    """`n` single votes by Davidson's model between authors of strengths theta.

    per_sd: what one standard deviation in length adds to the log odds; longer: log characters by which author k + 1
    writes more than author k.
    """
    draw = np.random.default_rng(seed)
    size = len(theta)
    a = draw.integers(0, size, n)
    b = (a + draw.integers(1, size, n)) % size
    lengths = [np.exp(5 + longer * side + 0.4 * draw.normal(size=n)) for side in (a, b)]
    none = np.zeros(n)
    empty = Battles(a, b, draw.integers(0, prompts, n), none + 1, none, none, lengths[0], lengths[1])
    d = np.array(theta)[a] - np.array(theta)[b] + per_sd * standardised(empty)
    weights = np.stack([np.exp(d / 2), np.full(n, 0.4), np.exp(-d / 2)])
    at = draw.random(n)
    ends = np.cumsum(weights / weights.sum(axis=0), axis=0)
    outcome = (at > ends[0]).astype(int) + (at > ends[1])
    votes = [(outcome == which).astype(float) for which in range(3)]
    return Battles(a, b, empty.prompt, *votes, *lengths)


def coverage(seeds: int, theta: Sequence[float], n: int, prompts: int, *, per_sd: float = 0.0) -> None:
    held = lengths = 0
    for seed in range(seeds):
        votes = made_up(theta, n, prompts, per_sd=per_sd, longer=0.3 * bool(per_sd), seed=seed)
        found = strengths(votes, len(theta), for_length=bool(per_sd))
        for truth, each in zip(theta, found.elo, strict=True):
            held += (each.low or 0) < 1000 + ELO * truth < (each.high or 0)
        if found.length is not None:
            lengths += (found.length.low or 0) < math.exp(per_sd) < (found.length.high or 0)
    print(
        f"{len(theta)} authors, {n:,} judgements on {prompts} prompts, {seeds} seeds: intervals hold the strength of"
    )
    print(f"  {held} of {seeds * len(theta)} authors", end="")
    print(f", and what length wins in {lengths} of {seeds}" if per_sd else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()
    coverage(options.seeds, [-1.0, -0.4, 0.0, 0.3, 1.1], 1500, 300)
    coverage(options.seeds, [0.0] * 4, 3000, 400, per_sd=0.8)
    for authors, n in ((5, 10_000), (20, 10_000), (50, 10_000), (20, 100_000)):
        votes = made_up(np.linspace(-1, 1, authors).tolist(), n, n // 3)
        for for_length in (False, True):
            start = time.process_time()
            strengths(votes, authors, for_length=for_length)
            print(
                f"{authors} authors, {n:,} judgements, {RESAMPLES} resamples, "
                f"{'at equal length' if for_length else 'plain'}: {time.process_time() - start:.2f} CPU s"
            )


if __name__ == "__main__":
    main()
