"""The export formats by name. Each is a view of the labels; webapp.ratings adds the predictions of models."""

from webapp.snapshots.formats.base import FORMATS, Choice, Format, View, choice_of, register
from webapp.snapshots.formats.battles import ARENA, HELPSTEER2, HELPSTEER3, REWARDBENCH
from webapp.snapshots.formats.caliper import CALIPER
from webapp.snapshots.formats.canonical import CANONICAL
from webapp.snapshots.formats.preferences import PREFERENCES
from webapp.snapshots.formats.unpaired import ULTRAFEEDBACK, UNPAIRED

__all__ = ["FORMATS", "Choice", "Format", "View", "choice_of", "register"]

register(
    CANONICAL,
    CALIPER,
    *PREFERENCES,
    UNPAIRED,
    ARENA,
    ULTRAFEEDBACK,
    HELPSTEER2,
    HELPSTEER3,
    REWARDBENCH,
)
