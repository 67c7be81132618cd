"""What a generative version wrote of a response: its votes, the texts that they stand in, what could not be read."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from webapp.corpus.options import GENERATIVE
from webapp.ratings import charts
from webapp.ratings.models import JointVotes, Vote
from webapp.training.models import ModelVersion

# Texts of a response that its page has at once; the others come when asked for.
TEXTS = 8

# By version id and response id.
RatingsBy = dict[int, dict[int, list[int]]]


@dataclass(frozen=True)
class Said:
    """One vote, with all votes of its text in the order in which the responses were shown, its own among them."""

    vote: Vote
    shown: list[Vote]

    @property
    def number(self) -> int:
        return self.vote.trajectory.sample + 1

    @property
    def place(self) -> int:
        return self.vote.position + 1

    # As response_text.html takes a text: what a machine wrote is drawn like any response.

    @property
    def text(self) -> dict[str, str]:
        return {"text": self.vote.trajectory.text}

    @property
    def principles(self) -> dict[str, str]:
        return {"text": self.vote.trajectory.principles}

    @property
    def critique(self) -> dict[str, str]:
        return {"text": self.vote.critique}

    @property
    def correct_words(self) -> str:
        """What the labels say of the whole text; empty without any."""
        correct = self.vote.trajectory.correct
        if correct is None:
            return ""
        return "right" if correct > 0 else "wrong" if correct < 0 else "neither right nor wrong"


@dataclass(frozen=True)
class Ballot:
    """All votes of a version on a response, by sample."""

    every: list[Said]

    @cached_property
    def ratings(self) -> list[int]:
        """Those that count, the lowest first."""
        return sorted(_ratings(self.every, counted=True))

    @cached_property
    def left_out(self) -> list[int]:
        """Those that the meta model trusted less than others, the lowest first."""
        return sorted(_ratings(self.every, counted=False))

    @cached_property
    def unread(self) -> list[tuple[str, int]]:
        """Why texts could not be read, and how many of each reason."""
        reasons = Counter(
            said.vote.trajectory.reason or "no scores" for said in self.every if said.vote.rating is None
        )
        return reasons.most_common()

    @property
    def unread_total(self) -> int:
        return sum(count for _, count in self.unread)

    @cached_property
    def first(self) -> Said | None:
        """What is shown first: the median vote; None where nothing could be read."""
        read = [said for said in self.every if said.vote.rating is not None]
        return next((said for said in read if said.vote.median), next(iter(read), None))

    @cached_property
    def others(self) -> list[Said]:
        return [said for said in self.every if said is not self.first]


def _ratings(every: Iterable[Said], *, counted: bool) -> list[int]:
    return [
        said.vote.rating
        for said in every
        if said.vote.rating is not None and said.vote.trajectory.counted == counted
    ]


def ballot_of(version: ModelVersion | None, response: int) -> Ballot | None:
    """What a version wrote of a response; None where it wrote nothing. Two queries, none of one that never votes."""
    if version is None or version.method not in GENERATIVE:
        return None
    own = list(
        Vote.objects.filter(response=response, trajectory__version=version)
        .select_related("trajectory")
        .order_by("trajectory__sample", "pk")
    )
    if not own:
        return None
    shown: dict[int, list[Vote]] = {}
    beside = Vote.objects.filter(trajectory__in=[vote.trajectory_id for vote in own]).select_related(
        "response"
    )
    for vote in beside.defer("critique", "response__text", "response__messages").order_by("position"):
        shown.setdefault(vote.trajectory_id, []).append(vote)
    return Ballot([Said(vote, shown[vote.trajectory_id]) for vote in own])


def ratings_by_version(versions: Iterable[ModelVersion], responses: Iterable[int]) -> RatingsBy:
    """The votes that count, the lowest first. One query; none where no version votes."""
    found: RatingsBy = {}
    if not (voting := [version for version in versions if version.method in GENERATIVE]):
        return found
    rows: Any = Vote.objects.filter(
        response__in=list(responses),
        trajectory__version__in=voting,
        trajectory__counted=True,
        rating__isnull=False,
    ).order_by("rating")
    for version, response, rating in rows.values_list("trajectory__version_id", "response_id", "rating"):
        found.setdefault(version, {}).setdefault(response, []).append(rating)
    return found


@dataclass(frozen=True)
class Order:
    """How often a version scored a above, like and below b, with one of the two shown first."""

    first: str  # A or B
    wins: int
    ties: int
    losses: int

    @property
    def total(self) -> int:
        return self.wins + self.ties + self.losses

    @property
    def prefers(self) -> str:
        """A, B or neither; empty without votes."""
        if not self.total:
            return ""
        return "A" if self.wins > self.losses else "B" if self.losses > self.wins else "neither"

    @property
    def bar(self) -> charts.Outcomes | None:
        title = f"{self.first} shown first: A {self.wins}, tie {self.ties}, B {self.losses}"
        shares = {"a": self.wins, "tie": self.ties, "b": self.losses}
        return charts.outcome_bar(shares, title=title) if self.total else None


@dataclass(frozen=True)
class BothOrders:
    """A version's joint votes on a pair, by which response it was shown first.

    share: of all pairs that it saw in both orders, those that it decided otherwise with the order; `pairs` of them.
    """

    version: ModelVersion
    orders: tuple[Order, Order]
    share: float | None
    pairs: int

    @property
    def says(self) -> str:
        """What the order does: "decided", "same", "half" where it prefers neither in one, "one" where there is one."""
        a, b = (order.prefers for order in self.orders)
        if not (a and b):
            return "one"
        return "same" if a == b else "half" if "neither" in (a, b) else "decided"


def both_orders(version: ModelVersion, joint: JointVotes) -> BothOrders:
    first = Order("A", joint.first_wins, joint.first_ties, joint.first_losses)
    second = Order(
        "B", joint.wins - first.wins, joint.ties - first.ties, joint.losses - first.losses
    )  # fmt: skip
    known = version.metrics.get("generative")
    order = known.get("order") if isinstance(known, dict) else None
    order = order if isinstance(order, dict) else {}
    share, pairs = order.get("decided"), order.get("pairs")
    return BothOrders(
        version,
        (first, second),
        float(share) if isinstance(share, (int, float)) else None,
        pairs if isinstance(pairs, int) else 0,
    )
