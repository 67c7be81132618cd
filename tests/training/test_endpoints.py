"""Endpoints by name: what pages and commands offer, refuse, estimate, and never tell."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse

from webapp.accounts.models import User
from webapp.corpus.base_models import base_model_choices, base_model_named, base_model_public
from webapp.corpus.endpoints import endpoint_named
from webapp.corpus.models import Project
from webapp.corpus.options import Method, RunRefused
from webapp.jobs import State
from webapp.training.estimates import FORM_CHARACTERS, MAX_NEW_TOKENS, MOST_TOGETHER, SAMPLES, judge_estimate
from webapp.training.models import TrainingRun
from webapp.training.services import config_digest, run_config
from workers import child
from workers.rewards.config import RunConfig
from workers.rewards.generative.items import MOST
from workers.rewards.generative.template import JudgeTemplate

TOML = """
[local]
url = "http://10.0.0.7:8000/v1"
model = "Qwen2.5-7B-Instruct"
[paid]
url = "https://api.example.com/v1"
model = "judge-large"
key_env = "JUDGE_KEY"
input_price = 1.0
output_price = 4.0
currency = "EUR"
"""


@pytest.fixture(autouse=True)
def offered(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "endpoints.toml"
    path.write_text(TOML)
    settings.ENDPOINTS_FILE = path
    monkeypatch.setenv("JUDGE_KEY", "sk-hidden")
    return path


def test_names(offered: Path) -> None:
    assert base_model_choices()[-2:] == ["endpoint:local", "endpoint:paid"]
    assert base_model_named(" endpoint:local ") == base_model_public("endpoint:local") == "endpoint:local"
    for name in (
        "endpoint:other",
        "endpoint:",
        "endpoint:http://10.0.0.7/v1",
        "endpoint:../local",
        "http://10.0.0.7/v1",
    ):
        with pytest.raises(RunRefused, match="No such base model may be used here"):
            base_model_named(name)
    offered.unlink()
    assert "endpoint:local" not in base_model_choices()
    with pytest.raises(RunRefused, match="No such base model"):
        base_model_named("endpoint:local")


def test_a_mistake_is_named_at_the_start_and_breaks_no_page(
    offered: Path, labelled: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    offered.write_text(TOML + 'timeout = "long"\n')
    (found,) = run_checks(tags=["caliper"])
    assert (found.id, "[paid] timeout must be a number" in found.msg) == ("caliper.W032", True)
    offered.write_text("[local")
    assert [each.id for each in run_checks(tags=["caliper"])] == ["caliper.W032"]
    page = client_of(admin).get(reverse("training:runs", args=[labelled.slug]))
    assert page.status_code == 200
    assert "endpoint:local" not in page.content.decode()


@pytest.mark.parametrize("method", [method for method in Method if method != Method.JUDGE])
def test_only_a_judge_asks_an_endpoint(labelled: Project, method: str) -> None:
    with pytest.raises(RunRefused, match=r"can be asked but not trained\. Choose the method Judge"):
        run_config(labelled, method, {"base_model": "endpoint:local"})


def test_a_judges_limits(labelled: Project) -> None:
    paid = {"base_model": "endpoint:paid", "cost_limit": 2.0, "token_limit": 1000}
    config = run_config(labelled, Method.JUDGE, paid)
    assert {name: config[name] for name in paid} == paid
    assert config["tuning"] == "frozen"
    with pytest.raises(RunRefused, match="cost_limit needs the prices of endpoint:local"):
        run_config(labelled, Method.JUDGE, {"base_model": "endpoint:local", "cost_limit": 2.0})


def test_the_form_offers_and_estimates_and_tells_no_address(
    labelled: Project, admin: User, client_of: Callable[[User], Client]
) -> None:
    client = client_of(admin)
    url = reverse("training:runs", args=[labelled.slug])
    page = client.get(url).content.decode()
    settings_page = client.get(reverse("corpus:settings", args=[labelled.slug])).content.decode()
    assert '<option value="endpoint:paid">' in page
    assert settings_page.count('<option value="endpoint:paid">') == 1, "for the causal base model alone"
    # one prompt of three short responses: 8 votes and half as many for robustness
    assert "endpoint:local 12 calls" in page
    assert re.search(r"endpoint:paid 12 calls, [\d,]+ tokens asked and 5,400 answered, 0\.0\d EUR\.", page)
    for secret in ("10.0.0.7", "api.example.com", "sk-hidden", "JUDGE_KEY"):
        assert secret not in page + settings_page
    wrong = {"method": "judge", "base_model": "endpoint:paid", "samples": "2", "cost_limit": "-1"}
    page = client.post(reverse("training:run-start", args=[labelled.slug]), wrong).content.decode()
    assert "endpoint:local 3 calls" in page, "by what was typed"


def test_an_estimate_of_many_prompts(project: Project, make_prompt: Callable[..., Any]) -> None:
    for number in range(3):
        make_prompt(project, f"p{number}", texts=["a" * 4000] * (6 if number else 0))
    endpoint = endpoint_named("endpoint:paid")
    found = judge_estimate(project, endpoint, {"samples": 20, "max_new_tokens": 300})
    assert found.calls == 20 * 1.5 * 2 * 2
    assert found.tokens_in == pytest.approx(30 * 2 * (2 * (FORM_CHARACTERS + 40) + 6 * 4000) / 4, rel=0.1)
    assert found.tokens_out == 20 * 1.5 * 2 * 600
    assert found.cost == endpoint.cost(found.tokens_in, found.tokens_out)


def test_a_run_goes_on_with_a_raised_limit(
    labelled: Project,
    admin: User,
    client_of: Callable[[User], Client],
    make_run: Callable[..., TrainingRun],
) -> None:
    limits = {"base_model": "endpoint:paid", "cost_limit": 0.5}
    run = make_run(labelled, "judge", State.FAILED, overrides=limits, error="The budget is spent.")
    client = client_of(admin)
    page = client.get(reverse("training:run", args=[labelled.slug, run.pk])).content.decode()
    assert re.search(r'name="cost_limit"[^>]*value="0.5"', page)
    url = reverse("training:run-resume", args=[labelled.slug, run.pk])
    refused = client.post(url, {"cost_limit": "-1"}, follow=True).content.decode()
    assert "Cost limit: Ensure this value is greater than or equal to 0" in refused
    run.refresh_from_db()
    assert (run.state, run.config["cost_limit"]) == (State.FAILED, 0.5)
    client.post(url, {"cost_limit": "1.5", "token_limit": "", "base_model": "starter"})
    run.refresh_from_db()
    assert (run.state, run.config["cost_limit"], run.config["base_model"]) == (
        State.QUEUED,
        1.5,
        "endpoint:paid",
    )
    assert "token_limit" not in run.config
    assert run.config_digest == config_digest(run.config)


def test_only_the_child_that_asks_has_the_key(offered: Path) -> None:
    asks, other = child.environment((), "endpoint:paid"), child.environment((), "starter")
    assert (asks["JUDGE_KEY"], asks["CALIPER_ENDPOINTS"]) == ("sk-hidden", str(offered))
    assert "JUDGE_KEY" not in child.environment((), "endpoint:local")
    assert not {"JUDGE_KEY", "CALIPER_ENDPOINTS"} & set(other)


def test_the_estimate_knows_what_the_workers_do() -> None:
    """They share no code."""
    config = RunConfig()
    assert (config.samples, config.max_new_tokens) == (SAMPLES, MAX_NEW_TOKENS)
    assert MOST_TOGETHER == MOST
    row = {"messages": [{"role": "user", "content": ""}], "tools": [], "text": ""}
    forms = [len(JudgeTemplate("").messages([row] * n)[0]["content"]) for n in (2, MOST)]
    assert forms[0] - 200 < FORM_CHARACTERS < forms[1] + 200
