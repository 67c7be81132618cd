"""Reading files and rows: every format, every way in which a row or a file is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from webapp.importing import jsontext
from webapp.importing.fields import RowError
from webapp.importing.reading import ImportRefused, Problem, Source, rows
from webapp.importing.shapes import (
    PARSERS,
    LevelRecord,
    PairRecord,
    PromptRecord,
    ResponseRecord,
    VoteRecord,
    format_of,
    recognise,
    records,
)


def file(tmp_path: Path, name: str, data: str | bytes) -> Source:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return Source(path, name)


def problems(source: Source) -> list[Problem]:
    return [row for _, row in rows(source) if isinstance(row, Problem)]


def parse(name: str, row: dict[str, Any]) -> list[Any]:
    return PARSERS[name](row)


def refused(name: str, row: dict[str, Any]) -> RowError:
    with pytest.raises(RowError) as caught:
        parse(name, row)
    return caught.value


# Files


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b'\xef\xbb\xbf{"x": 1}\n\n{"x": 2}'),
        ("a.json", b'\xef\xbb\xbf [ {"x": 1},\n {"x": 2} ]\n'),
        ("a.csv", b'\xef\xbb\xbfx\r\n1\r\n"2"\r\n'),
        ("a.jsonl.gz", gzip.compress(b'{"x": 1}\n{"x": 2}\n', mtime=0)),
        ("a.json.gz", gzip.compress(b'[{"x": 1}, {"x": 2}]', mtime=0)),
    ],
    # Without names the bytes are the name, and gzip writes the time into them: xdist's workers collect at
    # different seconds and must agree on every name.
    ids=["jsonl", "json", "csv", "jsonl.gz", "json.gz"],
)
def test_reads_every_container_with_a_byte_order_mark(tmp_path: Path, name: str, data: bytes) -> None:
    found = [row for _, row in rows(file(tmp_path, name, data))]
    assert [int(row["x"]) for row in found if isinstance(row, dict)] == [1, 2]


def test_numbers_lines_of_jsonl_and_reports_bad_ones(tmp_path: Path) -> None:
    deep = "[" * 100_000
    source = file(
        tmp_path,
        "a.jsonl",
        b'{"x": 1}\nnonsense\n\n[1]\n{"x": "\xff"}\n{"x": NaN}\n' + deep.encode() + b'\n{"x": 2}\n',
    )
    found = list(rows(source))
    assert [number for number, _ in found] == [1, 2, 4, 5, 6, 7, 8]
    assert [problem.row for problem in problems(source)] == [2, 4, 5, 7]
    assert "not JSON" in problems(source)[0].message
    assert "UTF-8" in problems(source)[2].message


def test_a_json_list_is_streamed_across_buffer_borders(tmp_path: Path) -> None:
    values = [{"n": n, "text": "ü" * 997} for n in range(3000)]
    source = file(tmp_path, "a.json", json.dumps(values, ensure_ascii=False, indent=1))
    assert [row for _, row in rows(source)] == values


def test_a_list_that_breaks_off_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="element 2"):
        list(rows(file(tmp_path, "a.json", '[{"x": 1}, {"x": ')))
    with pytest.raises(ImportRefused, match="after element 1"):
        list(rows(file(tmp_path, "b.json", '[{"x": 1}')))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.bin", b"\x7fELF\x00\x01", "neither JSON Lines"),
        ("a.txt", b"hello", "neither JSON Lines"),
        ("a.jsonl", b"", "is empty"),
        ("a.json", b"[]", "empty list"),
        ("a.jsonl.gz", gzip.compress(b'{"x": 1}\n' * 5000, mtime=0)[:-20], "damaged"),
        ("a.parquet", b"PAR1 but no more", "not a readable Parquet"),
    ],
)
def test_refuses_files_with_one_clear_message(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    with pytest.raises(ImportRefused, match=message):
        list(rows(file(tmp_path, name, data)))


def test_a_gzip_bomb_is_stopped(tmp_path: Path, settings: Any) -> None:
    settings.MAX_UPLOAD_BYTES = 100_000
    bomb = file(tmp_path, "a.jsonl.gz", gzip.compress(b'{"x": 1}\n' * 200_000))
    with pytest.raises(ImportRefused, match="once unpacked"):
        list(rows(bomb))


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(jsontext, "MAX_ROW_BYTES", 1000)
    source = file(tmp_path, "a.jsonl", '{"x": "' + "y" * 5000 + '"}\n{"x": 2}\n')
    found = list(rows(source))
    assert isinstance(found[0][1], Problem)
    assert found[1] == (2, {"x": 2})


def test_csv_problems_name_the_spreadsheet_row(tmp_path: Path) -> None:
    source = file(tmp_path, "a.csv", b'chosen,rejected\nyes,no,what\n\xff,no\nfine,"two\nlines"\n')
    found = [value for _, value in records(source, "trl", lambda position: None)]
    assert [problem.row for problem in found if isinstance(problem, Problem)] == [2, 3, 4]
    messages = [problem.message for problem in found if isinstance(problem, Problem)]
    assert "more cells" in messages[0]
    assert "UTF-8" in messages[1]
    assert "not cut" in messages[2]


def test_parquet_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    conversation = [{"role": "user", "content": "Hi"}]
    answers = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    pq.write_table(pa.Table.from_pylist([{"prompt": conversation, **answers}] * 3), tmp_path / "a.parquet")
    source = Source(tmp_path / "a.parquet", "a.parquet")
    assert recognise([source]) == "trl"
    found = [value for _, value in records(source, "trl", lambda position: None)]
    assert len(found) == 3
    assert isinstance(found[0], list)
    assert found[0][0].messages == conversation


# Recognising


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"type": "vote"}, "caliper"),
        ({"chosen": "x", "rejected": "y", "score": 1}, "trl"),
        ({"chosen": "\n\nHuman: x\n\nAssistant: y", "rejected": "\n\nHuman: x\n\nAssistant: z"}, "hh-rlhf"),
        ({"response1": "", "response2": "", "annotator1": 1}, "pandalm"),
        ({"pair_id": "1", "response_a_id": "2", "votes": []}, "ukp-convarg1"),
        ({"response_id": "1", "topic": "2", "text": "3"}, "ukp-convarg1"),
        ({"question": "?"}, None),
        ({"type": ["vote"]}, None),
    ],
)
def test_recognises_the_format_from_the_fields(row: dict[str, Any], name: str | None) -> None:
    assert format_of(row) == name


def test_an_unknown_format_lists_the_fields_and_the_formats(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match=r"fields answer, question.*caliper, trl"):
        recognise([file(tmp_path, "a.jsonl", '{"question": 1, "answer": 2}\n')])


def test_files_of_different_formats_are_not_mixed(tmp_path: Path) -> None:
    one = file(tmp_path, "a.jsonl", '{"type": "pair", "a": "x", "b": "y"}\n')
    other = file(tmp_path, "b.jsonl", '{"chosen": "x", "rejected": "y"}\n')
    with pytest.raises(ImportRefused, match="different formats"):
        recognise([one, other])


# Caliper JSONL


def test_caliper_lines() -> None:
    assert parse("caliper", {"type": "prompt", "id": "p", "text": "Why?", "group": "g"}) == [
        PromptRecord("p", [{"role": "user", "content": "Why?"}], "g")
    ]
    response = {
        "type": "response",
        "id": 7,
        "prompt": "p",
        "text": "So.",
        "author": "m",
        "metadata": {"q": 1.5},
    }
    assert parse("caliper", response) == [ResponseRecord("7", "p", "So.", "m", {"q": 1.5})]
    assert parse("caliper", {"type": "level", "response": "r", "annotator": "kim", "level": "good"}) == [
        LevelRecord("r", "kim", "good")
    ]
    pair, vote = parse(
        "caliper", {"type": "vote", "a": "x", "b": "y", "annotator": "kim", "verdict": "both_bad"}
    )
    assert pair == PairRecord("", "x", "y")
    assert vote == VoteRecord("", "x", "y", "kim", "both_bad", reasons=[])
    (vote,) = parse(
        "caliper",
        {
            "type": "vote", "pair": "q", "annotator": "kim", "verdict": "a", "strength": 3, "left": "b",
            "created_at": "2026-01-31T13:00:00+01:00", "reasons": ["clear"], "propensity": 0.25, "policy": "random",
        },
    )  # fmt: skip
    assert (vote.strength, vote.left, vote.created_at) == (3, "b", "2026-01-31T12:00:00.000000+00:00")


VOTE = {"type": "vote", "pair": "q", "annotator": "kim", "verdict": "a"}
RESPONSE = {"type": "response", "id": "r", "prompt": "p", "text": "So."}


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"type": "vots"}, "type", "“vots”"),
        ({}, "type", "missing"),
        ({**RESPONSE, "text": ""}, "text", "empty"),
        ({**RESPONSE, "text": " \n"}, "text", "empty"),
        ({**RESPONSE, "text": True}, "text", "true instead of text"),
        ({**RESPONSE, "text": ["x"]}, "text", "a list instead of text"),
        ({**RESPONSE, "text": "x" * 1_000_000}, "text", "977 KB long, of 256 KB"),
        ({**RESPONSE, "text": "a\x00b"}, "text", "NUL"),
        ({**RESPONSE, "text": "a\ud800b"}, "text", "half of a surrogate pair, \\ud800, at character 2"),
        ({**RESPONSE, "id": None}, "id", "missing"),
        ({**RESPONSE, "id": "x" * 201}, "id", "longer than 200"),
        ({**RESPONSE, "id": "a\nb"}, "id", "control characters"),
        ({**RESPONSE, "metadata": {"a": [{"b": "\x00"}]}}, "metadata", "NUL"),
        ({**RESPONSE, "metadata": {"a": 1e999}}, "metadata", "not finite"),
        ({**RESPONSE, "txt": "x"}, "txt", "not a field"),
        ({**VOTE, "verdict": "A"}, "verdict", "“A”"),
        ({**VOTE, "verdict": 1}, "verdict", "a number"),
        ({**VOTE, "strength": 4}, "strength", "4"),
        ({**VOTE, "strength": 1.5}, "strength", "1.5"),
        ({**VOTE, "strength": True}, "strength", "true"),
        ({**VOTE, "propensity": -0.1}, "propensity", "-0.1"),
        ({**VOTE, "left": "left"}, "left", "“left”"),
        ({**VOTE, "created_at": "yesterday"}, "created_at", "not a time"),
        ({**VOTE, "created_at": "2999-01-01"}, "created_at", "future"),
        ({**VOTE, "a": "x"}, "pair", "beside a and b"),
        ({**VOTE, "annotator": "x" * 81}, "annotator", "longer than 80"),
        ({**VOTE, "reasons": "clear"}, "reasons", "text"),
        ({"type": "level", "response": "r", "annotator": "k", "level": "great"}, "level", "“great”"),
        ({"type": "prompt", "id": "p", "messages": []}, "messages", "empty"),
        (
            {"type": "prompt", "id": "p", "messages": [{"role": "narrator", "content": ""}]},
            "messages[1].role",
            "narrator",
        ),
        (
            {"type": "prompt", "id": "p", "messages": [{"role": "user", "content": None}]},
            "messages[1].content",
            "null",
        ),
        (
            {"type": "prompt", "id": "p", "messages": [{"role": "user", "content": " "}]},
            "messages",
            "no text",
        ),
    ],
)
def test_caliper_rows_are_refused_with_field_and_remedy(
    row: dict[str, Any], field: str, message: str
) -> None:
    error = refused("caliper", row)
    assert error.field == field
    assert message in error.message
    assert error.remedy


# TRL and hh-rlhf

QUESTION = {"role": "user", "content": "Hi"}
SHAPES: list[dict[str, Any]] = [
    {"prompt": "Hi", "chosen": "Good day", "rejected": "What"},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Good day", "rejected": "\n\nHuman: Hi\n\nAssistant: What"},
    {
        "prompt": [QUESTION],
        "chosen": [{"role": "assistant", "content": "Good day"}],
        "rejected": [{"role": "assistant", "content": "What"}],
    },
    {
        "chosen": [QUESTION, {"role": "assistant", "content": "Good day"}],
        "rejected": [QUESTION, {"role": "assistant", "content": "What"}],
    },
]


@pytest.mark.parametrize("row", SHAPES)
def test_the_four_trl_shapes_mean_the_same(row: dict[str, Any]) -> None:
    prompt, chosen, rejected, pair, vote = parse("trl", row)
    assert prompt.messages == [QUESTION]
    assert (chosen.text, rejected.text) == ("Good day", "What")
    assert (pair.a, pair.b) == (chosen.id, rejected.id)
    assert (vote.verdict, vote.annotator) == ("a", "trl")
    # Ids come from the content, so all shapes name the same things.
    assert [record[0] for record in parse("trl", SHAPES[0])[:3]] == [prompt.id, chosen.id, rejected.id]


def test_trl_margin_is_kept_in_the_comment() -> None:
    assert parse("trl", {**SHAPES[0], "margin": 1.5})[-1].comment == "margin 1.5"
    assert refused("trl", {**SHAPES[0], "margin": "much"}).field == "margin"


def test_plain_texts_are_not_cut_where_they_begin_alike() -> None:
    error = refused("trl", {"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert error.field == "prompt"
    assert "not cut" in error.message
    assert "columns named by hand" in error.remedy


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"chosen": "x"}, "rejected"),
        ({"prompt": "p", "chosen": "x", "rejected": "x"}, "rejected"),
        ({"prompt": "p", "chosen": "x", "rejected": ["x"]}, "rejected"),
        ({"chosen": "abc", "rejected": "xyz"}, "prompt"),
        ({"chosen": [QUESTION], "rejected": [QUESTION]}, "chosen"),
        ({"prompt": 3, "chosen": "x", "rejected": "y"}, "prompt"),
    ],
)
def test_trl_rows_are_refused(row: dict[str, Any], field: str) -> None:
    assert refused("trl", row).field == field


def test_hh_transcripts_share_their_first_turns() -> None:
    start = "\n\nHuman: One?\n\nAssistant: Two.\n\nHuman: Three?\n\nAssistant:"
    prompt, chosen, rejected, _, vote = parse(
        "hh-rlhf", {"chosen": start + " Four.", "rejected": start + " Five."}
    )
    assert [message["role"] for message in prompt.messages] == ["user", "assistant", "user"]
    assert (chosen.text, rejected.text, vote.annotator) == ("Four.", "Five.", "hh-rlhf")


def test_hh_transcripts_that_part_early_keep_their_later_turns() -> None:
    row = {
        "chosen": "\n\nHuman: Q\n\nAssistant: A\n\nHuman: More\n\nAssistant: B",
        "rejected": "\n\nHuman: Q\n\nAssistant: C\n\nHuman: Why\n\nAssistant: D",
    }
    prompt, chosen, *_ = parse("hh-rlhf", row)
    assert prompt.messages == [{"role": "user", "content": "Q"}]
    assert chosen.text == "A\n\nHuman: More\n\nAssistant: B"


def test_hh_rows_are_refused() -> None:
    assert refused("hh-rlhf", {"chosen": "no transcript", "rejected": "x"}).field == "chosen"
    different = {"chosen": "\n\nHuman: A\n\nAssistant: x", "rejected": "\n\nHuman: B\n\nAssistant: y"}
    assert refused("hh-rlhf", different).field == "rejected"


def test_the_real_hh_file() -> None:
    path = shared_data("hh_rlhf", "harmless_test.jsonl.gz")
    source = Source(path, path.name)
    assert recognise([source]) == "hh-rlhf"
    found = [value for _, value in records(source, "hh-rlhf", lambda position: None)]
    assert len(found) == 2312
    assert [p.message for p in found if isinstance(p, Problem)] == ["is empty."] * 4


# PandaLM and UKPConvArg1


def test_pandalm_row() -> None:
    row = {
        "instruction": "Do", "input": "this", "cmp_key": "m1_m2", "response1": "x", "response2": "y",
        "annotator1": 0, "annotator2": 1, "annotator10": 2,
    }  # fmt: skip
    prompt, first, second, _, *votes = parse("pandalm", row)
    assert prompt.messages[0]["content"] == "Do\n\nthis"
    assert (first.author, second.author) == ("m1", "m2")
    assert [(v.annotator, v.verdict) for v in votes] == [
        ("annotator1", "tie"),
        ("annotator2", "a"),
        ("annotator10", "b"),
    ]
    assert refused("pandalm", {**row, "response1": True}).message == "is true instead of text."
    assert refused("pandalm", {**row, "annotator2": 3}).field == "annotator2"
    assert refused("pandalm", {**row, "annotator2": True}).field == "annotator2"


def test_the_real_pandalm_file_has_six_responses_that_are_true() -> None:
    path = shared_data("pandalm", "testset-v1.json")
    source = Source(path, path.name)
    assert recognise([source]) == "pandalm"
    found = [value for _, value in records(source, "pandalm", lambda position: None)]
    assert sum(isinstance(p, Problem) and "true" in p.message for p in found) == 6


def test_the_real_ukp_topics_make_sixteen_debates() -> None:
    path = shared_data("ukp_convarg1", "pairs.jsonl.gz")
    topics: dict[str, str] = {}
    for _, found in records(Source(path, path.name), "ukp-convarg1", lambda position: None):
        assert isinstance(found, list)
        topics[found[0].id] = found[0].group
    groups = list(topics.values())
    assert len(topics) == 32
    assert len(set(groups)) == 16
    assert {groups.count(group) for group in groups} == {2}
