"""Files of responses: every row is scored as it stands, or refused by its line, field and remedy."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_case
from workers.rewards.artifacts.save import save_model
from workers.rewards.data.responses import BadInput, read_responses
from workers.rewards.models.load import load_backbone, load_tokenizer
from workers.rewards.models.reward_model import RewardModel
from workers.rewards.score import main
from workers.rewards.text.sections import Template


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer") / "model"
    template = Template(
        load_tokenizer("tiny", str(tiny_encoder)), architecture="encoder", ordinal=False, max_length=64
    )
    backbone = load_backbone("tiny", str(tiny_encoder), "encoder")
    network = RewardModel(backbone, architecture="encoder", kind="scalar")
    save_model(folder, network, template, method="bt", partition=(3, 6), base_model="tiny")
    return folder


def written(folder: Path, data: bytes | str | list[Any], name: str = "texts.jsonl") -> Path:
    path = folder / name
    if isinstance(data, list):
        data = "".join(json.dumps(row) + "\n" for row in data)
    path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
    return path


# --- The cases ---


def test_a_mark_and_carriage_returns_are_no_part_of_a_row() -> None:
    rows, refused = read_responses(shared_case("14c-score-bom-crlf.jsonl"))
    assert ([row["text"] for row in rows], refused) == (["x"], [])


def test_a_lone_surrogate_costs_its_row(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared_case("14h-score-surrogate.jsonl")
    rows, (refusal,) = read_responses(path)
    assert rows == []
    assert refusal == (
        f"{path} line 1: text holds half a character (the lone surrogate U+D83D at 3), which stands for nothing; write "
        "the whole character or take it out"
    )
    assert main([str(model), str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"refused: {refusal}",
        f"refused: {path}: no row of it can be scored",
    ]


def test_a_line_separator_in_a_text_ends_no_line() -> None:
    rows, refused = read_responses(shared_case("14j-score-u2028.jsonl"))
    assert ([row["text"] for row in rows], refused) == (["first\u2028second", "ok"], [])


def test_content_that_is_no_text_costs_its_row(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared_case("14l-score-content-parts.jsonl")
    rows, refused = read_responses(path)
    assert [(row["response_id"], row["messages"][0]["content"]) for row in rows] == [
        ("2", "q"),
        ("4", "None"),
    ]
    parts, null = (refusal.removeprefix(f"{path} ") for refusal in refused)
    assert parts.startswith("line 1: messages[0].content is a list of parts; join the texts of its parts")
    assert null.startswith("line 3: messages[0].content is null, and there are no tool_calls; give a text")
    assert main([str(model), str(path)]) == 1
    said = capsys.readouterr()
    assert [json.loads(line)["response_id"] for line in said.out.splitlines()] == ["2", "4"]
    assert [line[:8] for line in said.err.splitlines()] == ["refused:", "refused:", "note: 40"]


# --- Others of their kind ---


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", 'it must be an object {"text": ..., "messages": ...}, one a line'),
        ("7", "it must be an object"),
        ("{", "it is not JSON: Expecting property name"),
        ('{"text": "x"} {"text": "y"}', "it is not JSON: Extra data at character 15"),
        ('{"text": "x", "text": "y"}', "the key 'text' stands twice in one object; keep one of them"),
        ('{"text": "x", "messages": [{"role": "user", "content": "a", "content": "b"}]}', "'content' stands twice"),
        ('{"text": NaN}', "text must be a text, not nan"),
        ('{"text": null}', "text must be a text, it is not given; an empty response is an empty text"),
        ("{}", "text must be a text, it is not given"),
        ('{"text": ["x"]}', "text must be a text, not ['x']"),
        ('{"text": "x", "response_id": true}', "response_id must be a text or a number, not True"),
        ('{"text": "x", "response_id": NaN}', "response_id must be a text or a number, not NaN"),
        ('{"text": "x", "response_id": {}}', "response_id must be a text or a number, not {}"),
        ('{"text": "x", "messages": "hello"}', "messages is a text that is not JSON"),
        ('{"text": "x", "messages": {"role": "user"}}', "messages must be a list"),
        ('{"text": "x", "messages": [{"role": "user", "content": "\\udc00"}]}', "messages[0].content holds half a"),
        ('{"text": "x", "response_id": "\\ud800"}', "response_id holds half a character"),
        ('{"text": "x", "tools": {"a": 1}}', "tools must be a list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", "4300"),
    ],
)  # fmt: skip
def test_a_row_that_can_not_be_read_costs_no_other(line: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, f'{{"text": "before"}}\n{line}\n{{"text": "after"}}\n')
    rows, (refusal,) = read_responses(path)
    assert [row["text"] for row in rows] == ["before", "after"]
    assert [row["response_id"] for row in rows] == ["1", "3"]
    assert refusal.startswith(f"{path} line 2: ")
    assert words in refusal


def test_bytes_that_are_no_utf_8_cost_their_row(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}')
    rows, (refusal,) = read_responses(path)
    assert [row["text"] for row in rows] == ["a", "b"]
    assert refusal == f"{path} line 2: byte 14 is not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is UTF-16 or UTF-32; save it as UTF-8"):
        read_responses(written(tmp_path, '{"text": "x"}\n'.encode(encoding)))


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n \r\n", gzip.compress(b"", mtime=0)])
def test_a_file_without_a_row_is_refused(
    data: bytes, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(model), str(written(tmp_path, data))]) == 2
    assert "holds no response; give a row with a text for each" in capsys.readouterr().err


def test_what_is_not_there_or_broken_is_refused(tmp_path: Path) -> None:
    for path in (
        tmp_path / "none.jsonl",
        written(tmp_path, b"PAR1nothing"),
        written(tmp_path, b"\x1f\x8bnothing", "b"),
    ):
        with pytest.raises(BadInput, match="can't be read"):
            read_responses(path)


def test_ids_may_be_numbers_and_stand_once(tmp_path: Path) -> None:
    rows, refused = read_responses(
        written(
            tmp_path,
            '{"text": "a", "response_id": 7}\n\n{"text": "b", "response_id": "7"}\n{"text": "c", "response_id": "5"}\n'
            '{"text": "d"}\n{"text": "e", "response_id": null}\n{"text": "f", "response_id": 1.5}\n',
        )
    )
    assert [(row["response_id"], row["text"]) for row in rows] == [
        ("7", "a"),
        ("5", "c"),
        ("6", "e"),
        ("1.5", "f"),
    ]
    assert [refusal.split(".jsonl ")[1] for refusal in refused] == [
        "line 3: response_id '7' is that of line 1; give every row its own",
        "line 5: response_id '5' is that of line 4; give every row its own",
    ]


def test_columns_that_are_not_used_harm_nobody(tmp_path: Path) -> None:
    rows, refused = read_responses(
        written(tmp_path, '{"text": "x", "margin": NaN, "huge": 1e999, "note": "\\ud800"}\n')
    )
    assert (len(rows), refused) == (1, [])


def test_tool_calls_and_tools_are_read(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "name": "f", "content": ""},
    ]
    given = [
        {"text": "", "messages": messages, "tools": [{"name": "f"}]},
        {"text": "x", "messages": json.dumps(messages)},
    ]
    (first, second), refused = read_responses(written(tmp_path, given))
    assert refused == []
    assert first == {"response_id": "1", "text": "", "messages": messages, "tools": [{"name": "f"}]}
    assert second["messages"] == messages


def test_parquet_with_nulls_and_structures(tmp_path: Path) -> None:
    message = {"role": "user", "content": "q", "name": None, "tool_calls": None}
    rows = [
        {"response_id": None, "text": "a", "messages": [message], "when": 1},
        {"response_id": "b", "text": None, "messages": None, "when": 2},
        {"response_id": "c", "text": "c\u2028", "messages": None, "when": 3},
    ]
    path = tmp_path / "texts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    for source in (path, written(tmp_path, gzip.compress(path.read_bytes()), "texts.parquet.gz")):
        read, refused = read_responses(source)
        assert read == [
            {"response_id": "1", "text": "a", "messages": [{"role": "user", "content": "q"}], "tools": []},
            {"response_id": "c", "text": "c\u2028", "messages": [], "tools": []},
        ]
        assert refused == [
            f"{source} row 2: text must be a text, it is not given; an empty response is an empty text"
        ]
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, path)
    with pytest.raises(BadInput, match="two columns 'text'"):
        read_responses(path)


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@given(
    st.lists(TEXT, min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_character_by_character(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], end: str, mark: bool, escaped: bool
) -> None:
    rows = [{"text": text, "messages": [{"role": "user", "content": text}]} for text in texts]
    whole = end.join(json.dumps(row, ensure_ascii=escaped) for row in rows)
    path = written(tmp_path_factory.mktemp("any"), ("\ufeff" if mark else "") + whole)
    read, refused = read_responses(path)
    assert refused == []
    assert [(row["text"], row["messages"]) for row in read] == [
        (row["text"], row["messages"]) for row in rows
    ]


def test_unknown_characters_are_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, [{"text": "water it"}, {"text": "\u4f60\u597d"}])
    assert main([str(model), str(path), "--out", str(tmp_path / "out.parquet")]) == 0
    assert "of the tokens are characters that the model does not know" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "out.parquet").column("response_id").to_pylist() == ["1", "2"]
