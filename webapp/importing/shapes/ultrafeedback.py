"""UltraFeedback: an instruction, completions of several models, and their scores."""

from statistics import fmean
from typing import Any

from webapp.importing.fields import RowError, id_of, is_given, metadata_of, optional, text_of
from webapp.importing.reading import Row
from webapp.importing.shapes.making import MAX_ANSWERS, Answer, listed, scored_records
from webapp.importing.shapes.prompts import note, required
from webapp.importing.shapes.records import Record
from webapp.importing.shapes.tracking import ReadRow, number_in, reading

UNSCORED = "completions without overall_score or ratings: stored as responses, their pairs have no vote"
MEAN = "completions without overall_score: the mean of their aspects' ratings is used"


def parse_ultrafeedback(row: Row) -> list[Record]:
    row = reading(row)
    question = required(row)
    answers = []
    completions = listed("completions", row.get("completions"), MAX_ANSWERS)
    if not completions:
        raise RowError("completions", "is empty.", "Give the instruction an answer.")
    for place, value in enumerate(completions, start=1):
        name = f"completions[{place}]"
        if not isinstance(value, dict):
            raise RowError(name, "is no object.", "Write {model, response, overall_score}.")
        one = ReadRow(value)
        try:
            answers.append(_completion(row, one))
        except RowError as error:
            raise RowError(f"{name}.{error.field}", error.message, error.remedy) from None
        row.beside |= {f"completions[].{field}" for field in one.unused()}
    source = row.get("source")
    if isinstance(source, str) and source.strip():
        answers = [(one.by(one.author, {"source": source} | one.metadata), score) for one, score in answers]
    models = row.get("models")
    if models == [answer.author for answer, _ in answers]:
        pass
    elif is_given(models):
        row.beside.add("models")
    return scored_records(
        "ultrafeedback", question.messages, answers, annotator="ultrafeedback", tools=question.tools
    )


def _completion(row: Row, one: ReadRow) -> tuple[Answer, float | None]:
    author = optional(one, "model", id_of)
    metadata: dict[str, Any] = {}
    score = number_in(one, "overall_score")
    if score is not None:
        metadata["overall_score"] = score
    ratings = []
    if is_given(one.get("annotations")):
        metadata |= {"annotations": metadata_of(one, "annotations")}
        for aspect in metadata["annotations"].values():
            rating: Any = aspect.get("Rating") if isinstance(aspect, dict) else None
            try:
                ratings.append(float(rating))
            except (TypeError, ValueError):
                ratings = []
                break
    if score is None and ratings:
        score = fmean(ratings)
        note(row, MEAN)
    if score is None:
        note(row, UNSCORED)
    return Answer(text_of(one, "response"), None, author, metadata), score
