"""Formats of two named responses and an outcome: LMArena battles, HelpSteer2 and 3 preference, RewardBench."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from webapp.labels.models import Verdict
from webapp.snapshots.columns import INT8, INT32, JSON, NUMBER, TEXT, Kind, Schema, list_of, struct_of
from webapp.snapshots.formats.base import (
    FLAT,
    VOTE,
    Answer,
    Choice,
    Decided,
    Format,
    Row,
    Texts,
    View,
    batch_of,
    decided,
    messages_type,
    of_one_prompt,
)
from webapp.snapshots.formats.preferences import PREFERRED, TOOLS, count_same
from webapp.snapshots.formats.transcripts import ambiguous_answers, marked, prompt_text
from webapp.snapshots.reading import Judgements
from webapp.snapshots.writing import Batch


class Pairs(View):
    """One row per vote or pair whose verdict has a place among `verdicts`."""

    verdicts = PREFERRED

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Batch]:
        found = decided(rows, self.choice.aggregation, self.left_out)
        found = of_one_prompt(rows, found, self.verdicts, self.left_out)
        texts = Texts(pk for one in found for pk in (rows.a[one.row], rows.b[one.row]))
        sides = [(texts.place[rows.a[one.row]], texts.place[rows.b[one.row]]) for one in found]
        count_same(texts, sides, self.changed)
        made = []
        for one, (a, b) in zip(found, sides, strict=True):
            name = ids[one.row] if self.choice.aggregation == VOTE else rows.pair_id[one.row]
            made.append(self.row(rows, one, name, texts.answers[a], texts.answers[b]))
        yield batch_of(made, self.schema)

    def row(self, rows: Judgements, one: Decided, name: str, a: Answer, b: Answer) -> Row:
        raise NotImplementedError

    def plain(self, a: Answer, b: Answer) -> str:
        """The prompt for formats of plain texts; counts what they flatten."""
        self.flattened(a, b)
        prompt = prompt_text(a.prompt, self.changed)
        self.changed["ambiguous"] += ambiguous_answers(prompt, a.text, b.text)
        return prompt

    def flattened(self, a: Answer, b: Answer) -> None:
        self.changed["answer as text"] += a.messages is not None or b.messages is not None

    def tools(self) -> list[tuple[str, Kind]]:
        """A further column, in projects whose conversations use tools."""
        return [("tools", JSON)] if self.choice.rich else []


# --- LMArena ---

_WINNERS = {"a": "model_a", "b": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}


class Arena(Pairs):
    verdicts = frozenset(_WINNERS)

    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        text, conversation = TEXT, messages_type(rich=choice.rich)
        self.schema = Schema(
            [
                ("question_id", text), ("model_a", text), ("model_b", text), ("winner", text),
                ("conversation_a", conversation), ("conversation_b", conversation), ("turn", INT32),
                ("language", text), ("tstamp", NUMBER), *self.tools(),
            ]
        )  # fmt: skip

    def row(self, rows: Judgements, one: Decided, name: str, a: Answer, b: Answer) -> Row:
        newest = max(rows.created_at[voter] for voter in one.voters)
        return {
            "question_id": name,
            "model_a": a.author,
            "model_b": b.author,
            "winner": _WINNERS[one.verdict],
            "conversation_a": a.prompt.messages + a.turns,
            "conversation_b": b.prompt.messages + b.turns,
            "turn": sum(message["role"] == "user" for message in a.prompt.messages),
            "language": None,
            "tstamp": datetime.fromisoformat(newest).timestamp(),
            "tools": a.prompt.tools or None,
        }


ARENA = Format(
    "arena",
    Arena,
    description="""
