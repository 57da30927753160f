"""Planners by name."""

from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import Any

from planners.cem import CEMConfig, cem
from planners.cem_gradient import CEMGradientConfig, cem_gradient
from planners.gradient import GradientConfig, gradient
from planners.icem import ICEMConfig, icem
from planners.mppi import MPPIConfig, mppi
from planners.plan import Planner
from planners.random_shooting import RandomShootingConfig, random_shooting

PLANNERS: dict[str, tuple[Planner, type]] = {
    "random_shooting": (random_shooting, RandomShootingConfig),
    "cem": (cem, CEMConfig),
    "icem": (icem, ICEMConfig),
    "mppi": (mppi, MPPIConfig),
    "gradient": (gradient, GradientConfig),
    "cem_gradient": (cem_gradient, CEMGradientConfig),
}
"""Each planner's function and the dataclass of its hyperparameters."""


def make_planner(name: str, **overrides: Any) -> Planner:  # noqa: ANN401  # a hyperparameter has its own type
    """Return a planner with its hyperparameters bound: the defaults, and ``overrides`` by name.

    Raises:
        ValueError: the planner or a hyperparameter is unknown (the message names the nearest known one), or a
            value
            breaks its rule.
    """
    if name not in PLANNERS:
        raise ValueError(_unknown("planner", name, list(PLANNERS)))
    function, config_class = PLANNERS[name]
    known = [field.name for field in fields(config_class)]
    for key in overrides:
        if key not in known:
            raise ValueError(_unknown(f"{name} hyperparameter", key, known))
    return partial(function, config=config_class(**overrides))


def _unknown(kind: str, name: str, known: list[str]) -> str:
    nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"{kind} must be one of {', '.join(known)}, got {name!r}: did you mean {nearest!r}?"
