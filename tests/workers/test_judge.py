"""Method judge over an endpoint, whole: command, child, real client, a published version, budget and Resume."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.rewards.generative.openai_double import KEY, Double, prompt_of
from webapp.corpus.models import Pair, Project
from webapp.jobs import State
from webapp.labels.models import Judgement
from webapp.ratings.models import Vote
from webapp.training.models import TrainingRun
from webapp.training.services import run_resume
from workers import runs


@pytest.fixture
def double(settings: Any, tmp_path: Path) -> Iterator[Double]:
    with Double() as server:
        settings.ENDPOINTS_FILE = server.toml(tmp_path / "endpoints.toml", input_price=1.0, output_price=4.0)
        yield server


@pytest.fixture
def judged(project: Project, make_prompt: Callable[..., Any], make_user: Callable[..., Any]) -> Project:
    """Twelve prompts of two responses, of which people prefer the longer, and one of five."""
    project.guidelines = "The longer the better."
    project.save()
    anna = make_user("anna", project, "annotator")
    for number in range(12):
        make_prompt(
            project, f"p{number}", texts=["Short.", f"A much longer answer, the {number}th of its kind."]
        )
    make_prompt(project, "many", texts=[f"Answer {'again and ' * number}once." for number in range(5)])
    for pair in Pair.objects.filter(project=project).select_related("response_a", "response_b"):
        longer = "a" if len(pair.response_a.text) > len(pair.response_b.text) else "b"
        Judgement.objects.create(
            pair=pair, annotator=anna, verdict=longer, left="a", client_key=f"k{pair.pk}"
        )
    return project


@pytest.mark.slow
@pytest.mark.one_database
def test_whole(judged: Project, double: Double, capsys: pytest.CaptureFixture[str]) -> None:
    call = (
        "train",
        "--project",
        judged.slug,
        "--method",
        "judge",
        "--base-model",
        "endpoint:local",
        "--inline",
    )
    double.plan.extend(["", "429", "500", "null"])
    with pytest.raises(CommandError, match="The budget is spent") as spent:
        call_command(*call, "--samples", "4", "--max-new-tokens", "200", "--token-limit", "9000")
    assert "Raise the limit, then press Resume" in str(spent.value)
    assert "endpoint:local (judge-1), about 84 calls" in capsys.readouterr().out
    run = TrainingRun.objects.get()
    first = len(double.seen)
    assert run.state == State.FAILED
    assert 20 < first < 56

    assert run_resume(run=run, limits={"token_limit": 90_000})
    runs.train(run.pk)
    run.refresh_from_db()
    assert (run.state, run.error) == (State.DONE, "")
    again = [(each["seed"], prompt_of(each)) for each in double.seen]
    assert len(again) - len(set(again)) == 3, "what failed was asked again, and nothing that was answered"

    version, found = run.version, run.metrics["generative"]
    assert (version.kind, version.gate_passed, version.is_serving) == ("ordinal", True, True)
    assert (found["requests"], found["retries"]) == (len(double.seen), 3)
    assert 9000 < found["tokens_in"] + found["tokens_out"] < 90_000
    assert found["cost"] == pytest.approx((found["tokens_in"] + 4 * found["tokens_out"]) / 1e6)
    assert (found["currency"], found["endpoint_model"]) == ("USD", "judge-1")
    # It learnt no label, so it is measured on all of them.
    assert run.metrics["held_out"]["pairs"]["n"] == Judgement.objects.count() == 22
    predictions = list(version.predictions.select_related("response"))
    assert {each.split for each in predictions} == {"held_out"}
    assert len(predictions) == 29
    votes = Counter(Vote.objects.filter(trajectory__version=version).values_list("response", flat=True))
    assert set(votes.values()) == {4}, "each response has its four votes"
    one = predictions[0]
    cast = Counter(Vote.objects.filter(response=one.response).values_list("rating", flat=True))
    assert one.p == pytest.approx([(cast[rating] + 1 / 9) / 5 for rating in range(1, 10)])
    # the model's folder and the run's, but for the endpoint's name, tell nothing of where and by which key
    texts = b"".join(path.read_bytes() for path in run.folder.rglob("*") if path.is_file())
    assert KEY.encode() not in texts
    assert double.url.encode() not in texts
