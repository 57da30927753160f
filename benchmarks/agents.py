"""From a trained run to an agent that can be evaluated: the configurator's choices by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost_names import cost_terms
from benchmarks.evaluation import make_mpc, recorded_bounds
from benchmarks.policy_checkpoint import POLICIES, load_policy, policy_folder
from benchmarks.recipes import PlannerRecipe, like
from benchmarks.runs import read_recipe, require_part
from benchmarks.seeding import make_generator
from envs.registration import make_simulator
from envs.simulator import SeenTask, Simulator
from envs.state import State
from planners import PLANNERS
from planners.agent import Agent
from planners.policy import GoalPolicy
from worldmodel.checkpoint import CheckpointError, load_jepa
from worldmodel.costs import ActionEffort, Cost, LastDistance, SummedDistance
from worldmodel.critic import Critic, load_critic
from worldmodel.jepa import JEPA, require_known
from worldmodel.readout import Readout, ReadoutCost, load_readout


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What a run folder holds, loaded.

    Attributes:
        path: the folder.
        model: the world model.
        env: id, keyword arguments, shapes and action bounds of the environment.
        device: where the networks are.
    """

    path: Path
    model: JEPA
    env: dict[str, Any]
    device: torch.device

    @property
    def simulator(self) -> Simulator:
        """A fresh simulator of the environment that the model was trained for."""
        return make_simulator(self.env["id"], **self.env["kwargs"])

    @property
    def has_critic(self) -> bool:
        """Whether a cost-to-go was trained."""
        return (self.path / "critic" / "config.json").exists()

    @property
    def critic(self) -> Critic:
        """The trained cost-to-go."""
        hint = "its recipe trains none, or `worldmodel train` was not finished"
        return load_critic(require_part(self.path, "critic", hint), self.device)

    @property
    def policy(self) -> str:
        """Which of the run's policies is the agent's mode 1."""
        return read_recipe(self.path).policy

    @property
    def readout(self) -> Readout:
        """The readout of the task's own cost."""
        hint = "its recipe trains none, or `worldmodel train` was not finished"
        return load_readout(require_part(self.path, "readout", hint), self.device)


def load_run(path: Path, device: torch.device | str = "cpu") -> TrainedRun:
    """Load the world model of a run.

    Raises:
        CheckpointError: the model is missing, damaged or of another architecture.
    """
    folder = require_part(path, "model", "`worldmodel train` was not finished")
    model, extra = load_jepa(folder, device)
    if "env" not in extra:
        raise CheckpointError(f"checkpoint must name its environment, got none in {folder}")
    model.requires_grad_(False)
    return TrainedRun(path, model, extra["env"], torch.device(device))


def make_cost(expression: str, run: TrainedRun) -> Cost:
    """Build a cost such as ``"critic"``, ``"summed_distance"`` or ``"critic+0.1*action_effort"``.

    Raises:
        ValueError: an unknown cost (the message names the nearest known one) or a weight that is no number.
    """
    total: Cost | None = None
    for weight, name in cost_terms(expression):
        cost = _cost(name, run)
        weighted = cost if weight == 1.0 else weight * cost
        total = weighted if total is None else total + weighted
    assert total is not None
    return total.requires_grad_(False)


def _cost(name: str, run: TrainedRun) -> Cost:
    if name == "critic":
        return run.critic
    if name == "summed_critic":
        critic = run.critic
        critic.summed = True
        return critic
    if name == "task":
        return ReadoutCost(run.readout, task_rule(run.simulator))
    return {
        "last_distance": LastDistance,
        "summed_distance": SummedDistance,
        "action_effort": ActionEffort,
    }[name]()


