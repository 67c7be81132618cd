"""Formats of single responses: TRL unpaired and UltraFeedback."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from webapp.corpus.models import Response
from webapp.labels.models import Level, QualityLabel, Verdict
from webapp.snapshots.columns import FLAG, NUMBER, TEXT, Schema, list_of, struct_of
from webapp.snapshots.formats.base import (
    FLAT,
    MAJORITY,
    Choice,
    Format,
    Row,
    Texts,
    View,
    batch_of,
    uses_tools,
)
from webapp.snapshots.formats.transcripts import Flattened, answered, asked, prompt_text
from webapp.snapshots.reading import BATCH, CHUNK, Among, Judgements, Levels, by_bytes, chunks
from webapp.snapshots.writing import Batch, Repeated


class Unpaired(View):
    """Each word of an annotator that calls a response good (true) or bad (false), or their majority per response.

    Good are the level good and the preferred side; bad are the level bad, the other side, and both of "both bad".
    """

    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        self.words: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        self.schema = Schema([("prompt", TEXT), ("completion", TEXT), ("label", FLAG)])

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Batch]:
        words = self.words
        for a, b, verdict in zip(rows.a, rows.b, rows.verdict, strict=True):
            if verdict in (Verdict.TIE, Verdict.SKIP):
                self.left_out[verdict] += 1
            else:
                words[a][verdict == Verdict.A] += 1
                words[b][verdict == Verdict.B] += 1
        yield from ()

    def levels(self, rows: Levels) -> Iterator[Batch]:
        for response, level in zip(rows.response, rows.level, strict=True):
            if level == Level.NORMAL:
                self.left_out["level normal"] += 1
            else:
                self.words[response][level == Level.GOOD] += 1
        yield from ()

    def end(self) -> Iterator[Batch]:
        keys = self.project.responses.order_by(by_bytes("external_id")).values_list("pk", flat=True)
        for chunk in chunks(keys.iterator(CHUNK), BATCH // 2):
            texts = Texts(pk for pk in chunk if pk in self.words)
            places: list[int] = []
            labels: list[bool] = []
            for pk in chunk:
                if pk in self.words:
                    found = self._labels(*self.words[pk])
                    labels += found
                    places += [texts.place[pk]] * len(found)
            Flattened(texts).count(self.changed, ((place,) for place in places))
            prompts = [texts.prompt_place[place] for place in places]
            yield {
                "prompt": Repeated([asked(prompt) for prompt in texts.prompts], prompts),
                "completion": Repeated([answered(answer) for answer in texts.answers], places),
                "label": labels,
            }

    def _labels(self, bad: int, good: int) -> list[bool]:
        if self.choice.aggregation != MAJORITY:
            return [True] * good + [False] * bad
        if good == bad:
            self.left_out["no majority"] += 1
            return []
        return [good > bad]


UNPAIRED = Format(
    "trl-unpaired",
    Unpaired,
    description="""
