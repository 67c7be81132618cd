"""What a machine annotator's answers come to: how often the order decided, and how far it agrees with people."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from webapp.accounts.models import User
from webapp.labels.alternative import EPSILONS, AlternativeTest, alternative_test, error_rate, wilson
from webapp.labels.machine_models import MachineAnnotator, MachineAnswer
from webapp.labels.models import VERDICTS, Judgement, Verdict

Outcome = MachineAnswer.Outcome
_SIDES = (Verdict.A, Verdict.B)
_MORE_VOTES = (1.0, 0.1, 0.2, 0.5, 2.0, 5.0, 10.0)  # the first one where votes say nothing of each other


@dataclass(frozen=True)
class Share:
    """`count` of `n` with its 95 % interval; no figures without any."""

    count: int
    n: int

    @property
    def value(self) -> float | None:
        return self.count / self.n if self.n else None

    @property
    def low(self) -> float | None:
        return wilson(self.count, self.n)[0] if self.n else None

    @property
    def high(self) -> float | None:
        return wilson(self.count, self.n)[1] if self.n else None


@dataclass(frozen=True)
class MachineReport:
    """asked: pairs with answers in both orders, of which `unread` could not be read.

    order_decided: of the readable ones; first: of the orders with a winner, those that the response shown first won
    (.5 where the place doesn't matter, since each response stands first once); agreement: of the pairs on which people
    have a majority and the machine a verdict; error: see alternative.error_rate; together: pairs it rests on.
    """

    asked: int
    unread: int
    verdicts: list[tuple[str, int]]
    order_decided: Share
    first: Share
    agreement: Share
    error: float | None
    together: int
    tests: list[AlternativeTest]
    names: dict[int, str]


def machine_report(machine: MachineAnnotator) -> MachineReport:
    """Two queries, and one for names."""
    answers = list(
        MachineAnswer.objects.filter(machine=machine).values_list(
            "pair_id", "outcome", "verdict_ab", "verdict_ba"
        )
    )
    said = {pair: ab if outcome == Outcome.AGREED else "" for pair, outcome, ab, _ in answers}
    votes = list(
        Judgement.objects.verdicts()
        .filter(pair__machine_answers__machine=machine)
        .values_list("pair_id", "annotator_id", "verdict")
    )
    by_pair: dict[int, Counter[str]] = {}
    for pair, _, verdict in votes:
        by_pair.setdefault(pair, Counter())[verdict] += 1
    majorities = {
        pair: most for pair, counts in by_pair.items() if said[pair] and (most := _majority(counts))
    }
    both = [pair for pair in by_pair if said[pair]]
    readable = [(ab, ba) for _, _, ab, ba in answers if ab and ba]
    # Which place won: a in front in the first order, b in the second.
    won = [ab == Verdict.A for ab, _ in readable if ab in _SIDES]
    won += [ba == Verdict.B for _, ba in readable if ba in _SIDES]
    tests = [alternative_test(said, votes, epsilon=epsilon) for epsilon in EPSILONS]
    return MachineReport(
        asked=len(answers),
        unread=sum(outcome == Outcome.UNREAD for _, outcome, _, _ in answers),
        verdicts=[(label, sum(v == name for v in said.values())) for name, label in _labels()],
        order_decided=Share(sum(ab != ba for ab, ba in readable), len(readable)),
        first=Share(sum(won), len(won)),
        agreement=Share(sum(said[pair] == most for pair, most in majorities.items()), len(majorities)),
        error=error_rate([said[pair] for pair in both], _shares([by_pair[pair] for pair in both])),
        together=len(both),
        tests=tests,
        names=_names(tests),
    )


def _labels() -> list[tuple[str, str]]:
    return [(name, label) for name, label in Verdict.choices if name in VERDICTS]


def _majority(counts: Counter[str]) -> str | None:
    """The verdict that more people gave than any other."""
    (most, n), *others = counts.most_common(2)
    return None if others and others[0][1] == n else most


def _shares(counts: list[Counter[str]]) -> list[dict[str, float]]:
    """What one more person would say of each pair: its votes, and so many more, spread as all votes here are, that each
    vote is foretold best by the others of its pair.
    """
    every = sum(counts, Counter(dict.fromkeys(VERDICTS, 1)))
    usual = {verdict: every[verdict] / every.total() for verdict in VERDICTS}

    def foretold(more: float) -> float:
        return sum(
            count * math.log((count - 1 + more * usual[verdict]) / (each.total() - 1 + more))
            for each in counts
            for verdict, count in each.items()
        )

    more = max(_MORE_VOTES, key=foretold)
    return [
        {verdict: (each[verdict] + more * usual[verdict]) / (each.total() + more) for verdict in VERDICTS}
        for each in counts
    ]


def _names(tests: list[AlternativeTest]) -> dict[Any, str]:
    keys = {one.annotator for test in tests for one in test.left}
    return {user.pk: user.display_name for user in User.objects.filter(pk__in=keys)}
