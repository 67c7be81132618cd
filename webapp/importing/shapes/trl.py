"""TRL preference and unpaired, and what is built alike: ShareGPT preference, binarized UltraFeedback, hh-rlhf.

chosen and rejected are texts or conversations; the prompt stands in columns of its own, in the conversations, or in
both (then it is stored once).
"""

from typing import Any

from webapp.corpus.conversations import Message
from webapp.importing.fields import RowError, check_text, is_given, text_of
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.making import (
    Answer,
    answer_of,
    answer_of_messages,
    level_records,
    pair_records,
    said,
)
from webapp.importing.shapes.messages import conversation_in, messages_of, split, tools_of
from webapp.importing.shapes.prompts import Asked, asked, note, required
from webapp.importing.shapes.records import Record, VoteRecord
from webapp.importing.shapes.tracking import number_in, shown
from webapp.importing.shapes.transcripts import ODD_FORM, is_transcript, part, prompt_turns

_SCORES = (
    ("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"),
    ("chosen-rating", "rejected-rating"), ("rating_chosen", "rating_rejected"),
)  # fmt: skip
REPEATED = "answers that began with the whole prompt: it was taken off, with one space behind it"
WHITE_SPACE = "prompts that differ from the conversation's question by white space: the conversation is kept"
_SENTENCE_ENDS = ".?!:;…。？！：；」”\"'"


def parse_trl(row: Row) -> list[Record]:
    return preference(row, "trl", "trl")


def parse_sharegpt(row: Row) -> list[Record]:
    return preference(row, "sharegpt", "sharegpt")


def parse_hh(row: Row) -> list[Record]:
    if asked(row) is None:
        for field in ("chosen", "rejected"):
            if not is_transcript(text_of(row, field)):
                remedy = "Write “\\n\\nHuman: …\\n\\nAssistant: …”, or import the file as TRL preference."
                raise RowError(field, "does not begin with “Human:” or “Assistant:”.", remedy)
    return preference(row, "hh", "hh-rlhf")


def preference(row: Row, source: str, annotator: str) -> list[Record]:
    """One row of chosen and rejected as a pair and one vote, by an annotator named like the format."""
    messages, tools, chosen, rejected = parted(row)
    vote = scores_of(row, annotator)
    return pair_records(source, messages, chosen, rejected, [vote], tools=tools)


def parted(row: Row) -> tuple[list[Message], list[Any], Answer, Answer]:
    """The prompt, its tools, and the two answers, wherever the row has them."""
    for field in ("chosen", "rejected"):
        if row.get(field) is None:
            raise RowError(field, "is missing.", "A preference needs chosen and rejected.")
    values = [conversation_in(row, field) for field in ("chosen", "rejected")]
    if isinstance(values[0], list) != isinstance(values[1], list):
        # In a table an answer may itself be a text that looks like messages.
        values = [row["chosen"], row["rejected"]]
    if isinstance(values[0], list) != isinstance(values[1], list):
        raise RowError(
            "rejected",
            f"is {json_type(values[1])}, chosen is {json_type(values[0])}.",
            "Write both in the same way.",
        )
    if isinstance(values[0], list):
        first, second = (
            messages_of(field, value, row=row, spoken_of=False)
            for field, value in zip(("chosen", "rejected"), values, strict=True)
        )
        return _conversations(row, first, second)
    return _texts(row, text_of(row, "chosen"), text_of(row, "rejected"))


def _conversations(
    row: Row, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Any], Answer, Answer]:
    stated = asked(row, beside=(chosen, rejected))
    shared = split(chosen, rejected)
    if stated is None or all(turn["role"] == "system" for turn in stated.messages):
        if not shared:
            _no_prompt(chosen, rejected)
        prompt, skipped = chosen[:shared], shared
        if stated is not None:
            prompt = _with_system(stated.messages, prompt)
    else:
        prompt, skipped = _reconciled(row, stated, chosen, rejected, shared)
    answers = []
    for field, talk in (("chosen", chosen), ("rejected", rejected)):
        if len(talk) <= skipped:
            raise RowError(field, "has no answer after the prompt.", "Add a message of the assistant.")
        answers.append(answer_of_messages(field, talk[skipped:]))
    tools = stated.tools if stated else tools_of(row)
    return prompt, tools, answers[0], answers[1]


