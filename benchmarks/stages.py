"""``train``: from a store to a world model, a critic and a Mode-1 policy, stage by stage.

1. world model: encoder and predictor jointly, on windows of frames;
2. predictor: refitted on cached embeddings with the encoder frozen;
3. readout, where the recipe has one: what the task's own cost reads off an embedding;
4. critic: steps to go, on cached embeddings or on shortest paths over them, or what a cost will sum up to;
5. actor: a policy trained in imagination against the critic, or the task's own cost;
6. distillation, where the recipe has it: the planner corrects the policy.

Each stage but the last resumes where a kill left it; all are skipped once their checkpoint exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.agents import TrainedRun, make_cost, task_rule
from benchmarks.cached_rows import PredictorObjective, RowValues, RowWindows
from benchmarks.diagnosing import (
    NUM_WINDOWS,
    SPACED,
    OnWarning,
    TrainingDiagnosis,
    diagnosed_episodes,
    draw_spaced,
    draw_windows,
)
from benchmarks.distilling import distill_run
from benchmarks.imagining import (
    make_imagination,
    make_value_iteration,
    starts_and_goals,
    take_over,
    untrained_policy,
)
from benchmarks.path_graphs import build_path_graphs
from benchmarks.policy_checkpoint import policy_folder, save_policy
from benchmarks.preparation import (
    Windows,
    choose_episodes,
    derived_keys,
    encode_episodes,
    encode_resident,
    label_dims,
    make_model,
    split_episodes,
    store_facts,
    with_collection_of,
)
from benchmarks.recipes import ActorRecipe, CriticRecipe, ReadoutRecipe, Recipe
from benchmarks.runs import begin_run, check_same_run, write_config
from benchmarks.seeding import derive_seed
from envs.registration import make_simulator
from planners.policy import GoalPolicy
from worldmodel.checkpoint import load_jepa, save_jepa
from worldmodel.costs import Cost
from worldmodel.critic import (
    Critic,
    CriticObjective,
    GoalPairs,
    PathObjective,
    load_critic,
    save_critic,
)
from worldmodel.data import ResidentWindows, TrajectoryStore, open_windows
from worldmodel.distributed import rank_and_world_size, stop_process_group
from worldmodel.jepa import JEPA
from worldmodel.objectives import JEPAObjective
from worldmodel.paths import PathConfig, PathGraph, PathPairs
from worldmodel.readout import Readout, ReadoutObjective, load_readout, save_readout
from worldmodel.training import BatchFn, FitConfig, fit
from worldmodel.value_iteration import ValueIterationObjective

OnStep = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps in all, scalars


def train_run(
    recipe: Recipe,
    store: TrajectoryStore,
    run: Path,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
    on_warning: OnWarning | None = None,
    tensorboard: bool = False,
) -> None:
    """Train all stages of ``recipe`` on ``store`` into the folder ``run``.

    In a process group the world model is trained by all ranks; then the group is left, and rank 0 goes on alone.

    Raises:
        RunError: the folder holds a run of another recipe, seed or data, or the store is of another environment
            than the recipe's.
    """
    rank = rank_and_world_size()[0]
    recipe = with_collection_of(recipe, store)
    stages = _Stages(recipe, store, run, seed, torch.device(device), on_step, tensorboard, on_warning)
    check_same_run(run, recipe, seed)
    module = None if (run / "model" / "config.json").exists() else stages.objective()
    if module is not None and recipe.actor is not None:
        stages.untrained_policy(module.model)
    if recipe.readout is not None:
        stages.rule()
    if rank == 0:  # what cannot be built has raised, and leaves no folder behind
        begin_run(run, recipe, seed=seed, device=str(device), store=store_facts(store))
    model = stages.world_model(module)
    stop_process_group()  # the later stages train on cached embeddings, in one process
    if rank != 0:
        return
    stages.refit_predictor(model)
    readout = None if recipe.readout is None else stages.readout(model, recipe.readout)
    critic = None if recipe.critic is None else stages.critic(model, readout, recipe.critic)
    if recipe.actor is not None:
        stages.actor(model, critic, readout, recipe.actor)
    if recipe.distill is not None and not (policy_folder(run, recipe.policy) / "config.json").exists():
        began = time.perf_counter()
        distill_run(run, recipe.distill, seed=seed, device=str(device), on_step=on_step)
        write_config(run, recipe, seconds={"distill": time.perf_counter() - began})


class _Stages:
    """What the stages share: settings, windows of the store, and embeddings once they are cached."""

    def __init__(
        self,
        recipe: Recipe,
        store: TrajectoryStore,
        run: Path,
        seed: int,
        device: torch.device,
        on_step: OnStep | None,
        tensorboard: bool,
        on_warning: OnWarning | None = None,
    ) -> None:
        self.recipe, self.store, self.run = recipe, store, run
        self.seed, self.device = seed, device
        self.on_step, self.tensorboard, self.on_warning = on_step, tensorboard, on_warning
        self._windows: Windows | None = None
        self._label_keys: tuple[str, ...] = ()  # of the objective's terms
        self._cached: tuple[Tensor, Tensor, Tensor] | None = None  # embeddings, actions, offsets
        self._graphs: list[PathGraph] | None = None

    @property
    def windows(self) -> Windows:
        """Windows of the training episodes, with the encoder's observations and the actions."""
        if self._windows is None:
            self._windows = self._open_windows(split_episodes(self.recipe, self.store)["train"])
        return self._windows

    def _open_windows(self, episodes: np.ndarray) -> Windows:
        keys = [*self.recipe.model.keys, "action", *self._label_keys]
        return open_windows(
            self.store,
            keys,
            self.recipe.objective.window,
            episodes=episodes,
            device=self.device,
            derived=derived_keys(self.store, keys, self.device),
        )

    def _val_batch(self) -> dict[str, Tensor] | None:
        """Draw this rank's slice of one fixed batch of the held-out episodes; None where there are none."""
        episodes = split_episodes(self.recipe, self.store)["val"]
        if len(episodes) == 0:
            return None
        rank, world_size = rank_and_world_size()
        with self._open_windows(episodes) as windows:
            return windows.batch_at(
                0, self.recipe.objective.batch_size, seed=0, rank=rank, world_size=world_size
            )

    def _diagnosis(self, model: JEPA) -> TrainingDiagnosis | None:
        """Draw the windows that training is diagnosed on; None where that is off or too few episodes make a statistic."""
        if self.recipe.world_model.num_diagnoses == 0:
            return None
        name, episodes = diagnosed_episodes(self.recipe, self.store)
        windows = self._open_windows(episodes) if name == "held-out" else self.windows
        diagnosis = TrainingDiagnosis(
            model,
            draw_windows(windows, NUM_WINDOWS, derive_seed(self.seed, "diagnose")),
            draw_spaced(windows, *SPACED, derive_seed(self.seed, "spaced")),
            self.run,
            self.recipe.world_model.num_steps,
            episodes=name,
            on_warning=self.on_warning,
        )
        if windows is not self._windows:
            windows.close()
        return diagnosis if diagnosis.is_possible else None

    def objective(self) -> JEPAObjective:
        """Build the model and the terms that it is trained on.

        Raises:
            ValueError: model, terms and store do not fit each other.
        """
        recipe, objective = self.recipe, self.recipe.objective
        model = make_model(recipe, self.store, derive_seed(self.seed, "model")).to(self.device)
        module = JEPAObjective(
            model,
            objective.weights,
            rollout_steps=objective.rollout_steps,
            starts=objective.starts,
            term_args=objective.term_args,
            label_dims=label_dims(self.store),
            train_encoder=objective.train_encoder,
            detach_predictions=objective.detach_predictions,
            seed=derive_seed(self.seed, "objective"),
        ).to(self.device)
        self._label_keys = module.label_keys
        episodes = split_episodes(recipe, self.store)["train"]
        for key, statistics in self.store.statistics(module.label_keys, episodes).items():
            mean, std = (torch.from_numpy(statistics[name]).flatten() for name in ("mean", "std"))
            module.set_label_statistics(key, mean, std)
        if module.num_shuffled >= objective.batch_size:
            raise ValueError(
                f"objective.batch_size must be > num_shuffled, {module.num_shuffled}, got {objective.batch_size}"
            )
        return module

    def world_model(self, module: JEPAObjective | None = None) -> JEPA:
        """Train encoder and predictor jointly by ``module``, built if None, or load what an earlier call trained."""
        path = self.run / "model"
        if (path / "config.json").exists():
            return load_jepa(path, self.device)[0]
        module = module or self.objective()
        recipe, objective, model = self.recipe, self.recipe.objective, module.model
        rank, world_size = rank_and_world_size()
        data_seed = derive_seed(self.seed, "windows")

        def batches(step: int) -> dict[str, Tensor]:
            size = objective.batch_size
            return self.windows.batch_at(step, size, data_seed, rank=rank, world_size=world_size)

        diagnosis = self._diagnosis(model) if rank == 0 else None
        self._fit(
            module,
            batches,
            objective.weights,
            recipe.world_model,
            "world_model",
            after_step=model.update_target,
            val_batch=self._val_batch(),
            diagnosis=diagnosis,
        )
        if diagnosis is not None:
            diagnosis.finish()
        return model

    def refit_predictor(self, model: JEPA) -> None:
        """Refit the predictor on the frozen encoder's embeddings, then write the checkpoint."""
        path = self.run / "model"
        if (path / "config.json").exists():
            return
        config = self.recipe.predictor
        if config is None:
            self._save_model(model)
            return
        embeddings, actions, offsets = self._refit_frames(model, config.max_episodes)
        model.untie_norm()
        was_trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        model.requires_grad_(False)
        module = PredictorObjective(model)
        windows = RowWindows(
            offsets, config.num_steps, config.batch_size, derive_seed(self.seed, "predictor")
        )

        def batches(step: int) -> dict[str, Tensor]:
            rows = windows(step).to(self.device)  # (M, H + 1)
            return {"embedding": embeddings[rows].float(), "action": actions[rows[:, :-1]]}

        self._fit(module, batches, {"prediction": 1.0}, config.fit, "predictor")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(was_trained[name])
        self._save_model(model)

    def _refit_frames(self, model: JEPA, max_episodes: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """What the predictor is refitted on, as :meth:`cached`; a chosen part of the episodes at half precision."""
        episodes = split_episodes(self.recipe, self.store)["train"]
        if max_episodes is None or len(episodes) <= max_episodes:
            return self.cached(model)
        chosen = choose_episodes(episodes, max_episodes, derive_seed(self.seed, "refit"))
        return encode_episodes(model, self.store, chosen, dtype=torch.float16)

    def readout(self, model: JEPA, config: ReadoutRecipe) -> Readout:
        """Regress what the task's own cost reads on cached embeddings, or load it."""
        path = self.run / "readout"
        if (path / "config.json").exists():
            return load_readout(path, self.device)
        embeddings = self.cached(model)[0]
        episodes = split_episodes(self.recipe, self.store)["train"]
        values = torch.from_numpy(self.store.read(["proprio"], episodes)["proprio"]).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "readout"))
            readout = Readout(embeddings.shape[1], values.shape[1], config.readout).to(self.device)
        readout.set_statistics(embeddings, values)
        readout.set_goal_values(self.rule(), values[:: max(1, len(values) // 4096)])
        batches = RowValues(embeddings, values, config.batch_size, derive_seed(self.seed, "readout rows"))
        self._fit(ReadoutObjective(readout), batches, {"readout": 1.0}, config.fit, "readout")
        save_readout(path, readout)
        return readout

    def critic(self, model: JEPA, readout: Readout | None, config: CriticRecipe) -> Critic:
        """Train the cost-to-go on cached embeddings, or load it."""
        path = self.run / "critic"
        if (path / "config.json").exists():
            return load_critic(path, self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "critic"))
            critic = Critic(model.embedding_shape, config.critic, readout=readout).to(self.device)
        seed = derive_seed(self.seed, "pairs")
        module: PathObjective | CriticObjective | ValueIterationObjective
        if config.paths is not None:
            graphs = self.path_graphs(model, config.paths)
            paths = PathPairs(graphs, config.batch_size, seed, config.starts_per_goal)
            critic.set_statistics(*paths.statistics())
            pairs: BatchFn = paths
            module = PathObjective(critic)
        else:
            embeddings, _, offsets = self.cached(model)
            pairs = GoalPairs(embeddings, offsets, config.critic, config.batch_size, seed)
            module = CriticObjective(critic)
            if config.values is not None:
                cost = self._cost(config.values.cost, model.requires_grad_(False))
                bounds, seed = self.store.env["action"], derive_seed(self.seed, "candidates")
                module = make_value_iteration(critic, model, cost, bounds, config, seed)
        after_step = None if isinstance(module, PathObjective) else module.update_target
        self._fit(module, pairs, dict.fromkeys(module.terms, 1.0), config.fit, "critic", after_step)
        save_critic(path, critic)
        return critic

    def rule(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the task's own distance between two proprioceptions; a ``ValueError`` where they do not show it."""
        return task_rule(make_simulator(self.store.env["id"], **self.store.env["kwargs"]))

    def _cost(self, expression: str, model: JEPA) -> Cost:
        """Build a frozen cost of what earlier stages wrote."""
        return make_cost(expression, TrainedRun(self.run, model, self.store.env, self.device))

    def path_graphs(self, model: JEPA, config: PathConfig) -> list[PathGraph]:
        """Measure the paths between frames of the training episodes, once."""
        if self._graphs is None:
            began = time.perf_counter()
            if self._windows is not None:  # their frames are not needed any more
                self._windows.close()
                self._windows = None

            def report(done: int, total: int) -> None:
                if self.on_step is not None:
                    self.on_step("paths", done, total, {})

            episodes = split_episodes(self.recipe, self.store)["train"]
            seed = derive_seed(self.seed, "paths")
            self._graphs = build_path_graphs(model, self.store, episodes, config, seed, report)
            write_config(self.run, self.recipe, seconds={"paths": time.perf_counter() - began})
        return self._graphs

    def actor(self, model: JEPA, critic: Critic | None, readout: Readout | None, config: ActorRecipe) -> None:
        """Train the Mode-1 policy in imagination towards frames of the start's own world, unless it exists."""
        path = self.run / "policy"
        if (path / "config.json").exists():
            return
        policy = take_over(self.untrained_policy(model), critic, readout)
        cost = self._cost(config.cost, model.requires_grad_(False))
        seed = derive_seed(self.seed, "imagination")
        ours = self.recipe.critic
        if critic is not None and ours is not None and ours.paths is not None:
            policy.set_statistics(critic.get_buffer("mean"), critic.get_buffer("std"))
            graphs = self.path_graphs(model, ours.paths)
            pairs: BatchFn = PathPairs(graphs, config.batch_size, seed, ours.starts_per_goal)
        else:
            embeddings, _, offsets = self.cached(model)
            pairs = starts_and_goals(embeddings, offsets, None if ours is None else ours.critic, config, seed)

        def batches(step: int) -> dict[str, Tensor]:
            batch = pairs(step)
            return {key: batch[key].unflatten(1, model.embedding_shape) for key in ("start", "goal")}

        module = make_imagination(policy, model, cost, config, seed)
        self._fit(module, batches, {"imagined_cost": 1.0}, config.fit, "actor")
        save_policy(path, policy)

    def untrained_policy(self, model: JEPA) -> GoalPolicy:
        """Build the recipe's policy."""
        num_values = label_dims(self.store).get("proprio", 0)  # that a readout says
        return untrained_policy(self.recipe, model, self.store.env["action"], num_values, self.seed)

    def cached(self, model: JEPA) -> tuple[Tensor, Tensor, Tensor]:
        """Encode every frame once, then let the frames go.

        Returns:
            Flat embeddings ``(rows, D)``, actions ``(rows, A)`` and offsets ``(E + 1,)`` of the episodes.
        """
        if self._cached is None:
            keys, windows = list(self.recipe.model.keys), self.windows
            derived = derived_keys(self.store, keys, self.device)
            if isinstance(windows, ResidentWindows):
                embeddings = encode_resident(model, windows, keys, derived)
                self._cached = embeddings, windows.arrays["action"], windows.offsets
            else:
                episodes = split_episodes(self.recipe, self.store)["train"]
                self._cached = encode_episodes(model, self.store, episodes)
            windows.close()
            self._windows = None
        return self._cached

    def _save_model(self, model: JEPA) -> None:
        save_jepa(self.run / "model", model, {"env": self.store.env, "seed": self.seed})

    def _fit(
        self,
        module: nn.Module,
        batches: Callable[[int], Mapping[str, Tensor]],
        weights: Mapping[str, float],
        config: FitConfig,
        stage: str,
        after_step: Callable[[], None] | None = None,
        val_batch: Mapping[str, Tensor] | None = None,
        diagnosis: TrainingDiagnosis | None = None,
    ) -> None:
        def report(step: int, scalars: Mapping[str, float]) -> None:
            if diagnosis is not None:
                diagnosis.observe(scalars)
            if self.on_step is not None:
                self.on_step(stage, step, config.num_steps, scalars)

        began = time.perf_counter()
        fit(
            module,
            batches,
            weights,
            config,
            run=self.run,
            stage=stage,
            device=self.device,
            val_batch=val_batch,
            after_step=after_step,
            diagnose=None if diagnosis is None else diagnosis.scalars,
            on_step=report,
            tensorboard=self.tensorboard,
        )
        if rank_and_world_size()[0] == 0:
            write_config(self.run, self.recipe, seconds={stage: time.perf_counter() - began})
