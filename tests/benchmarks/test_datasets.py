"""The loaders on the real files of ../shared/data; each test is skipped where its file is absent."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from benchmarks import datasets
from benchmarks.datasets import DATA, Rows

LOADERS: dict[str, Callable[[], Rows]] = {
    "ukp_convarg1/strict.jsonl.gz": datasets.load_ukp_strict,
    "ukp_convarg1/pairs.jsonl.gz": datasets.load_ukp_votes,
    "pl_humor/pairs.csv": datasets.load_pl_humor,
    "qa_feedback/dev_feedback.json": datasets.load_qa_feedback,
    "hh_rlhf/harmless_test.jsonl.gz": datasets.load_hh_rlhf,
    "mlqe_pe/ro-en-train.tar.gz": lambda: datasets.load_mlqe("ro-en"),
    "mlqe_pe/en-de-train.tar.gz": lambda: datasets.load_mlqe("en-de"),
    "pandalm/testset-v1.json": datasets.load_pandalm,
    "autoj/autoj_pairwise.json": datasets.load_autoj,
}
COUNTS = {  # responses, judgements, levels, groups
    "ukp_convarg1/strict.jsonl.gz": (1038, 11650, 0, 16),
    "ukp_convarg1/pairs.jsonl.gz": (1052, 84445, 0, 16),
    "qa_feedback/dev_feedback.json": (2000, 3000, 0, 500),
    "hh_rlhf/harmless_test.jsonl.gz": (4624, 2312, 0, 2178),
    "pandalm/testset-v1.json": (1986, 2979, 0, 170),
    "autoj/autoj_pairwise.json": (2784, 1392, 0, 1182),
}


def loaded(name: str) -> Rows:
    if not (DATA / name).is_file():
        pytest.skip(f"{DATA / name} is absent")
    return _load(name)


@cache
def _load(name: str) -> Rows:
    return LOADERS[name]()


@pytest.mark.parametrize("name", LOADERS)
def test_rows_are_whole_and_groups_hold_every_pair(name: str) -> None:
    rows = loaded(name)
    if name in COUNTS:
        assert (len(rows.responses), len(rows.judgements), len(rows.levels), len(rows.groups)) == COUNTS[name]
    by_id = {row["response_id"]: row for row in rows.responses}
    assert len(by_id) == len(rows.responses)
    assert all(isinstance(row["text"], str) for row in rows.responses)
    assert {row["verdict"] for row in rows.judgements} <= {"a", "b", "tie"}
    assert {row["level"] for row in rows.levels} <= {"bad", "normal", "good"}
    for row in rows.judgements:
        assert row["response_a"] != row["response_b"]
        a, b = by_id[row["response_a"]]["group"], by_id[row["response_b"]]["group"]
        # pl_humor's groups are buckets of texts: a pair stays on one side of the split instead
        assert a == b or (name.startswith("pl_humor") and a[:5] == b[:5])
    assert all(row["response_id"] in by_id for row in rows.levels)


def test_ukp_votes_keep_every_annotator_and_verdict() -> None:
    rows = loaded("ukp_convarg1/pairs.jsonl.gz")
    assert Counter(row["verdict"] for row in rows.judgements) == {"a": 32849, "b": 32491, "tie": 19105}
    assert len({row["annotator"] for row in rows.judgements}) == 3815


def test_qa_feedback_judges_six_pairs_of_four_answers() -> None:
    rows = loaded("qa_feedback/dev_feedback.json")
    first = [(row["response_a"][-1], row["response_b"][-1], row["verdict"]) for row in rows.judgements[:6]]
    assert first == [
        ("1", "2", "tie"),
        ("1", "3", "a"),
        ("1", "4", "b"),
        ("2", "3", "a"),
        ("2", "4", "tie"),
        ("3", "4", "b"),
    ]
    assert sum(row["verdict"] == "tie" for row in rows.judgements) == 384


def test_pl_humor_never_joins_the_two_sides_and_subsamples_whole_pairs() -> None:
    whole = loaded("pl_humor/pairs.csv")
    side = {row["response_id"]: row["group"].split("-")[0] for row in whole.responses}
    sides = Counter(side[row["response_a"]] for row in whole.judgements)
    assert 45_000 < sides["train"] < 65_000
    assert 7_000 < sides["held"] < 14_000
    few = datasets.load_pl_humor(pairs=500)
    pairs = {frozenset((row["response_a"], row["response_b"])) for row in few.judgements}
    votes = Counter(frozenset((row["response_a"], row["response_b"])) for row in whole.judgements)
    assert len(pairs) == 500
    assert sum(votes[pair] for pair in pairs) == len(few.judgements)
    a_wins = sum(row["verdict"] == "a" for row in whole.judgements) / len(whole.judgements)
    assert abs(a_wins - 0.5) < 0.02  # the file names the winner first: the side must not tell


def test_hh_rlhf_prompt_is_what_both_transcripts_share() -> None:
    rows = loaded("hh_rlhf/harmless_test.jsonl.gz")
    first, second = rows.responses[:2]
    assert first["messages"] == second["messages"]
    assert [message["role"] for message in first["messages"]] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert first["text"].startswith("No, sorry!")
    assert sum(row["messages"][-1]["role"] != "user" for row in rows.responses if row["messages"]) <= 10
    verdicts = Counter(row["verdict"] for row in rows.judgements)
    assert verdicts["a"] == verdicts["b"]


@pytest.mark.parametrize("pair", ["ro-en", "en-de"])
def test_mlqe_levels_are_terciles_and_verdicts_follow_the_means(pair: str) -> None:
    rows = loaded(f"mlqe_pe/{pair}-train.tar.gz")
    assert len(rows.responses) == 9000
    assert len(rows.groups) > 40
    shares = Counter(row["level"] for row in rows.levels)
    assert all(0.2 < shares[level] / len(rows.levels) < 0.45 for level in ("bad", "normal", "good"))
    value = {"bad": 0, "normal": 1, "good": 2}
    of: dict[str, list[int]] = {}
    for row in rows.levels:
        of.setdefault(row["response_id"], []).append(value[row["level"]])
    assert Counter(len(levels) for levels in of.values())[3] > 6000
    for row in rows.judgements:
        if max(of[row["response_a"]]) < min(of[row["response_b"]]):
            assert row["verdict"] in ("b", "tie")


def test_mlqe_strengths_are_terciles_of_the_gaps_that_decide() -> None:
    loaded("mlqe_pe/ro-en-train.tar.gz")  # skips without the data
    rows = datasets.load_mlqe("ro-en", strengths=True)
    tied = [row for row in rows.judgements if row["verdict"] == "tie"]
    assert tied
    assert not any("strength" in row for row in tied)
    counts = Counter(row["strength"] for row in rows.judgements if row["verdict"] != "tie")
    assert sorted(counts) == [1, 2, 3]
    assert max(counts.values()) - min(counts.values()) < 0.02 * counts.total()
    plain = datasets.load_mlqe("ro-en").judgements
    assert [row["verdict"] for row in rows.judgements] == [row["verdict"] for row in plain]


def test_mlqe_keeps_quotes_as_characters() -> None:
    rows = loaded("mlqe_pe/en-de-train.tar.gz")
    assert any(row["text"].count('"') == 1 for row in rows.responses)
    assert all("\t" not in row["text"] for row in rows.responses)


def test_votes_replace_strict_verdicts_in_training_debates_alone() -> None:
    if not (DATA / "ukp_convarg1").is_dir():
        pytest.skip(f"{DATA / 'ukp_convarg1'} is absent")
    strict = datasets.load_ukp_strict()
    held_out = frozenset(strict.groups[:2])
    mixed = datasets.vote_inside(strict, held_out, 1.0, seed=0)
    group = {row["response_id"]: row["group"] for row in mixed.responses}
    outside = [row for row in mixed.judgements if group[row["response_a"]] in held_out]
    assert [
        {**row, "annotator": "strict"} for row in strict.judgements if group[row["response_a"]] in held_out
    ] == outside
    inside = [row for row in mixed.judgements if group[row["response_a"]] not in held_out]
    votes = datasets.load_ukp_votes().judgements
    assert 60_000 < len(inside) < len(votes)
    assert {row["verdict"] for row in inside} == {"a", "b", "tie"}
    assert all(row["response_a"] != row["response_b"] for row in mixed.judgements)
    assert {row[side] for row in mixed.judgements for side in ("response_a", "response_b")} <= set(group)
    # ids of the strict pairs stand for the same texts in the votes: people mostly say what the cleaned verdict says
    cleaned = {(row["response_a"], row["response_b"]): row["verdict"] for row in strict.judgements}
    same = [
        row["verdict"] == cleaned[pair]
        for row in inside
        if (pair := (row["response_a"], row["response_b"])) in cleaned
    ]
    assert sum(same) / len(same) > 0.7