def _no_prompt(chosen: list[Message], rejected: list[Message]) -> None:
    for field, talk in (("chosen", chosen), ("rejected", rejected)):
        if all(turn["role"] != "assistant" for turn in talk):
            raise RowError(field, "has no message of the assistant.", "Add the answer.")
    message = "is missing, and chosen and rejected begin differently."
    raise RowError("prompt", message, "Add the prompt, or begin both with the same turns.")


def _with_system(system: list[Message], prompt: list[Message]) -> list[Message]:
    if prompt and prompt[0]["role"] == "system":
        if prompt[0] != system[0]:
            raise RowError("system", "differs from the system message of chosen.", "Keep one of the two.")
        return prompt
    return [*system, *prompt]


def _reconciled(
    row: Row, stated: Asked, chosen: list[Message], rejected: list[Message], shared: int
) -> tuple[list[Message], int]:
    """The prompt that the columns state, stored once with what the conversations begin with: and how much that is."""
    own = stated.messages
    if chosen[0]["role"] == rejected[0]["role"] == "assistant":
        return own, 0
    for start in range(1 + len(stated.system)):
        # With the system message in both places, or in the column alone.
        size = len(own) - start
        if own[start:] == chosen[:size] == rejected[:size]:
            while size < shared and chosen[size]["role"] != "assistant":
                own, size = [*own, chosen[size]], size + 1
            return own, size
    head = chosen[:shared]
    if head and head[-len(own) :] == own:
        return head, shared
    if stated.text or own[-1]["role"] == "user":
        said = [turn["content"] for turn in head if turn["role"] == "user"]
        question = stated.text or own[-1]["content"]
        single = len(own) - len(stated.system) == 1
        if single and question in said:
            return _with_system(stated.system, head) if stated.system else head, shared
        if single and question.strip() in [text.strip() for text in said]:
            note(row, WHITE_SPACE)
            return _with_system(stated.system, head) if stated.system else head, shared
        if stated.text and _transcript_of(stated.text) == head:
            return head, shared
    raise RowError(
        "prompt",
        "is not what the conversations in chosen and rejected begin with.",
        "Make them the same, or remove the column that is wrong.",
    )


def _transcript_of(text: str) -> list[Message] | None:
    found = prompt_turns(text, " ", " ")
    return found[0] if found else None


def _texts(row: Row, chosen: str, rejected: str) -> tuple[list[Message], list[Any], Answer, Answer]:
    stated = asked(row, answers=(chosen, rejected))
    both = is_transcript(chosen) and is_transcript(rejected)
    if stated is None or all(turn["role"] == "system" for turn in stated.messages):
        if not both:
            raise RowError(
                "prompt",
                "is missing, and plain texts are not cut where they begin alike.",
                "Add a column prompt, or choose “columns named by hand” and say which column asks.",
            )
        messages, a, b, standard = part(chosen, rejected)
        if not standard:
            note(row, ODD_FORM)
        messages = _with_system(stated.messages, messages) if stated else messages
        return messages, stated.tools if stated else tools_of(row), a, b
    texts = chosen, rejected
    messages = stated.messages
    if stated.text and all(text.startswith(stated.text) for text in texts):
        texts = _without(row, stated.text, *texts)
    elif both and stated.text and (found := _shared_transcript(stated, chosen, rejected)):
        note(row, REPEATED)
        return found[0], stated.tools, found[1], found[2]
    if stated.text and messages[-1]["content"] == stated.text:
        whole = prompt_turns(stated.text, *texts)
        if whole:
            turns, *answers, standard = whole
            if not standard:
                note(row, ODD_FORM)
            messages, texts = [*messages[:-1], *turns], (str(answers[0]), str(answers[1]))
    a, b = (answer_of(field, text) for field, text in zip(("chosen", "rejected"), texts, strict=True))
    return messages, stated.tools, a, b


