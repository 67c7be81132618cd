"""The demonstration: made once, complete, with passwords of its own."""

from collections import Counter
from pathlib import Path

import pytest
from django.test import Client

from webapp.accounts.models import User
from webapp.corpus.models import Method, Pair, Project, Prompt, Response
from webapp.corpus.options import GENERATIVE
from webapp.labels.models import Judgement
from webapp.training import demo
from webapp.training.models import TrainingRun

pytestmark = pytest.mark.django_db


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start with fewer judgements, which takes less time."""
    monkeypatch.setattr(demo, "SHARE_JUDGED", 0.05)


def sign_ins(data_dir: Path) -> dict[str, str]:
    return dict(line.split() for line in (data_dir / "sign-ins.txt").read_text().splitlines())


def test_the_first_start_makes_everything(few: None, data_dir: Path) -> None:
    assert demo.demo_seed()
    prompts = Prompt.objects.filter(project__slug="demo")
    assert prompts.count() >= 40
    per_prompt = Counter(Response.objects.filter(project__slug="demo").values_list("prompt_id", flat=True))
    assert set(per_prompt.values()) == {3, 4}
    assert any(len(messages) > 2 for messages in prompts.values_list("messages", flat=True))
    assert Judgement.objects.verdicts().count() == round(0.05 * 3 * Pair.objects.count())
    assert set(Judgement.objects.values_list("annotator__kind", flat=True)) == {User.Kind.SIMULATED}
    assert set(TrainingRun.objects.values_list("method", flat=True)) == set(Method) - set(GENERATIVE)
    assert (data_dir / "sign-ins.txt").stat().st_mode & 0o077 == 0
    for name, password in sign_ins(data_dir).items():
        assert Client().post("/sign-in/", {"username": name, "password": password}).status_code == 302


def test_a_second_start_changes_nothing(few: None, data_dir: Path) -> None:
    demo.demo_seed()
    before = sign_ins(data_dir), TrainingRun.objects.count(), Judgement.objects.count()
    assert not demo.demo_seed()
    assert (sign_ins(data_dir), TrainingRun.objects.count(), Judgement.objects.count()) == before


def test_an_interrupted_start_goes_on(few: None, data_dir: Path) -> None:
    demo.demo_seed(train=False)
    first = sign_ins(data_dir)
    assert demo.demo_seed()
    assert sign_ins(data_dir) == first
    assert TrainingRun.objects.count() == len(demo.FIRST_RUNS)


def test_a_deleted_demonstration_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHARE_JUDGED", 0)
    demo.demo_seed(train=False)
    Project.objects.all().delete()
    assert not demo.demo_seed()
    assert not Project.objects.exists()


def test_passwords_are_drawn_for_each_installation(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHARE_JUDGED", 0)
    demo.demo_seed(train=False)
    first = sign_ins(data_dir)
    Project.objects.all().delete()
    User.objects.all().delete()
    demo.demo_seed(train=False)
    assert set(sign_ins(data_dir).values()).isdisjoint(first.values())
