"""What a recipe is: everything that decides a result, as one frozen value.

Its resolved form is written as ``config.json`` beside what it produced. The recipes themselves are in
:mod:`benchmarks.catalogue`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cost_names import cost_terms
from planners.policy import check_architecture
from worldmodel.critic import CriticConfig
from worldmodel.jepa import require_known
from worldmodel.paths import PathConfig
from worldmodel.readout import ReadoutConfig
from worldmodel.training import FitConfig
from worldmodel.value_iteration import ValueIterationConfig


def require_positive(config: object, *names: str) -> None:
    """Raise one sentence where one of the named fields is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be >= 1, got {getattr(config, name)}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class CollectConfig:
    """How trajectories are made."""

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    policy: str = "heading"  # names of benchmarks.collecting.POLICIES, mixed: "0.8*heading+0.2*expert"
    policy_kwargs: dict[str, Any] = field(default_factory=dict)  # of a single policy
    variation: dict[str, Any] = field(default_factory=dict)  # factors of variation that are set
    num_episodes: int = 4000
    num_steps: int = 90  # actions per episode
    chunk: int = 250  # episodes per commit; an interrupted collection loses at most one
    states_only: bool = False  # store simulator states, render in the batch

    def __post_init__(self) -> None:
        require_positive(self, "num_episodes", "num_steps", "chunk")


@dataclass(frozen=True)
class ModelRecipe:
    """Architecture of the world model; shapes come from the store (see :class:`worldmodel.jepa.ModelConfig`)."""

    keys: tuple[str, ...] = ("pixels",)  # observations that the encoder reads
    encoder: str = "patch"
    encoder_args: dict[str, Any] = field(default_factory=dict)
    embedding_dim: int = 32
    predictor: str = "residual_mlp"
    predictor_args: dict[str, Any] = field(default_factory=dict)
    target: str = "shared"
    ema_momentum: float = 0.99
    norm: bool = True
    latent_dim: int = 0  # Z of the predictor


@dataclass(frozen=True)
class ObjectiveRecipe:
    """Weights of the terms and how far the model predicts."""

    weights: dict[str, float]
    term_args: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollout_steps: int = 12  # H
    starts: str = "first"  # or every
    window: int = 13  # T, frames per window
    batch_size: int = 128  # windows
    val_fraction: float = 0.05  # episodes, or layouts where there are several, held out of all training
    train_encoder: bool = True  # false: the random-encoder baseline
    detach_predictions: bool = False  # true: prediction errors train the predictor only

    def __post_init__(self) -> None:
        require_positive(self, "rollout_steps", "batch_size")
        if not self.weights or not all(_is_number(weight) for weight in self.weights.values()):
            raise ValueError(f"objective.weights must be numbers by name, at least one, got {self.weights}")
        if self.window <= self.rollout_steps:
            raise ValueError(
                f"objective.window must be > objective.rollout_steps ({self.rollout_steps}), got {self.window}"
            )
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"objective.val_fraction must be in [0, 1), got {self.val_fraction}")


@dataclass(frozen=True)
class RefitRecipe:
    """Refit the predictor on cached embeddings of the frozen encoder."""

    fit: FitConfig
    num_steps: int = 8  # rollout steps
    batch_size: int = 512
    max_episodes: int | None = None  # as many at most, since their embeddings are held in memory; None: all

    def __post_init__(self) -> None:
        require_positive(self, "num_steps", "batch_size")
        if self.max_episodes is not None:
            require_positive(self, "max_episodes")


@dataclass(frozen=True)
class CriticRecipe:
    """Train the cost-to-go on embeddings.

    By temporal differences; on shortest paths where ``paths`` is given; or, where ``values`` is given, by value iteration
    in imagination: then it predicts what a cost sums up to, not steps.
    """

    fit: FitConfig
    critic: CriticConfig = field(default_factory=CriticConfig)
    batch_size: int = 512
    paths: PathConfig | None = None
    values: ValueIterationConfig | None = None
    starts_per_goal: int = (
        1  # pairs of a batch that share a goal, which a value map plans to once; of paths only
    )

    def __post_init__(self) -> None:
        require_positive(self, "batch_size", "starts_per_goal")
        if self.paths is not None and self.values is not None:
            raise ValueError(
                "a critic must be trained on paths or by value iteration, got critic.paths and critic.values"
            )
        if self.values is not None and self.critic.head != "mlp":
            raise ValueError(f"head of a critic by value iteration must be mlp, got {self.critic.head!r}")


