"""The form that starts a training: it shows and sends what the chosen method knows."""

from collections.abc import Callable
from typing import Any

from webapp.accounts.models import User
from webapp.corpus.models import Project
from webapp.training.models import TrainingRun


def test_only_fields_of_the_chosen_method_are_shown_and_sent(
    project: Project, admin: User, page_of: Callable[..., Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(TrainingRun, "enqueue", lambda run: None)
    project.training_options = {"hardening": 0.2}
    project.save()
    page = page_of(admin)
    page.goto(f"/p/{project.slug}/runs/")
    page.locator("#start summary").click()
    field = {name: page.locator(f"#id_{name}") for name in ("hardening", "samples", "stages", "cost_limit")}

    def shown() -> set[str]:
        return {name for name, control in field.items() if control.is_visible()}

    assert shown() == {"hardening"}
    page.locator("#id_method").select_option("grm")
    assert shown() == {"samples", "stages"}
    page.locator("#id_method").select_option("judge")
    assert shown() == {"samples", "cost_limit"}
    field["samples"].fill("4")
    page.locator("#start button[type=submit]").click()
    page.wait_for_url("**/runs/*/#start")
    config = TrainingRun.objects.get().config
    assert config["samples"] == 4
    assert not {"hardening", "stages", "cost_limit"} & set(config)
