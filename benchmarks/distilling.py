"""``distill``: from a trained run, whose planner is the teacher, to a Mode-1 policy beside the run's own."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.agents import LearnedActor, TrainedRun, load_run
from benchmarks.policy_checkpoint import POLICIES, load_policy, policy_folder, save_policy
from benchmarks.preparation import encode_episodes, split_episodes
from benchmarks.recipes import PlannerRecipe, Recipe, require_positive
from benchmarks.runs import RunError, command_line, read_config, read_recipe, write_json
from benchmarks.seeding import derive_seed, make_generator
from envs.simulator import Simulator
from planners.distill import (
    DemonstrationBatches,
    Demonstrations,
    HindsightActions,
    ImitationObjective,
    demonstrate,
)
from planners.policy import GoalPolicy
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import require_known
from worldmodel.training import BatchFn, FitConfig, fit

OnStep = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps in all, scalars
METHODS = ("dagger", "inverse")


@dataclass(frozen=True)
class DistillConfig:
    """How a policy is distilled."""

    own_start: bool = True  # dagger: start from the run's own policy where it has these hidden_dims
    rounds: int = 3  # dagger: the planner acts in the first, the policy in the others
    episodes: int = 200  # dagger: worlds per round
    num_steps: int = 40  # dagger: env steps per episode
    max_lag: int = 16  # inverse: farthest goal [env steps]
    max_episodes: int = 2000  # inverse: of the run's store, held in memory as embeddings
    train_steps: int = 2000  # updates per round, or of the inverse dynamics
    lr: float = 1e-3
    batch_size: int = 256
    hidden_dims: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        names = ("rounds", "episodes", "num_steps", "max_lag", "max_episodes", "train_steps", "batch_size")
        require_positive(self, *names)
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")


def distill_run(
    run: Path,
    method: str,
    config: DistillConfig = DistillConfig(),
    *,
    planner: PlannerRecipe | None = None,
    seed: int | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Distill a Mode-1 policy and write it beside the run's own, for ``evaluate --policy METHOD``.

    Args:
        run: folder of a trained run.
        method: "dagger": the planner's actions in closed loop, on worlds of the training split; "inverse": the actions
            of the run's own data.
        config: sizes.
        planner: the teacher; None is the recipe's planner.
        seed: of worlds, weights and batches; None takes the run's.
        device: of the networks.
        on_step: called with stage, step, steps in all and scalars.

    Returns:
        What was done: method, settings, demonstrations, the planner's and the training's seconds, and the last error.

    Raises:
        RunError: the run's store is gone (inverse).
        ValueError: an unknown method.
    """
    require_known("method", method, METHODS)
    trained, recipe = load_run(run, device), read_recipe(run)
    seed = int(read_config(run).get("seed", 0)) if seed is None else seed
    seed = derive_seed(seed, "distill", method)
    distiller = _Distiller(trained, recipe, config, seed, on_step)
    teach = {
        "dagger": lambda: distiller.dagger(planner or recipe.planner),
        "inverse": lambda: distiller.inverse(_store_of(run)),
    }
    facts = teach[method]()
    save_policy(policy_folder(run, method), distiller.policy)
    settings = {"method": method, "settings": asdict(config), **facts, "command": command_line()}
    path = run / "distill.json"
    write_json(path, {**_earlier(path), method: settings})
    return settings


