"""What was drawn lately stays, up to so many bytes."""

from webapp.corpus import turns
from webapp.corpus.kept import Kept


def test_the_same_arguments_are_drawn_once_and_the_oldest_goes_first() -> None:
    made: list[str] = []

    def of(text: str) -> str:
        return kept.of(lambda: made.append(text) or text.upper(), text)

    kept: Kept[str] = Kept(10, len)
    assert [of("aaaa"), of("bbbb"), of("aaaa")] == ["AAAA", "BBBB", "AAAA"]
    assert made == ["aaaa", "bbbb"]
    of("cccc")  # twelve bytes: the one not asked for longest goes
    of("aaaa")
    assert made == ["aaaa", "bbbb", "cccc"]
    of("bbbb")
    assert made == ["aaaa", "bbbb", "cccc", "bbbb"]
    assert of("d" * 11) == "D" * 11  # larger than all that may be kept: nothing goes for it
    assert of("\ud800") == "\ud800"
    of("bbbb")
    assert made[-2:] == ["d" * 11, "\ud800"]


def test_arguments_of_another_kind_are_others() -> None:
    kept: Kept[object] = Kept(10, lambda _: 1)
    assert [kept.of(lambda value=value: value, value) for value in (1, "1", None, "None")] == [
        1,
        "1",
        None,
        "None",
    ]


def test_what_two_answers_differ_in_is_the_same_from_both_sides() -> None:
    one, other = {"text": "The capital is Paris."}, {"text": "The old capital was Lyon."}
    shown = [turns.answer_of(*sides).turns[0].parts[0].written for sides in ((one, other), (other, one))]
    assert [view.count("<mark>") for view in shown] == [1, 2]
    assert "The <mark>old </mark>capital <mark>was Lyon</mark>." in shown[1]
    assert "The capital <mark>is Paris</mark>." in shown[0]
