"""From neutral parts to records: what a preference says, whatever the columns were called."""

from webapp.corpus.models import messages_digest
from webapp.importing.fields import Message, RowError, short_digest
from webapp.importing.shapes.records import PairRecord, PromptRecord, Record, ResponseRecord, VoteRecord


def preference(
    source: str, messages: list[Message], chosen: str, rejected: str, *, comment: str = ""
) -> list[Record]:
    """One vote, by an annotator named like the format: these formats don't say who judged."""
    if chosen == rejected:
        raise RowError("rejected", "is the same text as chosen.", "A preference needs two different answers.")
    prompt = f"{source}-{messages_digest(messages)[:16]}"
    a, b = (f"{prompt}-{short_digest(text)[:12]}" for text in (chosen, rejected))
    return [
        PromptRecord(prompt, messages, ""),
        ResponseRecord(a, prompt, chosen, "", {}),
        ResponseRecord(b, prompt, rejected, "", {}),
        PairRecord("", a, b),
        VoteRecord("", a, b, annotator={"hh": "hh-rlhf"}.get(source, source), verdict="a", comment=comment),
    ]