def task_rule(simulator: Simulator) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the task's own distance between two proprioceptions.

    Raises:
        ValueError: proprioception does not show it.
    """
    if not isinstance(simulator, SeenTask):
        raise ValueError(
            "cost 'task' must be of a task whose distance proprioception shows, such as worldmodel/PushT-v0, "
            f"got {simulator.env_id}"
        )
    nothing = torch.zeros(1, simulator.proprio_dim, device=simulator.device)
    simulator.seen_distance(nothing, nothing)  # raises before anything is trained what it would raise later
    return simulator.seen_distance


def load_agent(
    path: Path | str,
    *,
    mode: str = "2",
    planner: PlannerRecipe | None = None,
    policy: str | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Agent:
    """Load the agent of a run for a loop of your own, on observations alone.

    Args:
        path: the run's folder.
        mode: as for :func:`make_agent`.
        planner: as for :func:`make_agent`; None is the recipe's. A cost with ``task`` needs the environment to be
            registered, since its distance is the simulator's; all others need none.
        policy: as for :func:`make_agent`.
        seed: as for :func:`make_agent`.
        device: of the networks.

    Returns:
        The agent: ``set_goal(observations)``, then ``act(observations) -> (B, A)`` in the action units of the data.
        Observations are tensors ``(B, *O)`` on ``device``, one for each of ``agent.model.observation_keys``.

    Raises:
        CheckpointError: a part that the mode needs is missing, damaged or of another architecture.
        RunError: the folder holds no recipe.
        ValueError: an unknown mode, planner or policy.
    """
    run = load_run(Path(path), device)
    chosen = read_recipe(run.path).planner if planner is None else planner
    return make_agent(run, mode=mode, planner=chosen, seed=seed, policy=policy)


def make_agent(
    run: TrainedRun, *, mode: str, planner: PlannerRecipe, seed: int, policy: str | None = None
) -> Agent:
    """Build the agent of a loaded run.

    Args:
        run: the trained run.
        mode: ``"1"``, ``"2"``, or ``"2+1"``: the policy proposes the planner's first candidate.
        planner: planner of mode 2.
        seed: of the planner's samples and the policy's noise.
        policy: which of the run's policies, see :data:`benchmarks.policy_checkpoint.POLICIES`; None is the recipe's.

    Returns:
        The agent, whose actions keep to the bounds of the run's data.

    Raises:
        CheckpointError: a part that the mode needs is missing, damaged or of another architecture.
        ValueError: an unknown mode, planner or policy.
    """
    if policy is not None:
        require_known("policy", policy, POLICIES)
    require_known("mode", mode, ("1", "2", "2+1"))
    model, device = run.model, run.device
    bounds = recorded_bounds(run.env["action"], device)
    plans = mode != "1"
    needs_policy = "1" in mode or planner.policy_proposal
    has_memory = model.predictor.context > 0
    generator = (
        make_generator(seed, "planner") if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
    )
    return Agent(
        model,
        bounds,
        mode="2" if plans else "1",
        policy=_load_policy(run, policy or run.policy) if needs_policy else None,
        mpc=make_mpc(planner, bounds, generator) if plans else None,
        cost=make_cost(planner.cost, run) if plans else None,
        empty_memory=model.empty_memory if has_memory else None,
        remember=model.remember if has_memory else None,
        generator=generator,
    )


class LearnedActor:
    """A trained agent in a simulator, of which it sees observations only.

    Args:
        run: the trained run.
        simulator: renders the observations.
        mode: as for :func:`make_agent`.
        planner: as for :func:`make_agent`.
        seed: as for :func:`make_agent`.
        policy: as for :func:`make_agent`.
    """

    def __init__(
        self,
        run: TrainedRun,
        simulator: Simulator,
        *,
        mode: str,
        planner: PlannerRecipe,
        seed: int,
        policy: str | None = None,
    ) -> None:
        self.run, self.simulator = run, simulator
        self.mode, self.policy = mode, policy or run.policy
        self.agent = make_agent(run, mode=mode, planner=planner, seed=seed, policy=policy)

    def begin(self, goal: State) -> None:
        """Show the goals' observations."""
        self.agent.set_goal(self.observe(goal))

    def observe(self, state: State) -> dict[str, Tensor]:
        """Return the observations that the model reads."""
        obs = self.simulator.observation(state)
        return {key: obs[key].to(self.run.device) for key in self.run.model.observation_keys}

    def act(self, seen: dict[str, Tensor]) -> Tensor:
        """Choose actions ``(B, A)``."""
        return self.agent.act(seen).to(self.simulator.device)


def _load_policy(run: TrainedRun, name: str) -> GoalPolicy:
    require_known("policy", name, POLICIES)
    hint = "its recipe trains none, or `worldmodel train` was not finished"
    if name not in ("imagination", run.policy):
        hint = f"`worldmodel distill {run.path} --method {name}` trains it"
    return load_policy(require_part(run.path, policy_folder(run.path, name).name, hint), run.device)


def with_planner(
    recipe: PlannerRecipe, name: str | None, settings: Sequence[tuple[str, Any]]
) -> PlannerRecipe:
    """Return the planner settings with another planner name, and with what the command line sets.

    The recipe's hyperparameters belong to its own planner: another planner starts from its defaults.
    """
    if name is not None and name != recipe.name:
        recipe = dataclasses.replace(recipe, name=name, args={})
    require_known("planner", recipe.name, PLANNERS)
    hyperparameters = PLANNERS[recipe.name][1]()
    fields = {f.name for f in dataclasses.fields(PlannerRecipe)} - {"name", "args"}
    known = [f.name for f in dataclasses.fields(hyperparameters)]
    for key, value in settings:
        if key in fields:
            typed = like(getattr(recipe, key), value, key)
            recipe = dataclasses.replace(recipe, **{key: typed})
        else:
            require_known(f"{recipe.name} hyperparameter or planner setting", key, [*known, *sorted(fields)])
            typed = like(getattr(hyperparameters, key), value, key)
            recipe = dataclasses.replace(recipe, args={**recipe.args, key: typed})
    return recipe