LMArena battles. `winner` is model_a, model_b, tie or tie (bothbad).""",
    columns={
        "question_id": "the judgement's id, or the pair's where votes are gathered",
        "model_a": "who wrote response a; empty where nobody said",
        "model_b": "who wrote response b",
        "winner": "model_a, model_b, tie or tie (bothbad)",
        "conversation_a": "prompt and response a as messages",
        "conversation_b": "prompt and response b as messages",
        "turn": "user turns of the prompt",
        "language": "empty: Caliper does not store it",
        "tstamp": "when it was judged, in seconds since 1970; the newest vote where votes are gathered",
        **TOOLS,
    },
    again="prompts, responses with their models, and the winner of each battle, ties and “both bad” included. Who "
    "judged, strength, reasons, comments and levels have no place here. Of several votes on one pair the first counts; "
    "one that contradicts it is refused by its row.",
    help="One battle per vote or pair with both dialogues, the models' names and the winner, ties and “both bad” "
    "included.",
)


# --- HelpSteer ---


class HelpSteer(Pairs):
    verdicts = PREFERRED | {Verdict.TIE.value}

    def preference(self, rows: Judgements, one: Decided) -> int:
        """-3 (a is much better) to 3; the mean strength of those who agree, 1 where nobody gave one."""
        if one.verdict == Verdict.TIE:
            return 0
        given = [strength for voter in one.voters if (strength := rows.strength[voter])]
        if not given:
            self.changed["strength unknown"] += 1
        elif len(set(given)) > 1:
            self.changed["strength averaged"] += 1
        size = int(sum(given) / len(given) + 0.5) if given else 1
        return -size if one.verdict == Verdict.A else size


class HelpSteer2(HelpSteer):
    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        names = ("prompt", "response_1", "response_2")
        self.schema = Schema([*((name, TEXT) for name in names), ("preference_strength", INT8)])

    def row(self, rows: Judgements, one: Decided, name: str, a: Answer, b: Answer) -> Row:
        self.flattened(a, b)
        return {
            "prompt": marked(a.prompt, self.changed),
            "response_1": a.text,
            "response_2": b.text,
            "preference_strength": self.preference(rows, one),
        }


class HelpSteer3(HelpSteer):
    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        text, number = TEXT, INT8
        single = struct_of(score=number, reasoning=text, feedback1=text, feedback2=text)
        self.schema = Schema(
            [
                ("domain", text), ("language", text), ("context", messages_type(rich=choice.rich)),
                ("response1", text), ("response2", text), ("overall_preference", number),
                ("individual_preference", list_of(single)), *self.tools(),
            ]
        )  # fmt: skip

    def row(self, rows: Judgements, one: Decided, name: str, a: Answer, b: Answer) -> Row:
        self.flattened(a, b)
        return {
            "domain": a.prompt.group or None,
            "language": None,
            "context": a.prompt.messages,
            "response1": a.text,
            "response2": b.text,
            "overall_preference": self.preference(rows, one),
            "individual_preference": [self._individual(rows, voter) for voter in self._voters(rows, one)],
            "tools": a.prompt.tools or None,
        }

    def _voters(self, rows: Judgements, one: Decided) -> Sequence[int]:
        """Everybody who judged the pair and whose verdict is a number; the others are counted."""
        if self.choice.aggregation == VOTE:
            return one.voters
        pair, row, found = rows.pair[one.row], one.row, []
        while row < len(rows.pair) and rows.pair[row] == pair:
            if rows.verdict[row] in self.verdicts:
                found.append(row)
            elif rows.verdict[row] == Verdict.BOTH_BAD:
                self.left_out["both_bad"] += 1
            row += 1
        return found

    def _individual(self, rows: Judgements, voter: int) -> Row:
        size = rows.strength[voter] or 1
        score = {"a": -size, "b": size}.get(rows.verdict[voter], 0)
        return {"score": score, "reasoning": rows.comment[voter], "feedback1": None, "feedback2": None}


_STRENGTH = (
    "-3 (response 1 is much better) to 3, 0 for a tie; 1 where nobody gave a strength, the rounded mean where votes "
    "are gathered"
)
_STEER_AGAIN = (
    "prompts, responses, and verdicts with their strength, ties included. “Both bad”, who judged, reasons, levels, ids "
    "and models' names have no place here. A verdict without a strength comes back with strength 1."
)

HELPSTEER2 = Format(
    "helpsteer2",
    HelpSteer2,
    description="""
HelpSteer2 preference: negative strengths prefer response 1. “Both bad” has no place in it.""",
    columns={
        "prompt": "what was asked; further turns behind “<extra_id_1>”, as HelpSteer2 has them",
        "response_1": "response a, exactly",
        "response_2": "response b, exactly",
        "preference_strength": _STRENGTH,
    },
    again=_STEER_AGAIN,
    help="Prompt, two responses and a strength from -3 to 3. “Both bad” has no place there.",
    file_types=FLAT,
)
HELPSTEER3 = Format(
    "helpsteer3",
    HelpSteer3,
    description="""
HelpSteer3 preference: negative numbers prefer response 1. “Both bad” has no place in it.""",
    columns={
        "domain": "the prompt's group (topic), if it has one",
        "language": "empty: Caliper does not store it",
        "context": "the prompt as messages",
        "response1": "response a, exactly",
        "response2": "response b, exactly",
        "overall_preference": _STRENGTH,
        "individual_preference": "one entry per annotator: score, and the comment as reasoning",
        **TOOLS,
    },
    again="prompts, responses, and what each annotator said as votes of “helpsteer3-1” and so on, with strength and "
    "comment, ties included. “Both bad”, names, reasons, levels, ids and models' names have no place here. A verdict "
    "without a strength comes back with strength 1. Choose one row per pair: single votes on one pair share a name.",
    help="The prompt as messages, two responses, a strength from -3 to 3 and what each annotator said.",
)


# --- RewardBench ---


class RewardBench(Pairs):
    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        names = ("prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset", "id")
        self.schema = Schema([(name, TEXT) for name in names])

    def row(self, rows: Judgements, one: Decided, name: str, a: Answer, b: Answer) -> Row:
        chosen, rejected = (a, b) if one.verdict == Verdict.A else (b, a)
        return {
            "prompt": self.plain(a, b),
            "chosen": chosen.text,
            "chosen_model": chosen.author,
            "rejected": rejected.text,
            "rejected_model": rejected.author,
            "subset": a.prompt.group or self.project.slug,
            "id": name,
        }


REWARDBENCH = Format(
    "rewardbench",
    RewardBench,
    description="""
RewardBench: is the chosen response scored above the rejected one? Ties and “both bad” have no place in it.""",
    columns={
        "prompt": "what was asked; a transcript where it has several turns",
        "chosen": "the preferred response, exactly",
        "chosen_model": "who wrote it; empty where nobody said",
        "rejected": "the other response, exactly",
        "rejected_model": "who wrote it",
        "subset": "the prompt's group (topic), or the project's name in addresses",
        "id": "the judgement's id, or the pair's where votes are gathered",
    },
    again="prompts, responses with their models, and which of two is preferred. Ties, “both bad”, strength, reasons, "
    "comments, levels and who judged have no place here. Of several votes on one pair the first counts; one that "
    "contradicts it is refused by its row.",
    help="Prompt, chosen and rejected with the models' names, for measuring reward models. Ties have no place there.",
    file_types=FLAT,
)
