"""The leaderboard: how strong the hidden authors are by people's judgements, and by a reward model's predictions.

Both are Bradley-Terry strengths (webapp/labels/strengths.py) over the same judgements. "Both bad" counts as a tie, as
in the held-out metrics: it prefers neither. Skips, and pairs whose two responses have one author, say nothing of who is
better. A model's votes are P(a preferred) for a and the rest for b, of pairs that it was not trained on.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from django.db.models.functions import Length

from webapp.corpus.models import Pair, Project, Response
from webapp.labels.strengths import (
    FEWEST_PROMPTS,
    Battles,
    Estimate,
    Strengths,
    connected,
    rank_range,
    strengths,
)
from webapp.labels.summaries import Votes
from webapp.ratings.queries import identity, kept, labels_state, preferences, tallies
from webapp.snapshots.writing import safe_cell
from webapp.training.models import ModelVersion

# Those with the most judgements; time and memory grow with the square of their number.
MOST_AUTHORS = 50


@dataclass(frozen=True)
class Standing:
    """One author's place by one fit."""

    rank: int
    best: int  # the ranks that the intervals leave open
    worst: int
    elo: Estimate
    against_average: Estimate


@dataclass(frozen=True)
class Row:
    """One author. `votes` are seen from its side: a is won, b is lost.

    `difference`: by how many ranks the model puts it higher than people do, among the authors that both rank.
    """

    author: str
    votes: Votes
    plain: Standing
    controlled: Standing
    model: Standing | None = None
    difference: int | None = None

    @property
    def moved(self) -> str:
        """The difference in words; empty where the model does not rank the author."""
        if self.difference is None:
            return ""
        return (
            f"{abs(self.difference)} {'higher' if self.difference > 0 else 'lower'}"
            if self.difference
            else "the same"
        )


@dataclass(frozen=True)
class Board:
    """Authors by people's judgements, the strongest first, and what was not counted.

    apart: authors that no judgement compares with the others, with their judgements; alike, nameless, rare: judgements
    of one author's two responses, of responses without an author, and of authors beyond MOST_AUTHORS; length: what a
    standard deviation in length multiplies the odds by; model_judgements: those the model's ranks are from.
    """

    rows: list[Row]
    apart: list[tuple[str, int]]
    judgements: int
    prompts: int
    ties: int
    both_bad: int
    alike: int
    nameless: int
    rare: int
    length: Estimate | None
    model_judgements: int = 0

    @property
    def few_prompts(self) -> bool:
        return self.prompts < FEWEST_PROMPTS


@dataclass(frozen=True)
class _Duel:
    """A judged pair of two authors."""

    pair: int
    a: str
    b: str
    prompt: int
    length_a: int
    length_b: int
    votes: Votes


def board_of(project: Project, version: ModelVersion | None) -> Board:
    """The leaderboard, with the version's ranks beside. Two queries while labels stay the same, else seven at most."""
    state = labels_state(project)
    duels: list[_Duel] = []

    def read() -> list[_Duel]:
        if not duels:
            duels.extend(_duels(project, tallies(project, state)))
        return duels

    board = kept(f"authors:{state}", lambda: _by_people(read()))
    if version is None or not board.rows:
        return board
    names = [row.author for row in board.rows]
    found = kept(
        f"authors:{identity(version)}:{state}",
        lambda: _by_model(read(), names, preferences(version, state)),
    )
    return _beside(board, *found)


def _duels(project: Project, votes: Mapping[int, Votes]) -> list[_Duel]:
    """The judged pairs. Two queries, of narrow rows."""
    responses = Response.objects.of(project).annotate(length=Length("text"))
    about = {
        pk: (author, prompt, length)
        for pk, author, prompt, length in responses.values_list(
            "pk", "author", "prompt_id", "length"
        ).iterator(chunk_size=5000)
    }
    pairs = Pair.objects.of(project).filter(judged__gt=0).order_by("pk")
    found = []
    for pk, a, b in pairs.values_list("pk", "response_a_id", "response_b_id").iterator(chunk_size=5000):
        if pk in votes and a in about and b in about:
            (author_a, prompt, length_a), (author_b, _, length_b) = about[a], about[b]
            found.append(_Duel(pk, author_a, author_b, prompt, length_a, length_b, votes[pk]))
    return found


def _by_people(duels: Sequence[_Duel]) -> Board:
    nameless = sum(duel.votes.total for duel in duels if not (duel.a and duel.b))
    alike = sum(duel.votes.total for duel in duels if duel.a and duel.a == duel.b)
    between = [duel for duel in duels if duel.a and duel.b and duel.a != duel.b]
    counts: Counter[str] = Counter()
    for duel in between:
        counts[duel.a] += duel.votes.total
        counts[duel.b] += duel.votes.total
    known = {name for name, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MOST_AUTHORS]}
    among, names, apart = _comparable([duel for duel in between if duel.a in known and duel.b in known])
    rare = sum(duel.votes.total for duel in between if duel.a not in known or duel.b not in known)
    empty = Board([], [(name, counts[name]) for name in apart], 0, 0, 0, 0, alike, nameless, rare, None)
    if len(names) < 2:
        return empty
    battles = _battles(among, names)
    plain = strengths(battles, len(names), for_length=False)
    controlled = strengths(battles, len(names), for_length=True)
    votes = _votes_by_author(among)
    rows = [
        Row(name, votes[name], first, second)
        for name, first, second in zip(names, _standings(plain), _standings(controlled), strict=True)
    ]
    return replace(
        empty,
        rows=sorted(rows, key=lambda row: row.plain.rank),
        judgements=sum(duel.votes.total for duel in among),
        prompts=len({duel.prompt for duel in among}),
        ties=sum(duel.votes.tie for duel in among),
        both_bad=sum(duel.votes.both_bad for duel in among),
        length=controlled.length,
    )


