"""Who let which version serve, and when, as the audit log has it; and the words of the button that does it."""

from dataclasses import dataclass

from webapp.corpus.audit import ITSELF, Action
from webapp.corpus.models import AuditEntry, Project
from webapp.training.models import ModelVersion


@dataclass(frozen=True)
class Promotion:
    """One act of letting a version serve."""

    entry: AuditEntry

    @property
    def number(self) -> int:
        return int(self.entry.detail["version"])

    @property
    def instead_of(self) -> int | None:
        found: int | None = self.entry.detail.get("instead_of")
        return found

    @property
    def back(self) -> bool:
        return self.entry.action == Action.VERSION_ROLLED_BACK

    @property
    def against_the_gate(self) -> bool:
        """A person let it serve although it was held at the gate."""
        return self.entry.detail.get("gate_passed") is False

    @property
    def by(self) -> str:
        """Who did it: a person's name, or why Caliper did."""
        if self.entry.actor is not None:
            return self.entry.actor.display_name
        if self.entry.actor_name != ITSELF:
            return self.entry.actor_name
        if mark := self.entry.detail.get("gate_mark"):
            return f"Caliper, as none that does better was there ({mark})"
        return "Caliper, as it passed the gate"


@dataclass(frozen=True)
class Story:
    """A version with how its serving began and ended last, and what its button says; None: not written down."""

    version: ModelVersion
    serving: ModelVersion | None
    began: Promotion | None
    ended: Promotion | None

    @property
    def button(self) -> str:
        """“Roll back” is for an older version than the one that serves; a newer one may serve again."""
        name = f"v{self.version.number}"
        if self.serving is not None and self.serving.number > self.version.number:
            return f"Roll back to {name}"
        return f"Let {name} serve again" if self.version.promoted_at else f"Let {name} serve"


def promotions(project: Project) -> list[tuple[str, Promotion]]:
    """Every act of the project with the method, newest first. One query."""
    acts = (Action.VERSION_PROMOTED, Action.VERSION_ROLLED_BACK)
    entries = AuditEntry.objects.of(project).filter(action__in=acts).select_related("actor").order_by("-pk")
    return [(entry.detail["method"], Promotion(entry)) for entry in entries]


def story_of(version: ModelVersion, serving: ModelVersion | None, acts: list[tuple[str, Promotion]]) -> Story:
    """The story of a version; `serving` is the one that serves its method."""
    own = [act for method, act in acts if method == version.method]
    began = next((act for act in own if act.number == version.number), None)
    ended = None
    if not version.is_serving and version.promoted_at is not None:
        ended = next((act for act in own if act.instead_of == version.number), None)
    return Story(version, serving, began, ended)
