"""Values of one field: numbers, booleans and lists as texts, ids of all scripts, what is “not given”."""

from typing import Any

import pytest

from webapp.importing.cells import parsed_cell
from webapp.importing.fields import RowError, boolean_of, id_of, integer_of, metadata_of, number_of
from webapp.importing.reading import Unreadable


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("1", 1),
        ("1.0", 1),
        (" 2 ", 2),
        ("3,5", 3.5),
        ("1e1", 10),
        ("-.5", -0.5),
        (2.0, 2),
        ("0,125", 0.125),
        ("", None),
        (" ", None),
        ("NaN", None),
        ("nan", None),
        ("NULL", None),
        ("<NA>", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_numbers_as_text(value: Any, number: float | None) -> None:
    assert number_of({"n": value}, "n", -100, 100) == number


@pytest.mark.parametrize(
    "value",
    ["x", "1,000", "1,234.5", "1e999", "1" * 5000, 10**400, "inf", "Infinity", True, [1], "1_0", "٣", "1 2"],
)
def test_what_is_no_number_is_refused_by_field(value: Any) -> None:
    with pytest.raises(RowError) as refused:
        number_of({"n": value}, "n", -1e6, 1e6)
    assert refused.value.field == "n"
    assert refused.value.remedy


def test_whole_numbers_and_booleans() -> None:
    assert [integer_of({"n": value}, "n", 0, 3) for value in ("1", "1.0", 2.0, "")] == [1, 1, 2, None]
    with pytest.raises(RowError, match="Write a whole number"):
        integer_of({"n": "1.5"}, "n", 0, 3)
    values = ["true", "False", 1, 0.0, "1.0", "no", "", None]
    assert [boolean_of({"b": value}, "b") for value in values] == [
        True,
        False,
        True,
        False,
        True,
        False,
        None,
        None,
    ]
    with pytest.raises(RowError, match="Write true or false"):
        boolean_of({"b": "maybe"}, "b")


@pytest.mark.parametrize(
    "name",
    ["سارا\u200cح", "ක්\u200dෂ", "Jean\u00a0Paul", "山田\u3000太郎", "👩\u200d🔬", "a\u202fb", "\U0001fae9"],
)
def test_names_of_all_scripts(name: str) -> None:
    assert id_of({"id": name}, "id") == name


@pytest.mark.parametrize("character", ["\n", "\x07", "\u2028", "\u202e", "\u200b", "\ufeff", "\xad", "\x85"])
def test_other_control_characters_are_named(character: str) -> None:
    with pytest.raises(RowError, match=f"U\\+{ord(character):04X} at character 2"):
        id_of({"id": f"a{character}b"}, "id")


def test_ids_as_numbers() -> None:
    assert [id_of({"id": value}, "id") for value in (7, 7.0, 2**64)] == ["7", "7", str(2**64)]
    for value in (True, 1.5, 10**5000, [1]):
        with pytest.raises(RowError):
            id_of({"id": value}, "id")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('[{"a": 1}]', [{"a": 1}]),
        ("[{'a': None, 'b': \"it's\"}]", [{"a": None, "b": "it's"}]),
        ("{'a': True}", {"a": True}),
        (
            "[{'role': 'user', 'content': 'x'}\n {'role': 'assistant', 'content': 'y'}]",
            [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        ),
        ("['a' 'b']", ["a", "b"]),
        ("['a, b', 'c']", ["a, b", "c"]),
        (r"['a\nb']", ["a\nb"]),
    ],
)
def test_lists_in_cells(text: str, value: Any) -> None:
    assert parsed_cell(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "[1] see there",
        "[note]",
        "{x}",
        "[__import__('os')]",
        "[1, ...]",
        "[b'x']",
        "[{1, 2}]",
        "[(1, 2)]",
        "['a' + 'b']",
        "[" * 5000 + "]" * 5000,
        "[-" + "-" * 9000 + "1]",
        "[" + "1," * 200_000 + "1]",
        "['x]",
        7,
        None,
    ],
)
def test_other_texts_stay_texts(text: Any) -> None:
    assert parsed_cell(text) == text


def test_a_double_key_in_a_cell_is_seen() -> None:
    for text in ('{"a": 1, "a": 2}', "{'a': 1, 'a': 2}"):
        assert isinstance(parsed_cell(text), Unreadable)


def test_metadata_as_text_and_of_odd_types() -> None:
    assert metadata_of({"m": '{"a": [1, null]}'}, "m") == {"a": [1, None]}
    assert metadata_of({"m": {"a": float("nan"), 1: "x"}}, "m") == {"a": None, "1": "x"}
    with pytest.raises(RowError, match="not finite"):
        metadata_of({"m": {"a": float("inf")}}, "m")
