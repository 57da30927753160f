"""Label-free diagnosis of a world model on windows of a store: while it trains, and of a finished run.

``diagnostics.json`` of a run: ``{"episodes", "num_windows", "store", "history": [{"step", ...}], "final": {...},
"spectrum", "slowness", "alarm": null | {"kind", "message", "advice", "action_r2", "step"}, "thresholds"}``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.preparation import Windows, derived_keys, open_store_of, split_episodes
from benchmarks.recipes import Recipe
from benchmarks.runs import RunError, read_config, read_recipe, require_part, write_json
from benchmarks.seeding import derive_seed
from worldmodel.action_readout import LEAST_TRAJECTORIES
from worldmodel.alarm import Alarm, SlowFeatureAlarm
from worldmodel.checkpoint import load_jepa
from worldmodel.data import TrajectoryStore, open_windows
from worldmodel.diagnostics import Diagnostics, NonFiniteEmbeddingError, diagnose
from worldmodel.jepa import JEPA
from worldmodel.metrics import read_metrics
from worldmodel.training import DIAGNOSTIC

NUM_WINDOWS = 512
SPACED = (256, 9)  # trajectories, and frames of each that are spaced over the whole of it
FILE = "diagnostics.json"
STAGE = "world_model"  # whose checks are the history

OnWarning = Callable[[int, Alarm], None]  # training step, what is wrong


def diagnosed_episodes(recipe: Recipe, store: TrajectoryStore) -> tuple[str, np.ndarray]:
    """Choose the episodes to diagnose on: the held-out ones if they are enough for the alarm, else the training ones.

    Returns:
        ``"held-out"`` or ``"training"``, and the episode indices.
    """
    split = split_episodes(recipe, store)
    if len(split["val"]) >= min(SlowFeatureAlarm().min_trajectories, len(split["train"])):
        return "held-out", split["val"]
    return "training", split["train"]


def draw_windows(windows: Windows, num_windows: int, seed: int) -> dict[str, Tensor]:
    """Draw up to ``num_windows`` different windows, from as many episodes as there are.

    Returns:
        The batch ``(B, T, ...)``, with the position of each window's episode as ``"trajectory" (B,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    starts = windows.starts[torch.randperm(windows.num_windows, generator=generator)]
    episode = torch.searchsorted(windows.offsets, starts, right=True) - 1
    order = episode.argsort(stable=True)
    _, counts = episode.unique(return_counts=True)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    turn = torch.empty_like(order)  # how many windows of the same episode come before
    turn[order] = torch.arange(len(order)) - first
    chosen = turn.argsort(stable=True)[:num_windows]
    return {**windows.gather(starts[chosen]), "trajectory": episode[chosen]}


def draw_spaced(windows: Windows, num_trajectories: int, num_frames: int, seed: int) -> dict[str, Tensor]:
    """Draw frames that are evenly spaced over whole episodes, from the first to the last.

    Returns:
        ``(E, K, ...)`` for ``E`` different episodes and ``K`` frames of each.
    """
    lengths = windows.offsets.diff()
    long_enough = (lengths >= windows.length).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = long_enough[torch.randperm(len(long_enough), generator=generator)[:num_trajectories]]
    first, spare = windows.offsets[:-1][chosen], lengths[chosen] - windows.length
    columns = []
    for k in range(num_frames):
        share = k / max(1, num_frames - 1)
        batch = windows.gather(first + (share * spare).round().long())
        columns.append({key: rows[:, round(share * (windows.length - 1))] for key, rows in batch.items()})
    return {key: torch.stack([column[key] for column in columns], dim=1) for key in columns[0]}


class TrainingDiagnosis:
    """The checks of one training: computes them, watches the alarm, and writes ``diagnostics.json``.

    Args:
        model: the model that is trained.
        batch: windows of :func:`draw_windows`.
        spaced: frames of :func:`draw_spaced`.
        run: folder of the run.
        num_steps: steps of the whole training.
        episodes: what the windows are of, ``"held-out"`` or ``"training"``.
        on_warning: called once, when the alarm speaks.
    """

    def __init__(
        self,
        model: JEPA,
        batch: Mapping[str, Tensor],
        spaced: Mapping[str, Tensor],
        run: Path,
        num_steps: int,
        *,
        episodes: str,
        on_warning: OnWarning | None = None,
    ) -> None:
        self.model, self.batch, self.spaced = model, batch, spaced
        self.run, self.num_steps = run, num_steps
        self.episodes, self.on_warning = episodes, on_warning
        self.alarm = SlowFeatureAlarm()
        self.has_warned = False

    @property
    def is_possible(self) -> bool:
        """Whether there are trajectories enough for the statistics."""
        return len(self.batch["trajectory"].unique()) >= LEAST_TRAJECTORIES

    def scalars(self) -> dict[str, float]:
        """Diagnose the model as it is; nothing where its embeddings are not finite, which the loss will tell."""
        try:
            return diagnose(self.model, self.batch, spaced=self.spaced).scalars
        except NonFiniteEmbeddingError:
            return {}

    def observe(self, scalars: Mapping[str, float]) -> None:
        """Let the alarm look at the log after a step whose ``scalars`` were written to it."""
        if any(name.startswith(DIAGNOSTIC) for name in scalars):
            spoken = self.alarm.check_training(read_history(self.run), self.num_steps)
            if spoken is not None:
                self._warn(*spoken)

    def finish(self) -> None:
        """Diagnose the trained model, warn if that is the first alarm, and write ``diagnostics.json``."""
        write_diagnostics(
            self.run,
            diagnose(self.model, self.batch, spaced=self.spaced),
            read_history(self.run),
            self.num_steps,
            episodes=self.episodes,
            num_windows=len(self.batch["trajectory"]),
        )
        found = read_alarm(self.run)
        if found is not None:
            self._warn(*found)

    def _warn(self, step: int, alarm: Alarm) -> None:
        if not self.has_warned and self.on_warning is not None:
            self.on_warning(step, alarm)
        self.has_warned = True