@dataclass(frozen=True)
class ReadoutRecipe:
    """Regress what the task's own cost reads, on cached embeddings."""

    fit: FitConfig
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    batch_size: int = 1024

    def __post_init__(self) -> None:
        require_positive(self, "batch_size")


POLICY_READS = ("embedding", "value_map", "readout")


@dataclass(frozen=True)
class ActorRecipe:
    """Train the Mode-1 policy in imagination."""

    fit: FitConfig
    cost: str = "summed_critic"  # as the planner's
    horizon: int = 4  # imagined steps
    batch_size: int = 512
    hidden_dims: tuple[int, ...] = (256, 256)
    conv_channels: tuple[int, ...] = ()  # of 3 x 3 convolutions before them, where the embedding is a map
    noise: float = 0.0  # std around its actions where it acts in the world [half widths of the bounds]
    hindsight: float = (
        0.0  # share of goals from the start's own trajectory, far off as the critic's; not of paths
    )
    carried: float = 0.0  # share of the starts that go on where the imagination of the last batch ended
    reads: str = "embedding"  # or values around it on the critic's "value_map", or what the "readout" says

    def __post_init__(self) -> None:
        for name in ("hidden_dims", "conv_channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require_positive(self, "horizon", "batch_size")
        if self.reads not in POLICY_READS:
            raise ValueError(f"actor.reads must be one of {', '.join(POLICY_READS)}, got {self.reads!r}")
        for name in ("hindsight", "carried"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of the actor must be in [0, 1], got {getattr(self, name)}")
        check_architecture(**self.architecture)

    @property
    def architecture(self) -> dict[str, Any]:
        """Arguments of :class:`planners.policy.GoalPolicy`."""
        return {name: getattr(self, name) for name in ("hidden_dims", "conv_channels", "noise")}


@dataclass(frozen=True)
class ImitationConfig:
    """The policy and its training, whoever is imitated."""

    train_steps: int = 2000  # updates, of each round
    lr: float = 1e-3
    batch_size: int = 256
    hidden_dims: tuple[int, ...] | None = None  # of the policy; None: as the recipe's own
    conv_channels: tuple[int, ...] | None = None  # likewise
    noise: float | None = None  # likewise

    def __post_init__(self) -> None:
        check_architecture(**self.architecture({}))
        counts = [f.name for f in dataclasses.fields(self) if f.type == "int"]
        require_positive(self, *counts)
        if not self.lr > 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")

    def architecture(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments of :class:`GoalPolicy`: those of the run's ``own`` policy unless they are set here."""
        ours = {name: getattr(self, name) for name in ("hidden_dims", "conv_channels", "noise")}
        return {**own, **{name: value for name, value in ours.items() if value is not None}}


@dataclass(frozen=True)
class DaggerConfig(ImitationConfig):
    """The planner is asked in closed loop."""

    train_steps: int = 1000
    lr: float = 2e-4  # small, to keep what the run's own policy knows; without an own start, rather 1e-3
    own_start: bool = True  # start from the run's own policy where it is of the same architecture
    rounds: int = 2  # the planner acts in the first unless there was a start, the policy in the others
    episodes: int = 400  # worlds per round
    num_steps: int = 40  # env steps per episode
    ask_every: int = 4  # env steps from one plan to the next, where the policy acts


@dataclass(frozen=True)
class PlannerRecipe:
    """The Mode-2 planner and its model-predictive control."""

    name: str = "cem"
    args: dict[str, Any] = field(default_factory=dict)
    cost: str = "summed_critic"  # of benchmarks.cost_names, weighted: "critic+0.1*action_effort"
    horizon: int = 8  # [env steps]
    action_repeat: int = 2  # [env steps]
    execute: int = 2  # env steps per plan
    init_std: float = 0.7  # [action units]
    warm_start: bool = True
    max_rows: int = 2048  # rows that the model sees at once on a CPU
    policy_proposal: bool = False  # the Mode-1 policy proposes the planner's first candidate


@dataclass(frozen=True)
class EvaluationRecipe:
    """Tasks of the evaluation."""

    num_tasks: int = 200
    num_steps: int = 200  # budget [env steps]
    seed: int = 20_000  # of the tasks; one set of tasks for all models
    split: str = "eval"
    variation: dict[str, Any] = field(default_factory=dict)  # factors of variation that are set
    strict_radius: float | None = None  # a second, narrower success, reported beside [units of the distance]

    def __post_init__(self) -> None:
        if self.strict_radius is not None and not self.strict_radius > 0:
            raise ValueError(f"evaluation.strict_radius must be > 0 or null, got {self.strict_radius}")


@dataclass(frozen=True)
class Recipe:
    """From nothing to a result."""

    name: str
    collect: CollectConfig
    model: ModelRecipe
    objective: ObjectiveRecipe
    world_model: FitConfig
    predictor: RefitRecipe | None  # None: keep the predictor of the joint training
    critic: CriticRecipe | None  # None: plan by distances in embedding space
    actor: ActorRecipe | None  # None: no Mode-1 policy; it needs a critic, or a readout
    planner: PlannerRecipe = field(default_factory=PlannerRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)
    readout: ReadoutRecipe | None = None  # what the cost "task" reads
    distill: DaggerConfig | None = None  # the planner corrects the policy, and that one is the agent's mode 1

    def __post_init__(self) -> None:
        asked = {"planner": self.planner.cost}
        if self.actor is not None:
            asked["actor"] = self.actor.cost
        if self.critic is not None and self.critic.values is not None:
            asked["values"] = self.critic.values.cost
        names = {key: [name for _, name in cost_terms(cost)] for key, cost in asked.items()}
        if self.critic is None and any("critic" in name for name in names.get("actor", [])):
            raise ValueError("a recipe with an actor must have a critic to train it against, got critic null")
        if self.actor is not None and self.actor.reads == "value_map":
            head = None if self.critic is None else self.critic.critic.head
            if head != "value_map":
                raise ValueError(
                    f"actor.reads must not be value_map where the critic has none, got it with the head {head!r}"
                )
        if self.readout is None and any("task" in each for each in names.values()):
            raise ValueError("a recipe with the cost 'task' must have a readout, got readout null")
        readers = [self.critic.critic.reads] if self.critic is not None else []
        readers += [self.actor.reads] if self.actor is not None else []
        if self.critic is not None and self.critic.paths is not None:
            if "readout" in readers:
                raise ValueError(
                    "neither critic nor actor must read a readout where critic.paths is given, got readout"
                )
            if self.actor is not None and (self.actor.hindsight or self.actor.carried):
                raise ValueError(
                    "actor.hindsight and actor.carried must be 0 where critic.paths is given, "
                    f"got {self.actor.hindsight} and {self.actor.carried}"
                )
        if self.readout is None and "readout" in readers:
            raise ValueError("a recipe whose critic or actor reads a readout must have one, got readout null")
        if self.actor is None and self.distill is not None:
            raise ValueError("distill must be null in a recipe without an actor, got settings")
        if self.actor is None and self.planner.policy_proposal:
            raise ValueError("planner.policy_proposal must be false in a recipe without an actor, got true")
        if self.critic is None and "critic" in self.planner.cost:
            raise ValueError(
                f"planner.cost of a recipe without a critic must be a distance, got {self.planner.cost!r}"
            )

    @property
    def policy(self) -> str:
        """Which of a run's policies is the agent's mode 1."""
        return "imagination" if self.distill is None else "dagger"


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return ``recipe`` with ``settings`` such as ``"world_model.lr=1e-3"`` replaced, one after the other.

    Raises:
        ValueError: an unknown key or a value of another type.
    """
    values = dataclasses.asdict(recipe)
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise ValueError(f"an override must be KEY=VALUE, got {setting!r}")
        _set(Recipe, values, path.strip().split("."), text.strip(), path.strip())
    return recipe_from_json(values)  # relations are checked when all settings are in place


def recipe_from_json(values: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe from its ``dataclasses.asdict`` form."""
    return _from_json(Recipe, values)


_NESTED: dict[str, type] = {
    "Recipe.collect": CollectConfig,
    "Recipe.model": ModelRecipe,
    "Recipe.objective": ObjectiveRecipe,
    "Recipe.world_model": FitConfig,
    "Recipe.predictor": RefitRecipe,
    "Recipe.critic": CriticRecipe,
    "Recipe.actor": ActorRecipe,
    "Recipe.planner": PlannerRecipe,
    "Recipe.evaluation": EvaluationRecipe,
    "RefitRecipe.fit": FitConfig,
    "CriticRecipe.fit": FitConfig,
    "CriticRecipe.critic": CriticConfig,
    "CriticRecipe.paths": PathConfig,
    "CriticRecipe.values": ValueIterationConfig,
    "ActorRecipe.fit": FitConfig,
    "Recipe.readout": ReadoutRecipe,
    "Recipe.distill": DaggerConfig,
    "ReadoutRecipe.fit": FitConfig,
    "ReadoutRecipe.readout": ReadoutConfig,
}


def _from_json(kind: type, values: Mapping[str, Any]) -> Any:  # noqa: ANN401
    names = [f.name for f in dataclasses.fields(kind)]
    built = {}
    for name, value in values.items():
        require_known(f"key of {kind.__name__}", name, names)
        nested = _NESTED.get(f"{kind.__name__}.{name}")
        built[name] = _from_json(nested, value) if nested and value is not None else _as_tuple(value)
    return kind(**built)


def _as_tuple(value: Any) -> Any:  # noqa: ANN401
    return tuple(value) if isinstance(value, list) else value


def _set(kind: type | None, values: dict[str, Any], path: Sequence[str], text: str, full: str) -> None:
    """Set the value at ``path`` of nested settings to ``text``, read as JSON where it is JSON.

    Args:
        kind: the dataclass that ``values`` is the mapping of; None for a plain mapping, which takes any key.
        values: changed in place.
        path: keys, outermost first.
        text: the value.
        full: the path as the user wrote it.
    """
    head, *rest = path
    types = {} if kind is None else {f.name: str(f.type) for f in dataclasses.fields(kind)}
    if kind is not None:
        require_known(f"key in {full!r}", head, types)
    nested = None if kind is None else _NESTED.get(f"{kind.__name__}.{head}")
    if rest:
        child = values.get(head) if kind is not None else values.setdefault(head, {})
        if not isinstance(child, dict):
            raise ValueError(
                f"key must name a value, got {full!r}: {head} {'is null' if child is None else 'has no parts'}"
            )
        _set(nested, child, rest, text, full)
        return
    value = _parse(text)
    if value is None and types.get(head, "").endswith("| None"):
        values[head] = None
    elif nested is not None and not isinstance(value, dict):
        raise ValueError(f"{full} must be an object with its settings, got {value!r}")
    else:
        values[head] = value if nested is not None else like(values.get(head), value, full)


def with_settings(config: Any, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401  # any frozen dataclass
    """Return ``config`` with fields replaced; an unknown name or another type is a ``ValueError``."""
    changes = {}
    for name, value in settings.items():
        require_known("setting", name, [f.name for f in dataclasses.fields(config)])
        changes[name] = like(getattr(config, name), value, name)
    return dataclasses.replace(config, **changes)


def with_changes(config: Any, **changes: Any) -> Any:  # noqa: ANN401  # any dataclass
    """Return ``config`` with the changes that are not None."""
    return dataclasses.replace(config, **{key: value for key, value in changes.items() if value is not None})


def _parse(text: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False}.get(text, text)


def like(current: Any, value: Any, full: str) -> Any:  # noqa: ANN401
    """Check that an override has the type of what it replaces; whole numbers stand for floats."""
    value, current = _as_tuple(value), _as_tuple(current)
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if current is not None and type(value) is not type(current):
        raise ValueError(f"{full} must be of type {type(current).__name__}, got {value!r}")
    return value
