"""Calibration: a model's probabilities bent so that they say how often people agree, without a change of order.

- `temperature` for scalar rewards (Guo et al. 2017, on pairs): r / temperature, and with Rao-Kupper ties a threshold
  of its own, because the width of the tie band is measured in the same unit.
- `beta_cdf` for rating distributions: the beta calibration map of Kull et al. (2017), on the cumulative distribution:
  F'(k) = sigmoid(a log F(k) - b log(1 - F(k)) + c). One monotone map for all responses, so a response whose rating is
  stochastically higher stays so.

evaluation/calibrate.py fits the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .preference import Floats, sigmoid

METHODS = {"temperature": ("temperature",), "beta_cdf": ("a", "b", "c")}
SMALLEST = 1e-12


@dataclass(frozen=True)
class Calibration:
    """A method and its parameters; method None leaves everything as it is."""

    method: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)

    @property
    def temperature(self) -> float:
        """What differences of rewards are divided by."""
        return self.parameters["temperature"] if self.method == "temperature" else 1.0

    def tie(self, fitted: float | None) -> float | None:
        """The Rao-Kupper threshold, given the one that was fitted with the model (None: it knows no ties)."""
        return self.parameters.get("tie", fitted) if self.method == "temperature" else fitted

    def ratings(self, p: ArrayLike) -> Floats:
        """Rating distributions, calibrated. [N, 9] -> [N, 9]"""
        p = np.asarray(p, dtype=np.float64)
        if self.method != "beta_cdf" or not len(p):
            return p
        reached = beta_cdf(*log_tails(p), *(self.parameters[name] for name in METHODS["beta_cdf"]))
        result: Floats = np.maximum(np.diff(reached, axis=1), 0.0)  # rounding must not leave -1e-17
        return result

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "parameters": dict(self.parameters)}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """What to_json gave; None, as in models older than calibration, is the identity. Raises ValueError."""
        if value is None:
            return cls()
        if not isinstance(value, dict) or value.get("method") not in (None, *METHODS):
            raise ValueError(f"calibration is {value!r:.80}; its method must be one of {', '.join(METHODS)}")
        if value["method"] is None:
            return cls()
        parameters = value.get("parameters")
        known = {*METHODS[value["method"]], *(["tie"] if value["method"] == "temperature" else [])}
        if (
            not isinstance(parameters, dict)
            or not set(METHODS[value["method"]]) <= set(parameters) <= known
            or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in parameters.values())
            or any(not parameters[name] > 0 for name in ("temperature", "a", "b") if name in parameters)
        ):
            raise ValueError(f"calibration has parameters {parameters!r:.120}")
        return cls(value["method"], {name: float(x) for name, x in parameters.items()})


def log_tails(p: Floats) -> tuple[Floats, Floats]:
    """log F(k) and log(1 - F(k)) for k = 1..8, each summed from its own end. [N, 9] -> 2 x [N, 8]"""
    below = np.cumsum(p, axis=1)[:, :-1]
    above = np.cumsum(p[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return np.log(np.maximum(below, SMALLEST)), np.log(np.maximum(above, SMALLEST))


def beta_cdf(log_below: Floats, log_above: Floats, a: float, b: float, c: float) -> Floats:
    """F'(k) for k = 0..9. [N, 8] -> [N, 10]"""
    inner = sigmoid(a * log_below - b * log_above + c)
    return np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (0.0, 1.0)))
