"""Rows of public benchmarks, in the form in which they are published; and rows that nobody would publish."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.rewards.data import tables
from workers.rewards.data.benchmarks import Benchmark, read_benchmarks, subset_counts
from workers.rewards.data.near_duplicates import near_duplicates
from workers.rewards.data.responses import BadInput

Row = dict[str, Any]
Q = [{"role": "user", "content": "Why?"}]

REWARDBENCH = {"prompt": "Why?", "chosen": "good", "chosen_model": "m", "rejected": "bad", "rejected_model": "n",
               "subset": "alpacaeval-easy", "id": 1}  # fmt: skip
REWARDBENCH2 = {"id": "3", "prompt": "Why?", "chosen": ["good"], "rejected": ["a", "b", "c"], "num_correct": 1,
                "num_incorrect": 3, "total_completions": 4, "models": ["m"], "subset": "Math",
                "additional_metadata": None}  # fmt: skip
TIES = {**REWARDBENCH2, "id": "tied:7", "chosen": ["red", "blue"], "rejected": ["seven"], "num_correct": 2,
        "subset": "Ties"}  # fmt: skip
RMBENCH = {
    "id": "1",
    "prompt": "Why?",
    "chosen": ["c1", "c2", "c3"],
    "rejected": ["r1", "r2", "r3"],
    "domain": "chat",
}
RMB_BEST = {"conversation_input": [{"content": "Why?", "language": "English", "role": "user"}],
            "bon_best": {"llm_name": "m", "answer": "good"}, "bon_uid": "8",
            "loser_list": [{"llm_name": "n", "answer": "bad"}, {"llm_name": "o", "answer": "worse"}],
            "category_path": "BoN_set/Helpfulness/Translation/Technical and Scientific Translation"}  # fmt: skip
RMB_PAIR = {"conversation_input": [{"content": "Why?", "role": "user"}], "chosen": {"answer": "good"},
            "reject": {"answer": "bad"}, "pair_uid": "9", "category_path": "Pairwise_set/Harmlessness/S1"}  # fmt: skip
JUDGEBENCH = {"pair_id": "x", "original_id": "1", "source": "mmlu-pro-computer science", "question": "Why?",
              "response_model": "gpt-4o", "response_A": "bad", "response_B": "good", "label": "B>A"}  # fmt: skip
PPE_HUMAN = {"question_id": "q", "prompt": "Why?", "response_1": "bad", "response_2": "good", "model_a": "m",
             "model_b": "n", "winner": "model_b", "language": "English", "hard_prompt": True,
             "is_code": False}  # fmt: skip
PPE_CORRECT = {"question_id": "q", "Record ID": "r", "prompt": "Why?", "scores": [False, True, True],
               "sampled_conflict_pairs": [[0, 1], [2, 0]],
               **{f"response_{n}": f"r{n}" for n in (1, 2, 3)}}  # fmt: skip
BEST_OF_N = {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [1, 3, 3]}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(tmp_path: Path, *rows: Any, name: str = "set.jsonl") -> Benchmark:
    (found,) = read_benchmarks([lines(tmp_path / name, *rows)])
    return found


@pytest.mark.parametrize(
    ("row", "format", "responses", "subsets", "pairs", "compare"),
    [
        (REWARDBENCH, "rewardbench", ("good", "bad"), ("alpacaeval-easy",), ((0, 1),), "pairs"),
        (REWARDBENCH2, "rewardbench2", ("good", "a", "b", "c"), ("Math",), (), "best"),
        (TIES, "rewardbench2", ("red", "blue", "seven"), ("Ties",), (), "ties"),
        (RMBENCH, "rmbench", ("c1", "c2", "c3", "r1", "r2", "r3"), ("chat",), (), "grid"),
        (RMB_BEST, "rmb", ("good", "bad", "worse"),
         ("Helpfulness/best of n", "Helpfulness/best of n/Translation"), (), "best"),
        (RMB_PAIR, "rmb", ("good", "bad"), ("Harmlessness/pairs", "Harmlessness/pairs/S1"), ((0, 1),), "pairs"),
        (JUDGEBENCH, "judgebench", ("good", "bad"), ("Knowledge", "mmlu-pro-computer science"), ((0, 1),), "pairs"),
        (PPE_HUMAN, "ppe_human", ("good", "bad"), ("language: English", "hard_prompt"), ((0, 1),), "pairs"),
        (PPE_CORRECT, "ppe_correctness", ("r1", "r2", "r3"), ("GPQA",), ((1, 0), (2, 0)), "pairs"),
        (BEST_OF_N, "best_of_n", ("a", "b", "c"), ("set",), ((1, 0), (2, 0)), "pairs"),
        ({"prompt": "Why?", "chosen": "good", "rejected": "bad"}, "preference", ("good", "bad"), ("set",), ((0, 1),),
         "pairs"),
    ],
)  # fmt: skip
def test_a_row_of_each_benchmark(
    row: Row,
    format: str,
    responses: tuple[str, ...],
    subsets: tuple[str, ...],
    pairs: Any,
    compare: str,
    tmp_path: Path,
) -> None:
    found = only(tmp_path, row)
    assert (found.format, found.refused, found.ties) == (format, [], 0)
    (item,) = found.items
    assert item.messages == Q
    assert (item.responses, item.subsets, item.pairs, item.compare) == (responses, subsets, pairs, compare)


def test_what_a_response_is_worth(tmp_path: Path) -> None:
    assert only(tmp_path, TIES).items[0].gold == (1, 1, 0)
    assert only(tmp_path, PPE_CORRECT).items[0].gold == (0, 1, 1)
    assert only(tmp_path, BEST_OF_N).items[0].gold == (1, 3, 3)


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": Q, "chosen": "good", "rejected": "bad"}, Q),
        ({"chosen": [*Q, {"role": "assistant", "content": "good"}],
          "rejected": [*Q, {"role": "assistant", "content": "bad"}]}, Q),
        ({"prompt": "Why?", "chosen": [{"role": "assistant", "content": "good"}],
          "rejected": [{"role": "assistant", "content": "bad"}]}, Q),
        ({"chosen": "\n\nHuman: Why?\n\nAssistant: good", "rejected": "\n\nHuman: Why?\n\nAssistant: bad"}, Q),
        ({"chosen": "good", "rejected": "bad"}, []),
    ],
)  # fmt: skip
def test_preferences_are_written_in_many_ways(row: Row, messages: Any, tmp_path: Path) -> None:
    (item,) = only(tmp_path, row).items
    assert (item.messages, item.responses) == (messages, ("good", "bad"))


def test_files_of_one_benchmark_are_one_whatever_they_are_written_as(tmp_path: Path) -> None:
    array = tmp_path / "S1.json"
    array.write_text(json.dumps([RMB_PAIR, RMB_PAIR]))
    packed = tmp_path / "S2.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(RMB_BEST) + "\n").encode()))
    parquet = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist([PPE_CORRECT]), parquet)
    cells = tmp_path / "trl.csv"
    cells.write_text('prompt,chosen,rejected\nWhy?,"good, very",bad\n')
    rmb, ppe, trl = read_benchmarks([array, packed, parquet, cells])
    assert [one.format for one in (rmb, ppe, trl)] == ["rmb", "ppe_correctness", "preference"]
    assert subset_counts(rmb.items) == {
        "Harmlessness/pairs": 2, "Harmlessness/pairs/S1": 2,
        "Helpfulness/best of n": 1, "Helpfulness/best of n/Translation": 1,
    }  # fmt: skip
    assert ppe.items[0].pairs == ((1, 0), (2, 0))
    assert trl.items[0].responses == ("good, very", "bad")


def test_people_who_call_two_equal_say_nothing_of_an_order(tmp_path: Path) -> None:
    found = only(
        tmp_path, PPE_HUMAN, {**PPE_HUMAN, "winner": "tie"}, {**PPE_HUMAN, "winner": "tie (bothbad)"}
    )
    assert (len(found.items), found.ties) == (1, 2)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**REWARDBENCH, "chosen": None}, "chosen and rejected must both be texts"),
        ({**REWARDBENCH, "subset": 3}, "subset must be a text, not 3"),
        ({**REWARDBENCH, "prompt": " "}, "prompt must be a text or a list of messages"),
        ({**REWARDBENCH, "chosen": "half \ud83d"}, "responses[0] holds half a character"),
        ({**REWARDBENCH, "chosen": "x" * 300_000}, "chosen has 300,000 characters, of 262,144 allowed"),
        ({**REWARDBENCH, "prompt": [{"role": "user", "content": [{"type": "image"}]}]}, "content is a list of parts"),
    ],
)  # fmt: skip
def test_a_row_that_can_not_be_read_costs_no_other(row: Row, words: str, tmp_path: Path) -> None:
    found = only(tmp_path, REWARDBENCH, row, REWARDBENCH)
    assert len(found.items) == 2
    (refusal,) = found.refused
    assert refusal.startswith("set.jsonl line 2: ")
    assert words in refusal


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**TIES, "id": "7"}, 'id must be "ref:N" or "tied:N"'),
        ({**RMBENCH, "chosen": ["one"]}, "must hold 3 texts each"),
        ({**RMB_BEST, "loser_list": []}, "loser_list must be a list of answers"),
        ({**RMB_PAIR, "reject": "bad"}, 'reject must be an object with the text "answer"'),
        ({**JUDGEBENCH, "label": "A=B"}, 'label must be "A>B" or "B>A"'),
        ({**PPE_HUMAN, "winner": "me"}, "winner must be"),
        ({**PPE_CORRECT, "scores": [True]}, "scores must be a list of 3 numbers"),
        ({**PPE_CORRECT, "sampled_conflict_pairs": [[0, 3]]}, "must be pairs of places from 0 to 2"),
        ({**BEST_OF_N, "scores": [1, float("nan"), 2]}, "scores must be a list of 3 numbers"),
        ({**BEST_OF_N, "responses": ["a"], "scores": [1]}, "it has 1 responses"),
        ({**BEST_OF_N, "scores": [1, 1, 1]}, "call all responses of each prompt equal"),
        ({"text": "x"}, "no benchmark has the columns 'text'; give prompt, chosen and rejected"),
        ([1], "must be an object"),
    ],
)  # fmt: skip
def test_a_file_without_a_row_that_counts_is_refused(row: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        only(tmp_path, row)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"", "a.jsonl", "holds no row"),
        (b"\xff\xfe{\x00", "a.jsonl", "UTF-16"),
        (b"[" * 100_000, "a.json", "nested too deeply"),
        (b"[1,", "a.json", "is not JSON"),
        (b'[{"prompt": "a", "prompt": "b"}]', "a.json", "stands twice"),
        (b"\x1f\x8bnot gzip", "a.jsonl.gz", "can't be read"),
        (b"PAR1 and no more", "a.parquet", "can't be read"),
        (b"PK\x03\x04...", "a.zip", "is a zip; unpack it"),
        (gzip.compress(b" " * 5000, mtime=0), "a.jsonl.gz", "is larger than"),
        (b'{"chosen": "a", "rejected": "b"}\n' * 6, "a.jsonl", "more than 5 rows"),
        (b"prompt,chosen,rejected\na,b\n", "a.csv", "not as many cells as the header"),
    ],
)  # fmt: skip
def test_hostile_files(
    data: bytes, name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "larger" in words:
        monkeypatch.setattr(tables, "MAX_BYTES", 4000)
    if "rows" in words:
        monkeypatch.setattr(tables, "MAX_ROWS", 5)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadInput, match=words):
        read_benchmarks([path])


def test_prompts_near_those_of_the_training() -> None:
    long = "please explain to me in a few plain words how a plant turns light into sugar every day"

    def said(text: str) -> list[Row]:
        return [{"role": "user", "content": text}]

    trained = [said("Why?"), said(f"Hello, {long.upper()}")]
    prompts = [
        said("why ?"),
        said(f"Now {long}!"),
        said("please explain to me in a few plain words"),
        said("How?"),
        [],
    ]
    assert near_duplicates(prompts, trained) == [True, True, False, False, False]


@pytest.mark.parametrize("seed", range(2))
def test_odd_values_cost_their_row_at_most(seed: int, tmp_path: Path) -> None:
    """Any value anywhere in a row: it is read, or refused in words."""
    rng = random.Random(seed)
    rows = [
        REWARDBENCH,
        REWARDBENCH2,
        TIES,
        RMBENCH,
        RMB_BEST,
        RMB_PAIR,
        JUDGEBENCH,
        PPE_HUMAN,
        PPE_CORRECT,
        BEST_OF_N,
    ]
    for _ in range(300):
        good = rng.choice(rows)
        path = lines(tmp_path / "set.jsonl", good, *(odd(good, rng) for _ in range(3)))
        (found,) = read_benchmarks([path])
        assert len(found.items) + len(found.refused) + found.ties == 4
        assert json.dumps([item.responses for item in found.items], ensure_ascii=False).encode()


ODD = [None, "", 0, True, [], [None], ["x", 3], {}, {"answer": None}, [{"role": "user"}], "\ud800", [[0, "a"]],
       float("nan"), 10**400, [10**400, 1, 2], "tied:3"]  # fmt: skip


def odd(value: Any, rng: random.Random) -> Any:
    """The value with something in it taken away or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        rest = {key: one for key, one in value.items() if key != name}
        return rest if rng.random() < 0.2 else {**rest, name: odd(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.5:
        place = rng.randrange(len(value))
        return [*value[:place], odd(value[place], rng), *value[place + 1 :]]
    return rng.choice(ODD)
