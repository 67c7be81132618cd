"""Rollouts: reward servers report what they scored, and read what became of it."""

from datetime import datetime
from typing import Any, Literal

from ninja import Field, Schema

from webapp.api.auth import ApiRequest, token
from webapp.api.paging import LIMIT, Cursor, Limit, Page, paged
from webapp.api.problems import Problem, refused
from webapp.api.routers import ProjectRouter
from webapp.api.schemas import Given, Message
from webapp.corpus.access import project_for
from webapp.rollouts.models import RolloutPair, RolloutWindow
from webapp.rollouts.reading import ReportRefused
from webapp.rollouts.reports import votes_of
from webapp.rollouts.services import RolloutsLater, RolloutsOff, rollouts_take

router = ProjectRouter(tags=["rollouts"])

Why = Literal["uncertain", "moved", "random"]
WhyOut = Literal["uncertain", "moved", "random", "later"]


class ScoredIn(Given):
    """A rollout as it was scored; the last three are null where the version has no ratings."""

    text: str
    score: float
    expected: float | None = None
    spread: float | None = None
    p: list[float] | None = Field(None, description="p(1) to p(9).")


class PairIn(Given):
    messages: list[Message] = Field(description="The prompt.")
    a: ScoredIn
    b: ScoredIn
    why: Why
    propensity: float = Field(description="Of a random pair: its chance among the candidates. 1 of others.")
    preferred: float = Field(description="P(a preferred), a tie counting half, as the version says it.")


class WindowIn(Given):
    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")


class Spread(Given):
    mean: float
    sd: float


class Rewards(Spread):
    count: int | None = None


class Report(Given):
    """What one server has scored with one version from one time to another."""

    server: str = Field(max_length=200)
    version: str = Field(max_length=200, description="The version's digest.")
    window: WindowIn
    seen: int = Field(ge=1, description="Rollouts scored.")
    prompts: int = Field(ge=0)
    candidates: int = Field(ge=0, description="Pairs of two rollouts of one prompt.")
    rewards: Rewards
    length: Spread = Field(description="In characters.")
    pairs: list[PairIn] = Field(max_length=200, description="In random order: a cap takes the first ones.")


class LeftOut(Schema):
    field: str
    message: str
    remedy: str


class Taken(Schema):
    """How many pairs are asked from now on, were here already, or were more than the hour's cap lets in."""

    taken: int
    duplicates: int
    over_cap: int
    left_out: list[LeftOut] = Field(description="Pairs whose texts nobody can judge, and why.")


@router.post(
    "rollouts",
    auth=token("score"),
    response=Taken,
    summary="Report what a reward server has scored",
    openapi_extra={"responses": {503: {"description": "An import is being written: send it again soon"}}},
)
def rollouts_report(request: ApiRequest, slug: str, body: Report) -> dict[str, Any]:
    """The window is noted, and its pairs are asked from now on. The same window sent again changes nothing.

    409 while the project does not ask people back about rollouts; 503 while an import is being written.
    """
    project = project_for(request, slug, "read")
    report = body.dict(by_alias=True)
    report["window"] = {end: moment.isoformat() for end, moment in report["window"].items()}
    try:
        return rollouts_take(project=project, report=report, reporter=request.user)
    except ReportRefused as refusal:
        raise refused(refusal.errors) from None
    except RolloutsOff as refusal:
        raise Problem(409, "No rollouts are taken", str(refusal)) from None
    except RolloutsLater as refusal:
        raise Problem(503, "Not now", str(refusal), headers={"Retry-After": "30"}) from None


class WindowOut(Schema):
    """A window that a server has reported. `version` is its name, as in “oprm-3”."""

    id: int
    server: str
    version: str
    since: datetime
    until: datetime
    seen: int
    prompts: int
    candidates: int
    reward_mean: float
    reward_sd: float
    length_mean: float
    length_sd: float
    taken: int
    duplicates: int
    over_cap: int
    left_out: int
    reported_at: datetime


def _window(row: RolloutWindow) -> dict[str, Any]:
    names = WindowOut.model_fields.keys() - {"id", "version"}
    return {
        **{name: getattr(row, name) for name in names},
        "id": row.pk,
        "version": row.version.address,
    }


@router.get(
    "rollouts", auth=token("read"), response=Page[WindowOut], summary="The windows that were reported"
)
def rollout_windows(
    request: ApiRequest, slug: str, limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    """Newest first."""
    rows = RolloutWindow.objects.filter(project=project_for(request, slug, "read")).with_versions()
    return paged(rows, cursor, limit, shown=lambda page: [_window(row) for row in page])


class RolloutPairOut(Schema):
    """A pair of rollouts, and what people say of it so far. Its texts are those of the pair."""

    id: int
    pair: int
    window: int
    version: str
    why: WhyOut = Field(description="later: a is an earlier rollout of the same prompt, b a later one.")
    propensity: float
    preferred: float
    score_a: float
    score_b: float
    judgements: int
    share: float | None = Field(description="People's share for a; a tie or both bad counts half.")
    created_at: datetime


@router.get(
    "rollouts/pairs",
    auth=token("read"),
    response=Page[RolloutPairOut],
    summary="The pairs people are asked about",
)
def rollout_pairs(
    request: ApiRequest, slug: str, why: WhyOut | None = None, limit: Limit = LIMIT, cursor: Cursor = None
) -> dict[str, Any]:
    """Newest first. Only the random ones say something about all rollouts; weight them by 1 / propensity."""
    rows = RolloutPair.objects.of(project_for(request, slug, "read")).select_related(
        "window__version", "a", "b"
    )
    rows = rows.defer("window__version__metrics")
    return paged(rows.filter(why=why) if why else rows, cursor, limit, shown=_pairs)


def _pairs(page: list[RolloutPair]) -> list[dict[str, Any]]:
    votes = votes_of([row.pair_id for row in page])
    items = []
    for row in page:
        said = votes[row.pair_id][0] if row.pair_id in votes else None
        items.append(
            {
                "id": row.pk,
                "pair": row.pair_id,
                "window": row.window_id,
                "version": row.window.version.address,
                "why": row.why,
                "propensity": row.propensity,
                "preferred": row.preferred,
                "score_a": row.a.score,
                "score_b": row.b.score,
                "judgements": said.total if said else 0,
                "share": said.share if said else None,
                "created_at": row.created_at,
            }
        )
    return items