def read_history(run: Path) -> list[dict[str, float]]:
    """Read the checks of the world model's training from ``metrics.jsonl``, without their prefix."""
    history = []
    for line in read_metrics(run / "metrics.jsonl"):
        found = {
            key.removeprefix(DIAGNOSTIC): value for key, value in line.items() if key.startswith(DIAGNOSTIC)
        }
        if line["stage"] == STAGE and found:
            history.append({"step": line["step"], **found})
    return history


def write_diagnostics(
    run: Path,
    found: Diagnostics,
    history: list[dict[str, float]],
    num_steps: int,
    *,
    episodes: str,
    num_windows: int,
    store: str | None = None,
) -> dict[str, Any]:
    """Write ``diagnostics.json`` and return it; the alarm is judged on the final diagnosis alone.

    Its ``step`` is the one at which it first spoke in training, or the last one.
    """
    alarm = SlowFeatureAlarm()
    raised = alarm.check(found.scalars)
    spoken = alarm.check_training(history, num_steps)
    value = {
        "episodes": episodes,
        "num_windows": num_windows,
        "store": store,  # None: the one that the run was trained on
        "history": history,
        "final": found.scalars,
        "spectrum": found.spectrum,
        "slowness": found.slowness,
        "alarm": raised
        and {**dataclasses.asdict(raised), "step": num_steps if spoken is None else spoken[0]},
        "thresholds": alarm.thresholds(),
    }
    write_json(run / FILE, value)
    return value


def read_alarm(run: Path) -> tuple[int, Alarm] | None:
    """Read the alarm of a run's ``diagnostics.json``, with its step; None if there is no alarm or no file."""
    path = run / FILE
    value = json.loads(path.read_text()).get("alarm") if path.exists() else None
    if value is None:
        return None
    return value["step"], Alarm(**{key: value[key] for key in value if key != "step"})


def diagnose_run(
    run: Path, store_path: str | None = None, *, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Diagnose a trained run on fresh windows and renew ``diagnostics.json``; the history stays.

    Args:
        run: folder of the run.
        store_path: the store; None is the one that the run was trained on, of which the held-out episodes are used.
            All episodes of another store are.
        seed: which windows.
        device: of the networks.

    Raises:
        RunError: the run has no world model or store, or the store is of another environment or too small.
    """
    config, recipe = read_config(run), read_recipe(run)
    model, _ = load_jepa(require_part(run, "model", "worldmodel train"), device)
    trained_on = config.get("store", {}).get("path")
    store = open_store_of(run) if store_path is None else TrajectoryStore.open(store_path)
    if store.env["id"] != recipe.collect.env_id:
        raise RunError(f"the store must be of {recipe.collect.env_id}, got {store.env['id']}")
    if trained_on is None or Path(str(store.path)).resolve() != Path(trained_on).resolve():
        name, episodes = "another store", store.episodes["episode_index"]
    else:
        name, episodes = diagnosed_episodes(recipe, store)
    keys = [*model.observation_keys, "action"]
    derived = derived_keys(store, keys, device)
    with open_windows(
        store, keys, recipe.objective.window, episodes=episodes, device=device, derived=derived
    ) as windows:
        batch = draw_windows(windows, NUM_WINDOWS, derive_seed(seed, "diagnose", "fresh"))
        spaced = draw_spaced(windows, *SPACED, derive_seed(seed, "spaced", "fresh"))
    num_trajectories = len(batch["trajectory"].unique())
    if num_trajectories < LEAST_TRAJECTORIES:
        raise RunError(
            f"a diagnosis must have at least {LEAST_TRAJECTORIES} episodes, got {num_trajectories} in {store.path}"
        )
    return write_diagnostics(
        run,
        diagnose(model, batch, spaced=spaced, seed=seed),
        read_history(run),
        recipe.world_model.num_steps,
        episodes=name,
        num_windows=len(batch["trajectory"]),
        store=str(store.path),
    )