class _Distiller:
    """A policy and what trains it."""

    def __init__(
        self, trained: TrainedRun, recipe: Recipe, config: DistillConfig, seed: int, on_step: OnStep | None
    ) -> None:
        self.trained, self.recipe, self.config = trained, recipe, config
        self.seed, self.on_step = seed, on_step
        bounds = trained.env["action"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "policy"))
            self.policy = GoalPolicy(
                trained.model.embedding_shape,
                bounds["low"],
                bounds["high"],
                bounds["max_norm"],
                hidden_dims=config.hidden_dims,
            ).to(trained.device)

    def dagger(self, planner: PlannerRecipe) -> dict[str, Any]:
        """Let the planner act, then correct the policy; train on everything after each round."""
        config, together, planning_s, loss = self.config, None, 0.0, float("nan")
        is_started = config.own_start and self._start_from_own()
        simulator = self.trained.simulator
        began = time.perf_counter()
        for number in range(config.rounds):
            started = time.perf_counter()
            ours = self._round(simulator, planner, number)
            planning_s += time.perf_counter() - started
            together = ours if together is None else together.join(ours)
            if not is_started:
                self._set_statistics(together.embedding)
            batches = DemonstrationBatches(
                together, config.batch_size, derive_seed(self.seed, "batches", number)
            )
            loss = self._fit(batches, f"distill_dagger_{number}")
        assert together is not None
        return {
            "planner": asdict(planner),
            "started_from_own": is_started,
            "demonstrations": len(together),
            "planning_s": round(planning_s, 1),
            "seconds": round(time.perf_counter() - began, 1),
            "imitation": loss,
        }

    def _start_from_own(self) -> bool:
        """Take the weights and statistics of the run's own policy, if it has one of the same shape."""
        folder = policy_folder(self.trained.path, POLICIES[0])
        if not (folder / "config.json").exists():
            return False
        own = load_policy(folder, self.trained.device)
        if own.hidden_dims != self.policy.hidden_dims:
            return False
        self.policy.load_state_dict(own.state_dict())
        return True

    def _round(self, simulator: Simulator, planner: PlannerRecipe, number: int) -> Demonstrations:
        """One round's episodes, on new worlds of the training split."""
        config, model = self.config, self.trained.model
        generator = make_generator(self.seed, "worlds", number)
        state = simulator.initial(config.episodes, generator, split="train")
        goal = simulator.goal(state, generator)
        # Every state is planned for: the teacher's plans do not run on while the policy acts.
        actor = LearnedActor(
            self.trained,
            simulator,
            mode="2",
            planner=_every_step(planner),
            seed=derive_seed(self.seed, "teacher", number),
        )
        actor.begin(goal)
        target = model.encode(actor.observe(goal))
        seen: dict[str, Tensor] = {}

        def observe() -> Tensor:
            seen.clear()
            seen.update(actor.observe(state))
            return model.encode(seen)

        def step(action: Tensor) -> None:
            nonlocal state
            state = simulator.transition(state, action.to(simulator.device))

        def report(done: int) -> None:
            if self.on_step is not None:
                self.on_step(f"round {number + 1}", done, config.num_steps, {})

        return demonstrate(
            observe,
            step,
            lambda embedding: actor.act(seen).to(embedding.device),
            target,
            config.num_steps,
            learner=None if number == 0 else self.policy,
            on_step=report,
        )

    def inverse(self, store: TrajectoryStore) -> dict[str, Any]:
        """Train on the data's own actions."""
        config = self.config
        began = time.perf_counter()
        episodes = split_episodes(self.recipe, store)["train"]
        if len(episodes) > config.max_episodes:
            chosen = np.random.default_rng(derive_seed(self.seed, "episodes"))
            episodes = np.sort(chosen.choice(episodes, config.max_episodes, replace=False))
        embeddings, actions, offsets = encode_episodes(self.trained.model, store, episodes)
        self._set_statistics(embeddings[:: max(1, len(embeddings) // 20_000)])
        batches = HindsightActions(
            embeddings,
            actions,
            offsets,
            max_lag=config.max_lag,
            batch_size=config.batch_size,
            seed=derive_seed(self.seed, "batches"),
        )
        loss = self._fit(batches, "distill_inverse")
        return {
            "demonstrations": len(batches.starts),
            "planning_s": 0.0,
            "seconds": round(time.perf_counter() - began, 1),
            "imitation": loss,
        }

    def _set_statistics(self, embeddings: Tensor) -> None:
        flat = embeddings.flatten(1).float()
        self.policy.set_statistics(flat.mean(dim=0), flat.std(dim=0))

    def _fit(self, batches: BatchFn, stage: str) -> float:
        """Train from where the policy is; a state of an earlier call is not taken up."""
        config, run = self.config, self.trained.path
        self.policy.train().requires_grad_(True)
        (run / "train_state" / f"{stage}.safetensors").unlink(missing_ok=True)
        result = fit(
            ImitationObjective(self.policy),
            batches,
            {"imitation": 1.0},
            FitConfig(num_steps=config.train_steps, lr=config.lr, weight_decay=1e-4),
            run=run,
            stage=stage,
            device=self.trained.device,
            on_step=lambda step, scalars: (
                self.on_step(stage, step, config.train_steps, scalars) if self.on_step is not None else None
            ),
        )
        self.policy.eval().requires_grad_(False)
        return float(result.metrics["imitation"])


def _every_step(planner: PlannerRecipe) -> PlannerRecipe:
    return dataclasses.replace(planner, execute=1, policy_proposal=False)


def _earlier(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _store_of(run: Path) -> TrajectoryStore:
    """Open the store that the run was trained on."""
    path = read_config(run).get("store", {}).get("path")
    if path is None:
        raise RunError(f"config.json must name the store of the run, got none in {run}")
    return TrajectoryStore.open(path)