TRL unpaired: `label` is true for the level good and for the preferred side, false for the level bad, for the other
side, and for both sides of “both bad”. `prompt` is a transcript that ends in “\\n\\nAssistant:”, and `completion`
begins with the blank after it.""",
    columns={
        "prompt": "what was asked, as a transcript",
        "completion": "the response",
        "label": "true for good, false for bad",
    },
    again="prompts, responses, and their labels as the levels good and bad of an annotator named “trl”. Which "
    "responses were compared with which, and who said so, has no place here.",
    help="prompt, completion and label: true for preferred or good responses, false for the others.",
    file_types=FLAT,
)


# --- UltraFeedback ---


class UltraFeedback(View):
    """One row per prompt with every response and what people's levels say of it."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        text = TEXT
        aspect = struct_of(Rating=text, Rationale=text)
        completion = struct_of(
            model=text, response=text, overall_score=NUMBER, annotations=struct_of(quality=aspect)
        )
        self.schema = Schema(
            [
                ("source", text),
                ("instruction", text),
                ("models", list_of(text)),
                ("completions", list_of(completion)),
            ]
        )
        # The middle of each level's band on the scale of 1 to 9.
        bad, normal = self.project.bad_to, self.project.normal_to
        self.middle = {
            Level.BAD.value: (1 + bad) / 2,
            Level.NORMAL.value: (bad + 1 + normal) / 2,
            Level.GOOD.value: (normal + 10) / 2,
        }

    def judgements(self, rows: Judgements, ids: Sequence[str]) -> Iterator[Batch]:
        self.left_out["comparison"] += len(rows.pk)
        yield from ()

    def end(self) -> Iterator[Batch]:
        keys = self.project.prompts.order_by(by_bytes("external_id")).values_list("pk", flat=True)
        for chunk in chunks(keys.iterator(CHUNK), BATCH // 10):
            by_prompt: dict[int, list[int]] = {pk: [] for pk in chunk}
            responses = Response.objects.filter(prompt__in=chunk).order_by(by_bytes("external_id"))
            for prompt, pk in responses.values_list("prompt_id", "pk"):
                by_prompt[prompt].append(pk)
            texts = Texts(pk for pks in by_prompt.values() for pk in pks)
            said = self._said(texts)
            rows = [row for pks in by_prompt.values() if (row := self._row(pks, texts, said))]
            yield batch_of(rows, self.schema)

    def _said(self, texts: Texts) -> dict[int, list[tuple[str, str]]]:
        """(level, comment) by response, in the order of the annotators' names."""
        labels = QualityLabel.objects.current().filter(Among("response_id", texts.place))
        said = defaultdict(list)
        rows = labels.values_list("response_id", "annotator_id", "level", "comment")
        for pk, _, level, comment in sorted(rows, key=lambda row: (row[0], self.names[row[1]].name)):
            said[pk].append((level, comment))
        return said

    def _row(self, pks: list[int], texts: Texts, said: dict[int, list[tuple[str, str]]]) -> Row | None:
        if not any(pk in said for pk in pks):
            self.left_out["prompt without levels"] += 1
            return None
        answers = [texts.answers[texts.place[pk]] for pk in pks]
        prompt = answers[0].prompt
        self.changed["tools as text"] += any(uses_tools(answer.turns) for answer in answers)
        self.changed["turns as text"] += any(len(answer.turns) > 1 for answer in answers)
        return {
            "source": prompt.group or None,
            "instruction": prompt_text(prompt, self.changed),
            "models": [answer.author for answer in answers],
            "completions": [
                {
                    "model": answer.author,
                    "response": answer.text,
                    **self._judged(said.get(pk, [])),
                }
                for pk, answer in zip(pks, answers, strict=True)
            ],
        }

    def _judged(self, said: list[tuple[str, str]]) -> Row:
        if not said:
            self.changed["response without level"] += 1
            return {"overall_score": None, "annotations": None}
        levels = Counter(level for level, _ in said)
        score = sum(self.middle[level] * count for level, count in levels.items()) / len(said)
        comments = [comment for _, comment in said if comment]
        self.changed["levels averaged"] += len(levels) > 1
        self.changed["comments joined"] += len(comments) > 1
        rating = {"Rating": f"{score:g}", "Rationale": "\n\n".join(comments)}
        return {"overall_score": score, "annotations": {"quality": rating}}


ULTRAFEEDBACK = Format(
    "ultrafeedback",
    UltraFeedback,
    divides=False,
    description="""
UltraFeedback: one row per prompt with all its responses. `overall_score` is the mean of people's levels, each taken as
the middle of its band on the scale of 1 to 9. Verdicts on pairs have no place in it.""",
    columns={
        "source": "the prompt's group (topic), if it has one",
        "instruction": "the prompt; a transcript where it has several turns",
        "models": "who wrote the responses",
        "completions": "model, response, overall_score (1 to 9; empty without levels) and annotations: one aspect, "
        "“quality”, with the same rating and people's comments",
    },
    again="prompts, responses with their models, and a vote of “ultrafeedback” on every two scored responses: for the "
    "higher mean level, or a tie. Who gave the levels, and every verdict on a pair, has no place here.",
    help="One row per prompt with all responses and a score from people's levels. Verdicts on pairs have no place "
    "there.",
    aggregates=False,
)
