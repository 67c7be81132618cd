"""Whether a machine may stand in for people: the alternative-annotator test, and how reliable it is beside them.

The test is that of Calderon, Reichart and Dror (2025), The Alternative Annotator Test for LLM-as-a-Judge, arXiv
2501.10970. Each annotator j is left out in turn. On the items that j has judged with others, machine and j are both
scored by how many of those others said the same (ACC; section 3). W^f says that the machine scores at least as well,
W^h that j does; the means of the two over j's items are the advantage probabilities rho^f and rho^h. The null
hypothesis is rho^f <= rho^h - epsilon: epsilon is what a machine is worth for costing less. A one-sided t-test of the
differences W^h - W^f decides for each annotator, and the rule of Benjamini and Yekutieli keeps the false discoveries
among them at q = .05. The winning rate omega is the share of annotators whose null hypothesis falls; .5 passes.

Ours: an item on which the machine gave no verdict (the order decided, or it could not be read) agrees with nobody.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

EPSILONS = {0.2: "experts", 0.15: "skilled annotators", 0.1: "crowd workers"}
"""The paper's advice by whom the machine would stand in for; experts cost the most."""

FALSE_DISCOVERIES = 0.05
PASSES = 0.5
FEWEST_ANNOTATORS = 3
FEWEST_ITEMS = 30

PRIOR = (0.5, 4.5)
"""Beta prior on an error rate, failures and successes: as in the trainer (workers/rewards/training/reliability.py)."""

Item = Hashable
Vote = tuple[Item, Hashable, str]


@dataclass(frozen=True)
class Left:
    """One annotator left out: over `items`, rho^f of the machine and rho^h of the annotator, and the test of them."""

    annotator: Hashable
    items: int
    machine: float
    person: float
    p: float
    beaten: bool = False


@dataclass(frozen=True)
class AlternativeTest:
    """The test's figures; without them, `reason` says why.

    advantage: mean rho^f over the annotators; winning: omega.
    """

    epsilon: float
    left: list[Left]
    winning: float | None = None
    advantage: float | None = None
    reason: str = ""

    @property
    def whom(self) -> str:
        """Whose place the machine would take, by the paper's advice on epsilon."""
        return EPSILONS[self.epsilon]

    @property
    def passed(self) -> bool:
        return self.winning is not None and self.winning >= PASSES


def alternative_test(
    machine: Mapping[Any, str], votes: Iterable[Vote], *, epsilon: float = 0.2
) -> AlternativeTest:
    """`machine`: its verdict by item, "" where it gave none; `votes`: (item, annotator, verdict), each annotator once
    an item. Items that the machine was not asked about are passed by.
    """
    by_item: dict[Item, dict[Hashable, str]] = defaultdict(dict)
    for item, annotator, verdict in votes:
        if item in machine:
            by_item[item][annotator] = verdict
    differences: dict[Hashable, list[int]] = defaultdict(list)
    wins: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
    for item, said in by_item.items():
        if len(said) < 2:
            continue
        for annotator, own in said.items():
            others = [verdict for who, verdict in said.items() if who != annotator]
            of_machine, of_person = others.count(machine[item]), others.count(own)
            won = int(of_machine >= of_person), int(of_person >= of_machine)
            wins[annotator][0] += won[0]
            wins[annotator][1] += won[1]
            differences[annotator].append(won[1] - won[0])
    enough = {who: found for who, found in differences.items() if len(found) >= FEWEST_ITEMS}
    if len(enough) < FEWEST_ANNOTATORS:
        reason = (
            f"It needs {FEWEST_ANNOTATORS} people with {FEWEST_ITEMS} pairs each that the machine and somebody else "
            f"judged too; there {'is' if len(enough) == 1 else 'are'} {len(enough)} so far."
        )
        return AlternativeTest(epsilon, [], reason=reason)
    left = [
        Left(
            who,
            len(found),
            wins[who][0] / len(found),
            wins[who][1] / len(found),
            t_test_below(found, epsilon),
        )
        for who, found in enough.items()
    ]
    rejected = benjamini_yekutieli([one.p for one in left], FALSE_DISCOVERIES)
    left = [replace(one, beaten=beaten) for one, beaten in zip(left, rejected, strict=True)]
    return AlternativeTest(
        epsilon,
        left,
        winning=sum(rejected) / len(left),
        advantage=sum(one.machine for one in left) / len(left),
    )


def t_test_below(values: Sequence[float], mean: float) -> float:
    """p of the one-sided t-test whose alternative is that the mean of `values`, two or more, lies below `mean`."""
    n = len(values)
    found = sum(values) / n
    variance = sum((value - found) ** 2 for value in values) / (n - 1)
    if variance == 0:
        return 0.0 if found < mean else 1.0
    return student_below((found - mean) / math.sqrt(variance / n), n - 1)


def student_below(t: float, freedom: int) -> float:
    """P(T <= t) of Student's t with so many degrees of freedom, by the incomplete beta function."""
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t < 0 else 1 - tail


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (DLMF 8.17.22)."""
    if not 0 < x < 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / a
    return front * (fraction - 1)


def benjamini_yekutieli(p_values: Sequence[float], q: float) -> list[bool]:
    """Which null hypotheses fall with false discoveries at most q, whatever the dependence between the tests: those up
    to the greatest rank i with p_(i) <= i q / (m (1 + 1/2 + ... + 1/m)).
    """
    m = len(p_values)
    harmonic = sum(1 / rank for rank in range(1, m + 1))
    order = sorted(range(m), key=p_values.__getitem__)
    last = 0
    for rank, index in enumerate(order, start=1):
        if p_values[index] <= rank * q / (m * harmonic):
            last = rank
    fallen = set(order[:last])
    return [index in fallen for index in range(m)]


def error_rate(said: Sequence[str], shares: Sequence[Mapping[str, float]]) -> float | None:
    """e of P(v | machine) = (1 - e) P_people(v) + e base(v), the likelihood by which trainings weigh people; None
    without judgements.

    `said`: its verdicts; `shares`: what people say of the same items, by verdict, none of them 0. base is what it says
    whatever the item: its own share of each verdict, a and b alike, since it was asked in both orders. Fitted by EM,
    with the Beta prior of the trainer.
    """
    n = len(said)
    if not n:
        return None
    sides = sum(verdict in ("a", "b") for verdict in said) / (2 * n)
    base = {verdict: said.count(verdict) / n for verdict in said} | {"a": sides, "b": sides}
    failures, successes = PRIOR
    error = failures / (failures + successes)
    for _ in range(200):
        missed = 0.0
        for verdict, people in zip(said, shares, strict=True):
            blind = error * base[verdict]
            missed += blind / (blind + (1 - error) * people[verdict])
        error = (failures + missed) / (failures + successes + n)
    return error


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927); n > 0."""
    z = 1.959964
    share, spread = count / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
