"""The rating scale: nine ratings, three levels, and where one level ends and the next begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RATINGS = 9
LEVELS = ("bad", "normal", "good")
LEVEL_INDEX = {name: index for index, name in enumerate(LEVELS)}
UNKNOWN = len(LEVELS)  # the level index of a response that nobody has levelled


@dataclass(frozen=True)
class Partition:
    """Ratings 1..bad_max are bad, bad_max+1..normal_max normal, the rest good.

    Raises ValueError unless every level keeps at least one rating.
    """

    bad_max: int = 3
    normal_max: int = 6

    def __post_init__(self) -> None:
        if not 1 <= self.bad_max < self.normal_max < RATINGS:
            raise ValueError(
                f"partition [{self.bad_max}, {self.normal_max}] must rise within 1..{RATINGS - 1}, "
                "so that bad, normal and good each keep a rating"
            )

    def bounds(self, level: int) -> tuple[int, int]:
        """Lowest and highest rating of a level index; 1..9 for UNKNOWN."""
        return (
            (1, self.bad_max),
            (self.bad_max + 1, self.normal_max),
            (self.normal_max + 1, RATINGS),
            (1, RATINGS),
        )[level]

    def level_of(self, rating: int) -> int:
        """Level index of a rating 1..9."""
        if not 1 <= rating <= RATINGS:
            raise ValueError(f"rating {rating} is outside 1..{RATINGS}")
        return 0 if rating <= self.bad_max else 1 if rating <= self.normal_max else 2

    def masks(self) -> torch.Tensor:
        """Which ratings a level holds, one row per level and a last row of ones for UNKNOWN. [4, 9] bool"""
        import torch  # here, so that metrics can be computed where there is none

        ratings = torch.arange(1, RATINGS + 1)
        rows = [(ratings >= low) & (ratings <= high) for low, high in map(self.bounds, range(UNKNOWN + 1))]
        return torch.stack(rows)
