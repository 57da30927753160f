"""How good the alarm is: what it says of cells whose state is known to be lost or kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.slow_features.table import chance, encoding_rmse
from benchmarks.statistics import wilson_interval

FAILING = 2 / 3  # encoding error of the position relative to chance, from which on the state counts as lost
HEALTHY = 1 / 3  # up to which it counts as kept; in between the alarm may say either


def judge(cell: Mapping[str, Any]) -> str:
    """Return ``failing``, ``healthy`` or ``between`` by the position's error on encodings, relative to chance."""
    error = encoding_rmse(cell)
    assert error is not None
    ratio = error / chance(cell)
    return "failing" if ratio >= FAILING else "healthy" if ratio <= HEALTHY else "between"


def alarm_quality(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return sensitivity over failing and specificity over healthy cells, with intervals and the cells it gets wrong."""
    kinds: dict[str, list[Mapping[str, Any]]] = {"failing": [], "healthy": [], "between": []}
    for cell in cells:
        kinds[judge(cell)].append(cell)
    rang = {kind: [cell for cell in group if cell["alarm"] is not None] for kind, group in kinds.items()}
    silent = [cell for cell in kinds["failing"] if cell["alarm"] is None]
    wrong = [
        {key: cell[key] for key in ("objective", "world", "distractor", "motion", "alpha", "seed", "lr")}
        for cell in silent + rang["healthy"]
    ]
    quality: dict[str, Any] = {
        "failing_from": FAILING,
        "healthy_to": HEALTHY,
        **{kind: len(group) for kind, group in kinds.items()},
        "rang_between": len(rang["between"]),
        "wrong": wrong,
    }
    right = {
        "sensitivity": (len(rang["failing"]), len(kinds["failing"])),
        "specificity": (len(kinds["healthy"]) - len(rang["healthy"]), len(kinds["healthy"])),
    }
    for name, (count, total) in right.items():
        quality[name] = count / total if total else None
        quality[f"{name}_ci95"] = list(wilson_interval(count, total)) if total else None
    return quality
