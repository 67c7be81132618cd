"""Transcripts: every text survives, and the standard form comes back character by character."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.importing.shapes import PARSERS
from webapp.importing.shapes.tracking import ReadRow
from webapp.importing.shapes.transcripts import separator, standard, turns

# A turn that holds another speaker's mark is another transcript; what begins with nothing visible is refused.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30).filter(
    lambda said: not re.search(r"(Human|Assistant|System|Tool):", said)
)
visible = text.map(lambda said: f"x{said}")


@settings(max_examples=200, deadline=None)
@given(st.lists(text, min_size=1, max_size=4), visible, visible)
def test_the_standard_form_comes_back(asked: list[str], one: str, two: str) -> None:
    speakers = ["Human", "Assistant"] * 4
    said = [f"x{asked[0]}", *asked[1:]]
    said = said if len(said) % 2 else [*said, "more"]
    prompt = "".join(f"\n\n{speaker}: {words}" for speaker, words in zip(speakers, said, strict=False))
    chosen, rejected = (f"{prompt}\n\nAssistant: {answer}" for answer in (one, two))
    assert standard(turns(chosen, separator(chosen))) == chosen
    if one == two:
        return
    row = ReadRow({"chosen": chosen, "rejected": rejected})
    record, a, b, *_ = PARSERS["hh-rlhf"](row)
    assert [turn["content"] for turn in record.messages] == said
    assert (a.text, b.text) == (one, two)
    assert not row.notes


@settings(max_examples=100, deadline=None)
@given(visible, visible, visible)
def test_a_prompt_that_is_a_transcript_says_the_same(asked: str, one: str, two: str) -> None:
    if one == two:
        return
    prompt = f"\n\nHuman: {asked}\n\nAssistant:"
    record, a, b, *_ = PARSERS["trl"]({"prompt": prompt, "chosen": f" {one}", "rejected": f" {two}"})
    assert ([turn["content"] for turn in record.messages], a.text, b.text) == ([asked], one, two)


def test_an_answer_over_turns_is_kept_as_it_stands_and_as_messages() -> None:
    start = "\n\nHuman: Q\n\nAssistant:"
    row = {
        "chosen": f"{start} A\n\nHuman: More\n\nAssistant: B",
        "rejected": f"{start} C\n\nHuman: Why\n\nAssistant: D",
    }
    _, a, *_ = PARSERS["hh-rlhf"](row)
    assert a.text == "A\n\nHuman: More\n\nAssistant: B"
    assert [turn["role"] for turn in a.messages] == ["assistant", "user", "assistant"]
    # A last word of the human is no answer: the text has it all the same.
    row["chosen"] += "\n\nHuman: Thanks"
    _, a, *_ = PARSERS["hh-rlhf"](row)
    assert (a.text[-6:], a.messages) == ("Thanks", None)


@pytest.mark.parametrize(
    ("chosen", "answer"),
    [
        ("Human: q\nAssistant:  two spaces", " two spaces"),
        ("Human: q\nAssistant:none", "none"),
        ("Human: q\nAssistant: ends \n", "ends \n"),
        ("Human: q\r\nAssistant: a\r\nb", "a\r\nb"),
        ("\n\nHuman: q\n\nAssistant: a\nHuman: quoted", "a\nHuman: quoted"),
    ],
)
def test_what_belongs_to_the_mark_and_what_to_the_text(chosen: str, answer: str) -> None:
    start = "\n\nHuman: q\n\nAssistant: z" if chosen.startswith("\n\n") else "Human: q\nAssistant: z"
    record, a, *_ = PARSERS["hh-rlhf"]({"chosen": chosen, "rejected": start})
    assert (record.messages, a.text) == ([{"role": "user", "content": "q"}], answer)
