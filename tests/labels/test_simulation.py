"""Simulated annotators go through the real queue and services, and are named as what they are."""

from collections.abc import Callable

import pytest
from django.core.management import CommandError, call_command

from webapp.accounts.models import User
from webapp.corpus.models import Pair, Project, Prompt, Response
from webapp.labels.models import Judgement, QualityLabel
from webapp.labels.simulation import qualities, simulate


@pytest.fixture
def graded(project: Project, make_prompt: Callable[..., Prompt]) -> Project:
    """Ten prompts, each with a good, a middling and a bad response; overlap 2."""
    for number in range(10):
        prompt = make_prompt(project, f"p{number}", ["good", "middling", "bad"])
        for response, quality in zip(prompt.responses.order_by("pk"), (8.5, 5.0, 1.5), strict=True):
            Response.objects.filter(pk=response.pk).update(metadata={"quality": quality})
    return project


def test_the_better_response_wins_and_the_overlap_is_exact(graded: Project) -> None:
    stored = simulate(project=graded, annotators=4, judgements=1_000, skip_rate=0.0)
    assert stored == 60
    assert set(Pair.objects.of(graded).values_list("judged", "reserved")) == {(2, 0)}
    # response_a is always the better one here
    decided = Judgement.objects.verdicts().filter(verdict__in=("a", "b"))
    assert decided.filter(verdict="a").count() > 0.8 * decided.count()
    assert set(Judgement.objects.values_list("source", flat=True)) == {"simulated"}
    good = QualityLabel.objects.current().filter(response__text="good")
    assert good.filter(level="good").count() > 0.6 * good.count()


def test_simulated_annotators_are_no_people(graded: Project) -> None:
    simulate(project=graded, annotators=2, judgements=4)
    users = User.objects.filter(kind=User.Kind.SIMULATED)
    assert users.count() == 2
    for user in users:
        assert user.display_name.endswith("(simulated)")
        assert not user.is_active
        assert not user.has_usable_password()


def test_without_known_quality_the_votes_so_far_count(graded: Project) -> None:
    simulate(project=graded, annotators=4, judgements=60, skip_rate=0.0)
    Response.objects.update(metadata={})
    found = qualities(graded)
    by_text = {
        text: [found[pk] for pk in Response.objects.filter(text=text).values_list("pk", flat=True)]
        for text in ("good", "bad")
    }
    assert min(by_text["good"]) > max(by_text["bad"])


def test_levels_of_single_responses(graded: Project) -> None:
    from webapp.corpus.services import project_save

    graded.asks = Project.Asks.LEVELS
    project_save(project=graded)
    assert simulate(project=graded, annotators=3, judgements=1_000) == 60
    assert set(Response.objects.of(graded).values_list("labelled", flat=True)) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--project", "nope"], "There is no project “nope”. Projects: capitals."),
        (["--project", "capitals", "--annotators", "0"], "must be at least 1"),
    ],
)
def test_the_command_refuses_nonsense(graded: Project, arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        call_command("simulate", *arguments)
