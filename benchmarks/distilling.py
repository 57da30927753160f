"""``distill``: from a trained run, whose planner is the teacher, to a Mode-1 policy beside the run's own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.agents import LearnedActor, TrainedRun, load_run
from benchmarks.policy_checkpoint import POLICIES, load_policy, make_policy, policy_folder, save_policy
from benchmarks.preparation import choose_episodes, encode_episodes, open_store_of, split_episodes
from benchmarks.recipes import DaggerConfig, ImitationConfig, PlannerRecipe, Recipe
from benchmarks.runs import command_line, read_config, read_json, read_recipe, write_json
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
from worldmodel.readout import SeenPair
from worldmodel.training import BatchFn, FitConfig, fit
from worldmodel.value_map import Surroundings, ValueMap

OnStep = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps in all, scalars


@dataclass(frozen=True)
class InverseConfig(ImitationConfig):
    """The data's own actions are imitated."""

    max_lag: int = 16  # farthest goal [env steps]
    max_episodes: int = 2000  # of the run's store, held in memory as embeddings


METHODS: dict[str, type[DaggerConfig] | type[InverseConfig]] = {
    "dagger": DaggerConfig,
    "inverse": InverseConfig,
}


def distill_run(
    run: Path,
    config: DaggerConfig | InverseConfig,
    *,
    planner: PlannerRecipe | None = None,
    seed: int | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Distill a Mode-1 policy and write it beside the run's own, for ``evaluate --policy METHOD``.

    Args:
        run: folder of a trained run.
        config: the method and its sizes. Dagger: the planner's actions in closed loop, on worlds of the training split;
            inverse: the actions of the run's own data.
        planner: the teacher; None is the recipe's planner.
        seed: of worlds, weights and batches; None takes the run's.
        device: of the networks.
        on_step: called with stage, step, steps in all and scalars.

    Returns:
        What was done: method, settings, demonstrations, seconds in all (and of the planner), and the last error.

    Raises:
        RunError: the run does not name its store (inverse).
    """
    method = next(name for name, kind in METHODS.items() if isinstance(config, kind))
    trained, recipe = load_run(run, device), read_recipe(run)
    seed = int(read_config(run).get("seed", 0)) if seed is None else seed
    architecture = config.architecture({} if recipe.actor is None else recipe.actor.architecture)
    reads = "embedding" if recipe.actor is None or config.conv_channels else recipe.actor.reads
    distiller = _Distiller(
        trained, config, architecture, reads, derive_seed(seed, "distill", method), on_step
    )
    if isinstance(config, DaggerConfig):
        facts = distiller.dagger(config, planner or recipe.planner)
    else:
        facts = distiller.inverse(config, recipe, open_store_of(run))
    save_policy(policy_folder(run, method), distiller.policy)
    settings = {
        "method": method,
        "settings": {**asdict(config), **architecture},
        **facts,
        "command": command_line(),
    }
    path = run / "distill.json"
    write_json(path, {**(read_json(path) if path.exists() else {}), method: settings})
    return settings


class _Distiller:
    """A policy, which reads what the run's own reads, and what trains it."""

    def __init__(
        self,
        trained: TrainedRun,
        config: ImitationConfig,
        architecture: Mapping[str, Any],
        reads: str,
        seed: int,
        on_step: OnStep | None,
    ) -> None:
        self.trained, self.config = trained, config
        self.seed, self.on_step = seed, on_step
        bounds = trained.env["action"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "policy"))
            reader: nn.Module | None = None
            if reads == "value_map":
                value_map = trained.critic.head
                assert isinstance(value_map, ValueMap)
                reader = Surroundings(value_map)
            elif reads == "readout":
                reader = SeenPair(trained.readout)
            policy = make_policy(trained.model.embedding_shape, bounds, architecture, reader)
            self.policy = policy.to(trained.device)
        if reads == "value_map":
            critic = trained.critic
            self.policy.set_statistics(critic.get_buffer("mean"), critic.get_buffer("std"))

    def dagger(self, config: DaggerConfig, planner: PlannerRecipe) -> dict[str, Any]:
        """Let the planner correct the policy, in its own states; train on everything after each round."""
        together, planning_s, loss = None, 0.0, float("nan")
        is_started = config.own_start and self._start_from_own()
        simulator = self.trained.simulator
        began = time.perf_counter()
        for number in range(config.rounds):
            started = time.perf_counter()
            is_acting = is_started or number > 0
            ours = self._round(config, simulator, planner, number, self.policy if is_acting else None)
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
            "planner": asdict(_teacher(planner, acts=False)),
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
        shapes = [(one.hidden_dims, one.conv_channels, type(one.reader)) for one in (own, self.policy)]
        if shapes[0] != shapes[1]:
            return False
        self.policy.load_state_dict(own.state_dict())
        return True

    def _round(
        self,
        config: DaggerConfig,
        simulator: Simulator,
        planner: PlannerRecipe,
        number: int,
        learner: GoalPolicy | None,
    ) -> Demonstrations:
        """One round's episodes, on new worlds of the training split; the planner acts where there is no learner."""
        generator = make_generator(self.seed, "worlds", number)
        state = simulator.initial(config.episodes, generator, split="train")
        teacher = LearnedActor(
            self.trained,
            simulator,
            mode="2",
            planner=_teacher(planner, acts=learner is None),
            seed=derive_seed(self.seed, "teacher", number),
        )
        teacher.begin(simulator.goal(state, generator))
        assert teacher.agent.goal is not None
        noise = torch.Generator(self.trained.device).manual_seed(derive_seed(self.seed, "noise", number))

        def step(embedding: Tensor, action: Tensor) -> None:
            nonlocal state
            teacher.agent.remember(embedding, action)
            state = simulator.transition(state, action.to(simulator.device))

        def report(done: int) -> None:
            if self.on_step is not None:
                self.on_step(f"round {number + 1}", done, config.num_steps, {})

        return demonstrate(
            lambda: self.trained.model.encode(teacher.observe(state)),
            step,
            teacher.agent.choose,
            teacher.agent.goal,
            config.num_steps,
            learner=None if learner is None else partial(learner.sample, generator=noise),
            ask_every=config.ask_every,
            on_step=report,
        )

    def inverse(self, config: InverseConfig, recipe: Recipe, store: TrajectoryStore) -> dict[str, Any]:
        """Train on the data's own actions."""
        began = time.perf_counter()
        episodes = choose_episodes(
            split_episodes(recipe, store)["train"], config.max_episodes, derive_seed(self.seed, "episodes")
        )
        embeddings, actions, offsets = encode_episodes(
            self.trained.model, store, episodes, dtype=torch.float16
        )
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
            "seconds": round(time.perf_counter() - began, 1),
            "imitation": loss,
        }

    def _set_statistics(self, embeddings: Tensor) -> None:
        """Standardise as ``embeddings`` are distributed; a policy that reads something else keeps what that has."""
        if self.policy.reader is not None:
            return
        flat = embeddings.flatten(1).float()
        self.policy.set_statistics(flat.mean(dim=0), flat.std(dim=0))

    def _fit(self, batches: BatchFn, stage: str) -> float:
        """Train from where the policy is; a state of an earlier call is not taken up."""
        config, run = self.config, self.trained.path
        self.policy.train()
        self.policy.layers.requires_grad_(True)  # not what a reader has of the critic
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


def _teacher(planner: PlannerRecipe, *, acts: bool) -> PlannerRecipe:
    """Return the planner for one question at a time: while the policy acts, no plan runs on or begins the next one."""
    is_warm = planner.warm_start and acts
    return dataclasses.replace(planner, execute=1, policy_proposal=False, warm_start=is_warm)
