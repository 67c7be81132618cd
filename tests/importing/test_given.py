"""What counts as not given: one meaning in all formats and in mapped columns; white space of a comment is kept."""

from decimal import Decimal
from typing import Any

import pytest

from webapp.importing.fields import RowError, comment_of, id_of, is_given, optional
from webapp.importing.mapping import Mapping, Reader
from webapp.importing.shapes.tracking import ReadRow


@pytest.mark.parametrize("value", [None, "", " \n\t", float("nan"), Decimal("NaN"), [], {}])
def test_not_given(value: Any) -> None:
    assert not is_given(value)
    assert ReadRow({"x": value}).unused() == set()


@pytest.mark.parametrize("value", [0, 0.0, False, "0", " a ", [None], {"a": None}, Decimal(0)])
def test_given(value: Any) -> None:
    assert is_given(value)
    assert ReadRow({"x": value}).unused() == {"x"}


def test_white_space_is_kept_in_a_comment_and_refused_in_an_id() -> None:
    assert comment_of({"comment": " \n"}, "comment") == " \n"
    for read in (id_of, lambda row, field: optional(row, field, id_of)):
        with pytest.raises(RowError, match="is empty"):
            read({"id": "  "}, "id")


def rated(value: Any) -> list[str]:
    roles = {"q": "prompt", "x": "a", "y": "b", "sx": "rating_a", "sy": "rating_b"}
    records = Reader(Mapping(roles=roles, ratings="levels", bad_to=2, normal_to=3))(
        {"q": "Q", "x": "X", "y": "Y", "sx": value, "sy": 5}
    )
    return [record.level for record in records if hasattr(record, "level")]


@pytest.mark.parametrize(
    ("value", "level"),
    [("1,5", "bad"), (" 2.5 ", "normal"), (Decimal("3.5"), "good"), ("Normal", "normal"), (-1e5, "bad")],
)
def test_ratings_are_read_as_numbers_everywhere_are(value: Any, level: str) -> None:
    assert rated(value) == [level, "good"]


@pytest.mark.parametrize("value", [None, " ", "n/a", float("nan"), []])
def test_a_rating_that_is_not_given_makes_no_level(value: Any) -> None:
    assert rated(value) == ["good"]


@pytest.mark.parametrize("value", ["1,234", "fine", True, float("inf"), [3]])
def test_a_rating_that_is_no_number_is_refused_by_its_column(value: Any) -> None:
    with pytest.raises(RowError, match="sx"):
        rated(value)