def _shared_transcript(
    stated: Asked, chosen: str, rejected: str
) -> tuple[list[Message], Answer, Answer] | None:
    """Whole transcripts beside a prompt that they ask in their turn; None where they only look like transcripts."""
    try:
        messages, a, b, _ = part(chosen, rejected)
    except RowError:
        return None
    asks = [turn["content"] for turn in messages if turn["role"] == "user"]
    if not asks:
        return None
    if stated.text not in asks and _transcript_of(stated.text) != messages:
        raise RowError(
            "prompt",
            "is not what the transcripts in chosen and rejected ask.",
            "Make them the same, or remove the column that is wrong.",
        )
    return _with_system(stated.system, messages) if stated.system else messages, a, b


def _without(row: Row, prompt: str, chosen: str, rejected: str) -> tuple[str, str]:
    """The answers without a prompt that both begin with; a short prompt may be the answers' own beginning."""
    rests = [text[len(prompt) :] for text in (chosen, rejected)]
    ended = prompt[-1].isspace() or prompt[-1] in _SENTENCE_ENDS
    if not ended and not all(rest[:1].isspace() for rest in rests):
        return chosen, rejected
    bare = prompt.strip()
    transcript = is_transcript(prompt)
    if not transcript and len(bare.split()) < 3 and len(bare) < 12:
        raise RowError(
            "prompt",
            "is what both answers begin with, and too short to tell whether it belongs to them.",
            "Take it off the answers, or choose “columns named by hand”.",
        )
    note(row, REPEATED)
    if transcript:
        return rests[0], rests[1]
    cut = [rest[1:] if rest.startswith(" ") else rest for rest in rests]
    for field, text in zip(("chosen", "rejected"), cut, strict=True):
        if not text.strip():
            raise RowError(field, "is nothing but the prompt.", "Add the answer.")
    return cut[0], cut[1]


def scores_of(row: Row, annotator: str) -> VoteRecord:
    """The vote for chosen; equal scores make it a tie, and scores are kept in the comment."""
    comments, verdict = [], "a"
    margin = number_in(row, "margin")
    if margin is not None:
        comments.append(f"margin {shown(margin)}")
    for names in _SCORES:
        chosen, rejected = (number_in(row, name) if name in row else None for name in names)
        if chosen is None or rejected is None:
            continue
        if chosen < rejected:
            raise RowError(
                names[0],
                f"is {shown(chosen)}, lower than {names[1]} {shown(rejected)}.",
                "Swap chosen and rejected, or remove the scores.",
            )
        verdict = "tie" if chosen == rejected else verdict
        comments.append(f"scores {shown(chosen)} and {shown(rejected)}")
    return said(annotator, verdict, comment=", ".join(comments))


_TRUE = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def parse_unpaired(row: Row) -> list[Record]:
    """prompt, completion and a label: true is good, false is bad."""
    if not is_given(row.get("completion")):
        raise RowError("completion", "is missing.", "Add it.")
    label = row.get("label")
    fine = _TRUE.get(str(label).strip().lower()) if isinstance(label, bool | int | float | str) else None
    if fine is None:
        what = f"“{label[:40]}”" if isinstance(label, str) else json_type(label)
        raise RowError("label", f"is {what}.", "Write true (good) or false (bad).")
    value = conversation_in(row, "completion")
    if isinstance(value, list):
        talk = messages_of("completion", value, row=row, spoken_of=False)
        stated = asked(row, beside=(talk,))
        if stated is None:
            if len(talk) < 2:
                raise RowError("prompt", "is missing.", "Add it.")
            messages, tools, rest = talk[:-1], tools_of(row), talk[-1:]
        else:
            messages, tools = stated.messages, stated.tools
            rest = talk[len(messages) :] if talk[: len(messages)] == messages else talk
        answer = answer_of_messages("completion", rest) if rest else answer_of("completion", "")
    else:
        text = text_of(row, "completion")
        stated = required(row, answers=(text,))
        messages, tools = stated.messages, stated.tools
        if (
            stated.text
            and messages[-1]["content"] == stated.text
            and (whole := prompt_turns(stated.text, text, text))
        ):
            messages, text = [*messages[:-1], *whole[0]], whole[1]
        answer = Answer(check_text("completion", text, limit=2**31))
    return level_records("trl", messages, answer, [("trl", "good" if fine else "bad", "")], tools=tools)
