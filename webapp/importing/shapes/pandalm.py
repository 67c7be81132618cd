"""PandaLM: two responses and the verdicts of several annotators in one row."""

import re

from webapp.corpus.models import messages_digest
from webapp.importing.fields import RowError, comment_of, id_of, optional, short_digest, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.records import PairRecord, PromptRecord, Record, ResponseRecord, VoteRecord


def parse_pandalm(row: Row) -> list[Record]:
    instruction, extra = text_of(row, "instruction"), comment_of(row, "input")
    messages = [{"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction}]
    texts = text_of(row, "response1"), text_of(row, "response2")
    models = optional(row, "cmp_key", id_of).split("_")
    authors = (models[0], models[1]) if len(models) == 2 else ("", "")
    prompt = f"pandalm-{messages_digest(messages)[:16]}"
    a, b = (
        f"{prompt}-{short_digest(author, text)[:12]}" for author, text in zip(authors, texts, strict=True)
    )
    if a == b:
        raise RowError(
            "response2",
            "is the same answer of the same model as response1.",
            "A pair needs two different answers.",
        )
    records: list[Record] = [
        PromptRecord(prompt, messages, ""),
        ResponseRecord(a, prompt, texts[0], authors[0], {}),
        ResponseRecord(b, prompt, texts[1], authors[1], {}),
        PairRecord("", a, b),
    ]
    fields = sorted(
        (field for field in row if re.fullmatch(r"annotator\d{1,3}", field)), key=lambda name: int(name[9:])
    )
    for field in fields:
        choice = row[field]
        if choice is None:
            continue
        if isinstance(choice, bool) or choice not in (0, 1, 2):
            raise RowError(field, f"is {str(choice)[:40]!r}.", "Write 0 (tie), 1 or 2.")
        records.append(VoteRecord("", a, b, annotator=field, verdict=("tie", "a", "b")[int(choice)]))
    return records
