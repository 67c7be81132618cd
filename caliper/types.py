"""What the API and a reward server answer, as dictionaries with types."""

from typing import Any, NotRequired, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


class Item(TypedDict):
    """What a reward server scores: a conversation (or a bare prompt) and the answer to it."""

    messages: NotRequired[list[Message]]
    prompt: NotRequired[str]
    text: NotRequired[str]


class ScoringVersion(TypedDict):
    """The version that scored."""

    name: str
    digest: str


class Score(TypedDict):
    """The score of one text. `expected`, `spread` and `p` (the ratings 1 to 9) are of versions that rate."""

    score: float
    expected: float | None
    spread: float | None
    p: list[float] | None
    percentile: float | None
    truncated: bool


Card = dict[str, Any]
Delivery = dict[str, Any]
EvaluationSet = dict[str, Any]
ExportCard = dict[str, Any]
ExportFormat = dict[str, Any]
ExportJob = dict[str, Any]
Import = dict[str, Any]
Judgement = dict[str, Any]
Level = dict[str, Any]
Mapping = dict[str, Any]
Me = dict[str, Any]
Measurement = dict[str, Any]
ModelFile = dict[str, Any]
NextCards = dict[str, Any]
Pair = dict[str, Any]
Prediction = dict[str, Any]
Progress = dict[str, Any]
Project = dict[str, Any]
Prompt = dict[str, Any]
PromptShown = dict[str, Any]
Receipt = dict[str, Any]
Response = dict[str, Any]
ResponsePredictions = dict[str, Any]
Run = dict[str, Any]
Serving = dict[str, Any]
SideShown = dict[str, Any]
Snapshot = dict[str, Any]
Taken = dict[str, Any]
Undone = dict[str, Any]
Version = dict[str, Any]
Webhook = dict[str, Any]
