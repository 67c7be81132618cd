"""QA-Feedback: a question on passages, four predictions, and a verdict on each of their six pairs."""

import re
from itertools import combinations

from django.conf import settings

from webapp.importing.fields import RowError, check_text, is_given, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.making import MAX_ANSWERS, Answer, listed, prompt_record, response_record
from webapp.importing.shapes.prompts import user
from webapp.importing.shapes.records import PairRecord, Record, VoteRecord


def parse_qa_feedback(row: Row) -> list[Record]:
    """The prompt is the passages (a sentence a line, an empty line between them), then the question."""
    read = []
    if is_given(row.get("passages")):
        for place, passage in enumerate(listed("passages", row["passages"], 1000), start=1):
            lines = passage if isinstance(passage, list) else [passage]
            name = f"passages[{place}]"
            read.append(
                "\n".join(check_text(name, line, limit=settings.MAX_TEXT_BYTES, empty=True) for line in lines)
            )
    content = "\n\n".join([*read, text_of(row, "question")])
    prompt = prompt_record(
        "qa-feedback", [user(check_text("passages", content, limit=settings.MAX_TEXT_BYTES))]
    )
    names = sorted((n for n in row if re.fullmatch(r"prediction \d{1,2}", n)), key=lambda n: int(n[11:]))
    if not 2 <= len(names) <= MAX_ANSWERS:
        raise RowError("prediction 1", "and its fellows are fewer than two.", "Add the predictions.")
    # A prediction is named by its place: two may be the same text.
    made = [response_record(prompt, Answer(text_of(row, name), None, name)) for name in names]
    pairs = list(combinations(made, 2))
    choices = listed("preference", row.get("preference"), len(pairs))
    if len(choices) != len(pairs):
        message = f"has {len(choices)} verdicts, {len(names)} predictions make {len(pairs)} pairs."
        raise RowError("preference", message, "Write one verdict a pair: (1,2) (1,3) (1,4) (2,3) …")
    records: list[Record] = [prompt, *made]
    for (a, b), choice in zip(pairs, choices, strict=True):
        records.append(PairRecord("", a.id, b.id))
        if choice is None:
            continue
        if isinstance(choice, bool) or choice not in (0, 1, 2):
            raise RowError("preference", f"holds {str(choice)[:40]!r}.", "Write 0 (tie), 1 or 2.")
        verdict = ("tie", "a", "b")[int(choice)]
        records.append(VoteRecord("", a.id, b.id, "qa-feedback", verdict))
    return records
