"""What a judge's text says, whether that is right, and what the votes of several texts amount to.

Pure Python; arXiv 2504.02495 (SPCT) with the differences that docs/methods.md names. Scores are whole numbers 1..9.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..scale import LEVELS, RATINGS, Partition

BOX = "\\boxed{"
LONGEST_BOX = 200  # characters within \boxed{...}; more is no list of at most four digits
PREFERRED_A, PREFERRED_B, TIE, BOTH_BAD = range(4)  # a pair's outcomes in Target.shares
KINDS = ("pair", "best", "level")

_EDGE = r"[ \t#>*_\-]{0,12}"  # what markdown may put before a heading
_PRINCIPLES = re.compile(rf"^{_EDGE}(?:principles|criteria)\b[^\n]{{0,80}}$", re.IGNORECASE | re.MULTILINE)
_SCORES = re.compile(rf"{_EDGE}(?:final )?scores?\b[^\n]{{0,80}}$", re.IGNORECASE)
_CRITIQUE = re.compile(
    rf"^{_EDGE}(?:(?:critique|analysis|evaluation) (?:of|for) )?response[ \t]{{1,4}}([1-9])"
    r"[ \t]{0,4}(?:[:.*_]{1,6}|$)",
    re.IGNORECASE | re.MULTILINE,
)


# --- What a text says ---


@dataclass(frozen=True)
class Parsed:
    """A judge's text. scores: one a response in the order shown, or None and `reason` says what was wrong.

    principles and critiques are texts as the model wrote them, empty where the form's headings are missing.
    """

    scores: tuple[int, ...] | None
    reason: str = ""
    principles: str = ""
    critiques: tuple[str, ...] = ()


def parse(text: str, n: int, finished: bool = True) -> Parsed:
    r"""Scores of n responses from the last \boxed{...} of a judge's text, and what was said of each. Never raises.

    Exactly n whole numbers 1..9 between commas count; everything else is refused with the reason. A text that was cut
    off (not `finished`) is refused too: its last \boxed{...} may be a quotation from a response. Linear in the text.
    """
    principles, critiques = _said(text, n)
    scores, reason = (
        _scores(text, n) if finished else (None, "it was cut off before its end; raise max_new_tokens")
    )
    return Parsed(scores, reason, principles, critiques)


def _scores(text: str, n: int) -> tuple[tuple[int, ...] | None, str]:
    at = text.rfind(BOX)
    if at < 0:
        return None, "it has no \\boxed{...} with the scores"
    begin = at + len(BOX)
    end = text.find("}", begin, begin + LONGEST_BOX)
    if end < 0:
        return None, "its last \\boxed{ is not closed"
    parts = [part.strip(" \t\r\n") for part in text[begin:end].split(",")]
    for part in parts:
        if not re.fullmatch("[0-9]{1,3}", part):
            return None, f"its last \\boxed{{...}} holds {part[:20]!r}, which is no whole number"
        if not (len(part) == 1 and 1 <= int(part) <= RATINGS):
            return None, f"its last \\boxed{{...}} holds {part}, which lies outside 1..{RATINGS}"
    if len(parts) != n:
        return (
            None,
            f"its last \\boxed{{...}} holds {len(parts)} scores for {n} response{'s' if n > 1 else ''}",
        )
    return tuple(map(int, parts)), ""


def _said(text: str, n: int) -> tuple[str, tuple[str, ...]]:
    """Principles and critiques by the form's headings; a critique's heading counts in its turn, 1 to n."""
    starts: list[tuple[int, int]] = []  # of the critiques: where the heading begins, where the text does
    for found in _CRITIQUE.finditer(text):
        if len(starts) < n and int(found[1]) == len(starts) + 1:
            starts.append(found.span())
    first = starts[0][0] if starts else len(text)
    heading = _PRINCIPLES.search(text, 0, first)
    principles = text[heading.end() : first].strip() if heading else ""
    critiques = [""] * n
    for number, (_, begin) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(text)
        if number + 1 == len(starts) and (scores := _last_line(text, begin)) is not None:
            end = scores
        critiques[number] = text[begin:end].strip()
    if heading and not starts and (scores := _last_line(text, heading.end())) is not None:
        principles = text[heading.end() : scores].strip()
    return principles, tuple(critiques)


def _last_line(text: str, begin: int) -> int | None:
    r"""Where the line of the scores begins: that of the last \boxed{, with a heading right above it."""
    at = text.rfind(BOX, begin)
    if at < 0:
        return None
    line = max(text.rfind("\n", begin, at) + 1, begin)
    above = text[begin:line].rstrip()
    heading = max(above.rfind("\n") + 1, 0)
    return begin + heading if above and _SCORES.match(above[heading:]) else line


# --- Whether it is right ---


@dataclass(frozen=True)
class Target:
    """What people said of an item's responses, as shares of their votes.

    pair: of a preferred, b preferred, tie, both bad. best: of each response's being the best. level: of bad, normal,
    good.
    """

    kind: str
    shares: tuple[float, ...]

    def shown(self, order: Sequence[int]) -> Target:
        """The same for the item's responses in this order: `order[place]` is the response that stands there."""
        if self.kind == "level":
            return self
        shares = tuple(self.shares[response] for response in order)
        return Target(self.kind, (*shares, *self.shares[2:]) if self.kind == "pair" else shares)

    @property
    def best(self) -> int | None:
        """The response that most people prefer to the others; None where none is."""
        if self.kind == "level":
            return None
        most = max(range(len(self.shares)), key=self.shares.__getitem__)
        return most if self.shares[most] > 0.5 and (self.kind == "best" or most < TIE) else None

    @property
    def decided(self) -> bool:
        """Whether some scores would be right by more than half of the votes."""
        if self.kind != "pair":
            return max(self.shares) > 0.5
        return max(self.shares[:BOTH_BAD]) + self.shares[BOTH_BAD] > 0.5


def correct(scores: Sequence[int] | None, target: Target, partition: Partition) -> float:
    """How right scores are, in -1..1: twice the share of the votes they agree with, less one.

    With one vote that is the paper's +1 or -1 (arXiv 2504.02495, the rule-based reward): the preferred
    response has strictly the highest score. Ours: equal scores agree with a tie, two bad ones with "both bad", and a
    lone response's score with the level in whose band it lies. What could not be read is -1.
    """
    if scores is None:
        return -1.0
    if target.kind == "level":
        return 2 * target.shares[partition.level_of(scores[0])] - 1
    if target.kind == "best":
        most = max(scores)
        return 2 * target.shares[scores.index(most)] - 1 if scores.count(most) == 1 else -1.0
    a, b = scores
    share = target.shares[PREFERRED_A if a > b else PREFERRED_B if b > a else TIE]
    if max(a, b) <= partition.bad_max:
        share += target.shares[BOTH_BAD]
    return 2 * share - 1


# --- What votes amount to ---


def vote_distribution(ratings: Sequence[int]) -> list[float]:
    """p(s) = (n_s + 1/9) / (k + 1), s = 1..9, of k votes; uniform without any; its mean orders as their sum. [9]"""
    counts = [1 / RATINGS] * RATINGS
    for rating in ratings:
        counts[rating - 1] += 1
    return [count / (len(ratings) + 1) for count in counts]


@dataclass(frozen=True)
class Joint:
    """How often one response scored above, as or below another in the same text.

    The product of the two responses' own votes would forget that one text's scores go together: two votes (9, 7) and
    (5, 3) put a above b for sure, their product says .75.
    """

    wins: int = 0
    ties: int = 0
    losses: int = 0

    @property
    def n(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def a(self) -> float:
        """P(a scores above b), smoothed: a + tie + b = 1."""
        return (self.wins + 0.5) / (self.n + 1)

    @property
    def tie(self) -> float:
        return self.ties / (self.n + 1)

    @property
    def b(self) -> float:
        return (self.losses + 0.5) / (self.n + 1)

    @property
    def preferred(self) -> float:
        """P(a preferred): half of the ties are its."""
        return (self.wins + self.ties / 2 + 0.5) / (self.n + 1)

    def voted(self, a: int, b: int) -> Joint:
        """With one more text, which scored them a and b."""
        return Joint(self.wins + (a > b), self.ties + (a == b), self.losses + (a < b))

    def turned(self) -> Joint:
        """The same for b and a."""
        return Joint(self.losses, self.ties, self.wins)


def median_vote(ratings: Sequence[int]) -> int:
    """Which vote to show first: the first of those that gave the lower median."""
    return list(ratings).index(sorted(ratings)[(len(ratings) - 1) // 2])


def level_shares(votes: Sequence[float]) -> tuple[float, ...]:
    """Votes for bad, normal and good as shares. Not all may be 0."""
    assert len(votes) == len(LEVELS)
    return tuple(vote / sum(votes) for vote in votes)
