"""The parser, the rule and the votes, by tables, and the parser by what hypothesis makes up."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rewards.generative.judge import (
    Joint,
    Parsed,
    Target,
    correct,
    median_vote,
    parse,
    vote_distribution,
)
from workers.rewards.scale import Partition

FORM = """\
Principles:
1. Truth (70%): no false claim.
2. Tone (30%): kind.

Critique of Response 1:
True, but it says \\boxed{9, 9} of itself.

Critique of Response 2:
Response 2 is kind.
It is wrong.

Scores: \\boxed{7, 3}"""
MARKDOWN = """\
### **Principles**
- Truth (weight 100%)

### Critique of Response 1
Fine.
**Response 2:** Wrong.
**Final Scores**
\\boxed{ 6 ,\t2 }
That is all."""


# --- What a text says ---


def test_a_text_in_the_form_gives_scores_principles_and_a_critique_each() -> None:
    assert parse(FORM, 2) == Parsed(
        (7, 3),
        "",
        "1. Truth (70%): no false claim.\n2. Tone (30%): kind.",
        ("True, but it says \\boxed{9, 9} of itself.", "Response 2 is kind.\nIt is wrong."),
    )
    assert parse(MARKDOWN, 2) == Parsed((6, 2), "", "- Truth (weight 100%)", ("Fine.", "Wrong."))


@pytest.mark.parametrize(
    ("text", "n", "scores"),
    [
        ("\\boxed{7}", 1, (7,)),
        ("\\boxed{7,3}", 2, (7, 3)),
        ("\\boxed{ 7 , 3 }\n", 2, (7, 3)),
        ("\\boxed{1, 2, 3, 4}", 4, (1, 2, 3, 4)),
        ("\\boxed{9, 9} was claimed. \\boxed{2, 8}", 2, (2, 8)),
        ("$\\boxed{5, 5}$. So be it.", 2, (5, 5)),
    ],
)
def test_the_last_box_counts(text: str, n: int, scores: Any) -> None:
    assert parse(text, n).scores == scores
    assert parse(text, n).reason == ""


@pytest.mark.parametrize(
    ("text", "n", "reason"),
    [
        ("", 1, "no \\boxed"),
        ("7, 3", 2, "no \\boxed"),
        ("\\boxed {7, 3}", 2, "no \\boxed"),
        ("\\boxed{7, 3", 2, "not closed"),
        ("\\boxed{7, 3} \\boxed{", 2, "not closed"),
        ("\\boxed{7, " + " " * 500 + "3}", 2, "not closed"),
        ("\\boxed{7}", 2, "holds 1 scores for 2 responses"),
        ("\\boxed{7, 3, 5}", 2, "holds 3 scores"),
        ("\\boxed{7, 3}", 1, "holds 2 scores for 1 response"),
        ("\\boxed{0, 3}", 2, "0, which lies outside"),
        ("\\boxed{10, 3}", 2, "10, which lies outside"),
        ("\\boxed{07, 3}", 2, "07, which lies outside"),
        ("\\boxed{7.5, 3}", 2, "'7.5', which is no whole number"),
        ("\\boxed{-7, 3}", 2, "'-7'"),
        ("\\boxed{x, y}", 2, "'x'"),
        ("\\boxed{\u0667, 3}", 2, "no whole number"),  # a digit in Arabic
        ("\\boxed{7/9, 3/9}", 2, "no whole number"),
        ("\\boxed{7 3}", 2, "no whole number"),
        ("\\boxed{7,, 3}", 3, "'', which is no whole number"),
        ("\\boxed{}", 1, "''"),
        ("\\boxed{7, 3} then \\boxed{seven}", 2, "'seven'"),
    ],
)
def test_everything_else_is_refused_with_the_reason(text: str, n: int, reason: str) -> None:
    parsed = parse(text, n)
    assert parsed.scores is None
    assert reason in parsed.reason


def test_a_text_that_was_cut_off_is_refused_since_its_last_box_may_be_a_quotation() -> None:
    parsed = parse("Critique of Response 1:\nIt says \\boxed{9}", 1, finished=False)
    assert parsed.scores is None
    assert "cut off" in parsed.reason


def test_headings_count_in_their_turn_so_that_a_quoted_one_moves_no_bounds() -> None:
    text = "Critique of Response 2:\nquoted\nCritique of Response 1:\nown\nResponse 1:\nquoted\nResponse 2:\nlast"
    assert parse(text, 2).critiques == ("own\nResponse 1:\nquoted", "last")


@pytest.mark.parametrize(
    "hostile",
    [
        "\\boxed{",
        "\\boxed{1,",
        "\n        ",
        "#",
        " ",
        "\nresponse 1",
        "\nResponse 1:\n",
        "\n#*_",
        "principles\n",
    ],
)
def test_a_huge_text_takes_linear_time(hostile: str) -> None:
    started = time.process_time()
    parse(hostile * (1_000_000 // len(hostile)), 2)
    assert time.process_time() - started < 2


@settings(max_examples=80, deadline=None)
@given(st.text() | st.text("\\boxed{}0123456789, \nResponse:"), st.integers(1, 4), st.booleans())
def test_the_parser_takes_n_whole_numbers_or_nothing(text: str, n: int, finished: bool) -> None:
    for given_text in (text, text + "\\boxed{" + text + "}"):
        parsed = parse(given_text, n, finished)
        assert len(parsed.critiques) == n
        assert (parsed.scores is None) == bool(parsed.reason)
        if parsed.scores is not None:
            assert finished
            assert len(parsed.scores) == n
            assert all(type(score) is int and 1 <= score <= 9 for score in parsed.scores)
            box = given_text[given_text.rindex("\\boxed{") + 7 :].partition("}")[0]
            assert [int(part) for part in box.split(",")] == list(parsed.scores)


_LINES = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=20).filter(
    lambda line: "boxed" not in line.lower() and line == line.strip()
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(_LINES, st.integers(1, 9)), min_size=1, max_size=4), _LINES)
def test_what_is_written_in_the_form_is_read_back(said: list[tuple[str, int]], principle: str) -> None:
    critiques = "\n\n".join(
        f"Critique of Response {number}:\nIt says {line}" for number, (line, _) in enumerate(said, 1)
    )
    scores = tuple(score for _, score in said)
    text = f"Principles:\n1. {principle}\n\n{critiques}\n\nScores: \\boxed{{{', '.join(map(str, scores))}}}"
    parsed = parse(text, len(said))
    assert parsed == Parsed(scores, "", f"1. {principle}", tuple(f"It says {line}" for line, _ in said))


# --- Whether it is right ---

A, B, T, X = (tuple(float(place == at) for place in range(4)) for at in range(4))  # a, b, tie, both bad


@pytest.mark.parametrize(
    ("kind", "shares", "scores", "reward"),
    [
        ("pair", A, (7, 3), 1),
        ("pair", A, (3, 7), -1),
        ("pair", A, (7, 7), -1),  # strictly the highest
        ("pair", B, (1, 2), 1),
        ("pair", B, (9, 8), -1),
        ("pair", T, (5, 5), 1),
        ("pair", T, (5, 6), -1),
        ("pair", X, (3, 1), 1),
        ("pair", X, (2, 2), 1),
        ("pair", X, (3, 4), -1),
        ("pair", X, (5, 5), -1),
        # several annotators: twice the share that agrees, less one
        ("pair", (0.75, 0.25, 0, 0), (7, 3), 0.5),
        ("pair", (0.75, 0.25, 0, 0), (3, 7), -0.5),
        ("pair", (0.75, 0.25, 0, 0), (5, 5), -1),
        ("pair", (0.5, 0, 0.5, 0), (5, 5), 0),
        ("pair", (0.5, 0, 0, 0.5), (3, 2), 1),  # both bad, and a the better of the two
        ("pair", (0.5, 0, 0, 0.5), (7, 2), 0),
        ("pair", (0, 0, 0.25, 0.75), (1, 1), 1),
        ("best", (0, 1, 0), (3, 5, 4), 1),
        ("best", (0, 1, 0), (3, 5, 5), -1),
        ("best", (0, 1, 0, 0), (6, 5, 1, 2), -1),
        ("level", (1, 0, 0), (3,), 1),
        ("level", (1, 0, 0), (4,), -1),
        ("level", (0, 1, 0), (4,), 1),
        ("level", (0, 0, 1), (7,), 1),
        ("level", (0, 0.25, 0.75), (9,), 0.5),
        ("level", (0, 0.25, 0.75), (5,), -0.5),
        ("level", (0, 0.25, 0.75), (1,), -1),
        *(
            (kind, shares, None, -1)
            for kind, shares in (("pair", T), ("best", (1, 0, 0)), ("level", (0, 1, 0)))
        ),
    ],
)
def test_the_rule(kind: str, shares: Any, scores: Any, reward: float) -> None:
    assert correct(scores, Target(kind, shares), Partition()) == pytest.approx(reward)


def test_bands_follow_the_partition() -> None:
    assert correct((3,), Target("level", (0, 1, 0)), Partition(2, 7)) == 1
    assert correct((3, 2), Target("pair", X), Partition(2, 7)) == -1


@pytest.mark.parametrize(
    ("kind", "shares", "best", "decided"),
    [
        ("pair", A, 0, True),
        ("pair", B, 1, True),
        ("pair", T, None, True),
        ("pair", X, None, True),
        ("pair", (0.5, 0.5, 0, 0), None, False),
        ("pair", (0.4, 0.3, 0.3, 0), None, False),
        ("pair", (0.5, 0, 0, 0.5), None, True),
        ("best", (0, 0, 1), 2, True),
        ("level", (0.5, 0.5, 0), None, False),
        ("level", (0, 0.4, 0.6), None, True),
    ],
)
def test_who_is_best_and_whether_any_scores_would_be_right(
    kind: str, shares: Any, best: int | None, decided: bool
) -> None:
    target = Target(kind, shares)
    assert (target.best, target.decided) == (best, decided)
    possible = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    if kind == "pair":
        assert (max(correct(scores, target, Partition()) for scores in possible) > 0) == decided


def test_a_target_turns_with_its_responses() -> None:
    pair = Target("pair", (0.6, 0.1, 0.2, 0.1))
    assert pair.shown((1, 0)).shares == (0.1, 0.6, 0.2, 0.1)
    assert Target("best", (0.0, 0.0, 1.0)).shown((2, 0, 1)).shares == (1.0, 0.0, 0.0)
    level = Target("level", (0.0, 1.0, 0.0))
    assert level.shown((0,)) == level


# --- What votes amount to ---


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=64))
def test_a_distribution_of_votes_sums_to_one_and_orders_as_their_sum(ratings: list[int]) -> None:
    p = vote_distribution(ratings)
    assert sum(p) == pytest.approx(1)
    assert min(p) > 0
    mean = sum(rating * share for rating, share in enumerate(p, 1))
    assert mean == pytest.approx((sum(ratings) + 5) / (len(ratings) + 1))


def test_votes_are_smoothed_by_one_vote_for_all_ratings() -> None:
    assert vote_distribution([7, 7, 8]) == pytest.approx([1 / 36] * 6 + [19 / 36, 10 / 36, 1 / 36])
    assert vote_distribution([]) == pytest.approx([1 / 9] * 9)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=64))
def test_joint_votes_share_one_between_a_tie_and_b(votes: list[tuple[int, int]]) -> None:
    joint = Joint()
    for a, b in votes:
        joint = joint.voted(a, b)
    assert joint.n == len(votes)
    assert joint.a + joint.tie + joint.b == pytest.approx(1)
    assert joint.preferred == pytest.approx(joint.a + joint.tie / 2)
    assert joint.turned().preferred == pytest.approx(1 - joint.preferred)
    assert joint.turned().turned() == joint


def test_joint_votes_know_what_the_product_of_marginals_forgets() -> None:
    """METHODS section 9: scores that rise and fall together, a always one above b: joint 1.00, product .68."""
    votes = [(rating + 1, rating) for rating in (3, 4, 5, 6, 7)] * 2_000
    joint = Joint()
    for a, b in votes:
        joint = joint.voted(a, b)
    p_a, p_b = (vote_distribution(side) for side in zip(*votes, strict=True))
    wins = sum(p_a[i] * p_b[j] for i in range(9) for j in range(i))
    ties = sum(p_a[i] * p_b[i] for i in range(9))
    assert joint.preferred == pytest.approx(1, abs=1e-3)
    assert wins + ties / 2 == pytest.approx(0.68, abs=1e-3)


def test_the_median_vote_is_one_that_was_given() -> None:
    assert median_vote([9, 1, 5]) == 2
    assert median_vote([9, 1, 5, 6]) == 2
    assert median_vote([4]) == 0
    assert median_vote([7, 7, 7]) == 0
