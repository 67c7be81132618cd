"""Every loss as a pure function of scores; outcomes.py says the convention that they share."""

from .bradley_terry import bt_terms, clf_terms, log_levels, rao_kupper
from .ordinal import (
    level_terms,
    log_mass,
    log_not_both_bad,
    log_ratings,
    oprm_terms,
    region_mask,
    region_table,
    roughness,
)
from .outcomes import BOTH_BAD, MAX_STRENGTH, TIE, WIN
from .policy import dpo_terms

__all__ = [
    "BOTH_BAD",
    "MAX_STRENGTH",
    "TIE",
    "WIN",
    "bt_terms",
    "clf_terms",
    "dpo_terms",
    "level_terms",
    "log_levels",
    "log_mass",
    "log_not_both_bad",
    "log_ratings",
    "oprm_terms",
    "rao_kupper",
    "region_mask",
    "region_table",
    "roughness",
]