def _by_model(
    duels: Sequence[_Duel], names: Sequence[str], preferred: Mapping[int, tuple[float, bool]]
) -> tuple[dict[str, Standing], int]:
    """Standings of the authors by what a model prefers where people judged, and from how many judgements."""
    known = set(names)
    fair = [
        duel
        for duel in duels
        if duel.a in known
        and duel.b in known
        and duel.a != duel.b
        and duel.pair in preferred
        and not preferred[duel.pair][1]
    ]
    among, ranked, _ = _comparable(fair)
    if len(ranked) < 2:
        return {}, 0
    battles = _battles(among, ranked)
    n = battles.wins + battles.ties + battles.losses
    share = np.array([preferred[duel.pair][0] for duel in among])
    said = replace(battles, wins=n * share, ties=np.zeros(len(n)), losses=n * (1 - share))
    standings = _standings(strengths(said, len(ranked), for_length=False))
    return dict(zip(ranked, standings, strict=True)), int(n.sum())


def _comparable(duels: Sequence[_Duel]) -> tuple[list[_Duel], list[str], list[str]]:
    """The duels of the largest group of authors that are compared with each other, its authors, and all others."""
    names = sorted({name for duel in duels for name in (duel.a, duel.b)})
    if not names:
        return [], [], []
    number = {name: index for index, name in enumerate(names)}
    a, b = (np.array([number[getattr(duel, side)] for duel in duels]) for side in "ab")
    first, *others = connected(a, b, len(names))
    ranked = {names[index] for index in first}
    apart = [names[index] for group in others for index in group]
    return [duel for duel in duels if duel.a in ranked], [name for name in names if name in ranked], apart


def _battles(duels: Sequence[_Duel], names: Sequence[str]) -> Battles:
    number = {name: index for index, name in enumerate(names)}
    _, prompt = np.unique([duel.prompt for duel in duels], return_inverse=True)

    def column(values: Iterable[float]) -> np.ndarray:
        return np.array(list(values), dtype=np.float64)

    return Battles(
        a=np.array([number[duel.a] for duel in duels]),
        b=np.array([number[duel.b] for duel in duels]),
        prompt=prompt,
        wins=column(duel.votes.a for duel in duels),
        ties=column(duel.votes.tie + duel.votes.both_bad for duel in duels),
        losses=column(duel.votes.b for duel in duels),
        length_a=column(duel.length_a for duel in duels),
        length_b=column(duel.length_b for duel in duels),
    )


def _votes_by_author(duels: Sequence[_Duel]) -> dict[str, Votes]:
    """Votes from each author's side."""
    sums: dict[str, list[int]] = {}
    for duel in duels:
        said = duel.votes
        for name, won, lost in ((duel.a, said.a, said.b), (duel.b, said.b, said.a)):
            total = sums.setdefault(name, [0, 0, 0, 0])
            total[0] += won
            total[1] += lost
            total[2] += said.tie
            total[3] += said.both_bad
    return {name: Votes(*total) for name, total in sums.items()}


def _standings(found: Strengths) -> list[Standing]:
    """In the authors' order. Equal strengths share no rank: the first named comes first."""
    order = sorted(range(len(found.elo)), key=lambda index: -found.elo[index].value)
    rank = {index: place for place, index in enumerate(order, start=1)}
    return [
        Standing(rank[index], best, worst, found.elo[index], found.against_average[index])
        for index, (best, worst) in enumerate(rank_range(found.elo))
    ]


def _beside(board: Board, standings: Mapping[str, Standing], judgements: int) -> Board:
    """The board with the model's standings beside the people's."""
    both = [row.author for row in board.rows if row.author in standings]
    people = {name: rank for rank, name in enumerate(both, start=1)}
    rows = [
        replace(
            row,
            model=standings.get(row.author),
            difference=people[row.author] - standings[row.author].rank if row.author in standings else None,
        )
        for row in board.rows
    ]
    return replace(board, rows=rows, model_judgements=judgements)


COLUMNS = [
    "author", "judgements", "won", "tie", "both_bad", "lost",
    "rank", "rank_best", "rank_worst", "elo", "elo_low", "elo_high", "against_average", "against_average_low",
    "against_average_high", "length_controlled_rank", "length_controlled_elo", "length_controlled_elo_low",
    "length_controlled_elo_high", "model", "model_rank", "model_elo", "model_elo_low", "model_elo_high",
    "rank_difference",
]  # fmt: skip


def csv_of(board: Board, version: ModelVersion | None) -> str:
    """The leaderboard as CSV: a row an author, empty where nothing is known."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)

    def numbers(estimate: Estimate | None, digits: int) -> list[float | None]:
        bounds = (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)
        return [None if bound is None else round(bound, digits) for bound in bounds]

    for row in board.rows:
        votes, plain, controlled, model = row.votes, row.plain, row.controlled, row.model
        writer.writerow(
            [
                safe_cell(row.author), votes.total, votes.a, votes.tie, votes.both_bad, votes.b,
                plain.rank, plain.best, plain.worst, *numbers(plain.elo, 1), *numbers(plain.against_average, 4),
                controlled.rank, *numbers(controlled.elo, 1),
                version.address if version and model else None, model.rank if model else None,
                *numbers(model.elo if model else None, 1), row.difference,
            ]
        )  # fmt: skip
    return text.getvalue()
