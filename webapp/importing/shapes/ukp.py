"""UKPConvArg1: two files, imported together."""

from webapp.importing.fields import RowError, choice_of, comment_of, id_of, name_of, number_of, text_of
from webapp.importing.reading import Row, json_type
from webapp.importing.shapes.records import (
    MAX_VOTES,
    PairRecord,
    PromptRecord,
    Record,
    ResponseRecord,
    VoteRecord,
)


def parse_ukp(row: Row) -> list[Record]:
    """Rows of pairs.jsonl (votes) and of responses.jsonl (texts). Both stances of a debate make one group."""
    topic = id_of(row, "topic")
    if "response_id" in row:
        rank = number_of(row, "rank_score", -1e9, 1e9)
        metadata = {} if rank is None else {"rank_score": rank}
        return [ResponseRecord(id_of(row, "response_id"), topic, text_of(row, "text"), "", metadata)]
    a, b = id_of(row, "response_a_id"), id_of(row, "response_b_id")
    pair = id_of(row, "pair_id")
    votes = row.get("votes")
    if not isinstance(votes, list):
        raise RowError("votes", f"is {json_type(votes)}.", "Write a list of {annotator, choice, reason}.")
    if len(votes) > MAX_VOTES:
        raise RowError("votes", f"has {len(votes):,} votes, of {MAX_VOTES:,} allowed.", "Split the row.")
    messages = [{"role": "user", "content": text_of(row, "prompt")}]
    records: list[Record] = [
        PromptRecord(topic, messages, topic.rpartition("_")[0] or topic),
        PairRecord(pair, a, b),
    ]
    for vote in votes:
        if not isinstance(vote, dict):
            raise RowError("votes", f"holds {json_type(vote)}.", "Write {annotator, choice, reason}.")
        verdict = choice_of(vote, "choice", ("a", "b", "tie"))
        comment = comment_of(vote, "reason")
        records.append(
            VoteRecord(pair, "", "", annotator=name_of(vote, "annotator"), verdict=verdict, comment=comment)
        )
    return records
