"""Recipes: everything that decides a result, as one frozen value with a smoke preset.

A recipe is a function that returns a :class:`Recipe`; its resolved form is written as ``config.json`` beside what it
produced. ``preset="smoke"`` walks the same path in seconds and reaches nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worldmodel.critic import CriticConfig
from worldmodel.jepa import require_known
from worldmodel.paths import PathConfig
from worldmodel.training import FitConfig


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
    """Train the cost-to-go on embeddings: by temporal differences, or on shortest paths where ``paths`` is given."""

    fit: FitConfig
    critic: CriticConfig = field(default_factory=CriticConfig)
    batch_size: int = 512
    paths: PathConfig | None = None

    def __post_init__(self) -> None:
        require_positive(self, "batch_size")


@dataclass(frozen=True)
class ActorRecipe:
    """Train the Mode-1 policy in imagination."""

    fit: FitConfig
    horizon: int = 4  # imagined steps
    batch_size: int = 512
    hidden_dims: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        require_positive(self, "horizon", "batch_size")


@dataclass(frozen=True)
class PlannerRecipe:
    """The Mode-2 planner and its model-predictive control."""

    name: str = "cem"
    args: dict[str, Any] = field(default_factory=dict)
    cost: str = "summed_critic"  # names of benchmarks.agents.COSTS, weighted: "critic+0.1*action_effort"
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
    variation: dict[str, float] = field(default_factory=dict)  # factors of variation that are set


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
    actor: ActorRecipe | None  # None: no Mode-1 policy; it needs a critic
    planner: PlannerRecipe = field(default_factory=PlannerRecipe)
    evaluation: EvaluationRecipe = field(default_factory=EvaluationRecipe)

    def __post_init__(self) -> None:
        if self.critic is None and self.actor is not None:
            raise ValueError("a recipe with an actor must have a critic to train it against, got critic null")
        if self.actor is None and self.planner.policy_proposal:
            raise ValueError("planner.policy_proposal must be false in a recipe without an actor, got true")
        if self.critic is None and "critic" in self.planner.cost:
            raise ValueError(
                f"planner.cost of a recipe without a critic must be a distance, got {self.planner.cost!r}"
            )


VARIANCE_COVARIANCE = {
    "prediction": 1.0,
    "variance": 16.0,
    "covariance": 8.0,
    "temporal_similarity": 12.0,
    "inverse_dynamics": 1.0,
}


def two_rooms() -> Recipe:
    """Two Rooms, fixed layout, random-walk data, a laptop CPU: the recipe of ``worldmodel quickstart``."""
    return Recipe(
        name="two-rooms",
        collect=CollectConfig("worldmodel/TwoRooms-v0", {"image_size": 32}),
        model=ModelRecipe(),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE),
        world_model=FitConfig(num_steps=900, lr=2e-3, checkpoint_every=300),
        predictor=RefitRecipe(FitConfig(num_steps=600, lr=1e-3, checkpoint_every=300)),
        critic=CriticRecipe(
            FitConfig(num_steps=3000, lr=1e-3, checkpoint_every=1000),
            CriticConfig(max_lag=16, target_rate=0.03),
        ),
        actor=ActorRecipe(FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=500), horizon=8),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 2, "num_elites": 6, "min_std": 0.1},
        ),
    )


def two_rooms_small() -> Recipe:
    """Two Rooms at the size of two CPU cores: a new layout per episode, evaluated on layouts never seen.

    A feature map keeps the wall and the door where a vector drops them, its convolutional predictor knows collisions
    wherever they happen, the action contrast keeps the dot, and the critic is regressed on shortest paths.
    """
    return Recipe(
        name="two-rooms-small",
        collect=CollectConfig(
            "worldmodel/TwoRooms-v0",
            {"image_size": 32, "layout": "random"},
            # Presses against walls at full speed, as planners do.
            policy="waypoints",
            num_episodes=16_000,
            chunk=2000,
            states_only=True,
        ),
        model=ModelRecipe(
            encoder="conv",
            encoder_args={"channels": [16, 32, 32], "pool": 1, "feature_map": True},
            embedding_dim=16,
            predictor="conv",
            predictor_args={"hidden_channels": 32, "num_layers": 3},
        ),
        objective=ObjectiveRecipe(
            {"action_contrast": 1.0, "prediction": 0.5, "variance": 4.0, "covariance": 2.0},
            {"action_contrast": {"num_shuffled": 4, "temperature": 0.002}},
            rollout_steps=8,
            window=9,
            batch_size=32,
        ),
        world_model=FitConfig(num_steps=2000, lr=4e-3, num_diagnoses=2),
        predictor=RefitRecipe(
            FitConfig(num_steps=2500, lr=3e-3, checkpoint_every=500), batch_size=128, max_episodes=4000
        ),
        critic=CriticRecipe(
            FitConfig(num_steps=3000, lr=1e-3, weight_decay=1e-4, checkpoint_every=1000),
            CriticConfig(feature_dim=64, scale=20.0),
            # 1.5 median steps of this data are 2.5 px, less than the wall is wide: no neighbours may lie across it.
            paths=PathConfig(near=1.5),
        ),
        actor=ActorRecipe(
            FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=500), horizon=8, batch_size=128
        ),
        planner=PlannerRecipe(
            args={"num_samples": 24, "num_iters": 2, "num_elites": 4, "min_std": 0.1},
        ),
        evaluation=EvaluationRecipe(num_tasks=200),
    )


def two_rooms_full() -> Recipe:
    """Two Rooms at the peers' size, for a GPU: 65 x 65 frames, four times the data, a wider model."""
    small = two_rooms_small()
    assert small.predictor is not None
    assert small.critic is not None
    assert small.actor is not None
    return dataclasses.replace(
        small,
        name="two-rooms-full",
        collect=dataclasses.replace(
            small.collect, env_kwargs={"image_size": 65, "layout": "random"}, num_episodes=32_000
        ),
        model=dataclasses.replace(
            small.model,
            # 65 -> 32 -> 16 -> 16 rows and columns, pooled to 8: the map of the small size, of finer frames.
            encoder_args={
                "channels": [32, 64, 64, 64],
                "kernels": [5, 5, 3, 3],
                "strides": [2, 2, 1, 1],
                "pool": 2,
                "feature_map": True,
            },
            predictor_args={"hidden_channels": 64, "num_layers": 4},
        ),
        objective=dataclasses.replace(small.objective, batch_size=128),
        world_model=dataclasses.replace(small.world_model, num_steps=4000),
        predictor=dataclasses.replace(
            small.predictor,
            fit=dataclasses.replace(small.predictor.fit, num_steps=4000),
            batch_size=512,
            max_episodes=16_000,
        ),
    )


def moving_dot() -> Recipe:
    """One moving dot without distractors: a GRU predictor open loop over the whole trajectory."""
    return Recipe(
        name="moving-dot",
        collect=CollectConfig(
            "worldmodel/MovingDot-v0",
            {"distractor": "none"},
            policy="directed",
            num_episodes=5000,
            num_steps=16,
            chunk=1000,
        ),
        model=ModelRecipe(encoder="conv", embedding_dim=64, predictor="gru", norm=False),
        objective=ObjectiveRecipe(
            {"prediction": 25.0, "variance": 25.0, "covariance": 1.0},
            rollout_steps=8,
            window=9,
            batch_size=64,
        ),
        world_model=FitConfig(num_steps=600, lr=2e-3, checkpoint_every=300),
        predictor=RefitRecipe(FitConfig(num_steps=300, lr=1e-3, checkpoint_every=300), num_steps=8),
        critic=CriticRecipe(
            FitConfig(num_steps=1500, lr=1e-3, checkpoint_every=500),
            CriticConfig(max_lag=4, hindsight_mean=6.0),
        ),
        actor=ActorRecipe(FitConfig(num_steps=600, lr=1e-3, checkpoint_every=300)),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.2},
            horizon=8,
            action_repeat=1,
            execute=1,
            init_std=2.0,
        ),
        evaluation=EvaluationRecipe(num_steps=16),
    )


def slow_features() -> Recipe:
    """A moving dot in front of a distractor, world model only: a cell of ``worldmodel bench slow-features``.

    The encoder is that of Sobal et al. 2022 with an eighth of the work per frame; plans minimise the distance to the goal
    in embedding space.
    """
    return Recipe(
        name="slow-features",
        collect=CollectConfig(
            "worldmodel/MovingDot-v0",
            {"distractor": "uniform", "motion": "fixed", "alpha": 1.0},
            policy="directed",
            num_episodes=20_000,
            num_steps=16,
            chunk=5000,
            states_only=True,
        ),
        model=ModelRecipe(
            encoder="conv",
            encoder_args={"channels": [8, 16, 32]},
            embedding_dim=64,
            predictor="gru",
            norm=False,
        ),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE, rollout_steps=8, window=9, batch_size=32),
        world_model=FitConfig(num_steps=500, lr=4e-3, checkpoint_every=250, num_diagnoses=3),
        predictor=None,
        critic=None,
        actor=None,
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.2},
            cost="last_distance",
            horizon=4,
            action_repeat=1,
            execute=2,
            init_std=2.0,
        ),
        evaluation=EvaluationRecipe(num_tasks=200, num_steps=10),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "two-rooms": two_rooms,
    "two-rooms-small": two_rooms_small,
    "two-rooms-full": two_rooms_full,
    "moving-dot": moving_dot,
    "slow-features": slow_features,
}
PRESETS = ("default", "smoke")


SIZES = ("small", "full")


def sized(name: str, size: str | None) -> str:
    """Return the name of the recipe ``name`` at a size, or the name itself where no size is given.

    Raises:
        ValueError: the recipe has no such size.
    """
    if size is None:
        return name
    if f"{name}-{size}" not in RECIPES:
        having = ", ".join(key.removesuffix("-small") for key in RECIPES if key.endswith("-small"))
        raise ValueError(
            f"size must be given for a recipe that has sizes ({having}), got {size!r} for {name!r}"
        )
    return f"{name}-{size}"


def resolve(name: str, preset: str = "default", overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe ``name`` under a preset, with ``overrides`` such as ``"world_model.lr=1e-3"``.

    Raises:
        ValueError: unknown recipe, preset or key (the message names the nearest known one), or a value of another
            type.
    """
    require_known("recipe", name, RECIPES)
    require_known("preset", preset, PRESETS)
    recipe = RECIPES[name]()
    if preset == "smoke":
        recipe = smoke(recipe)
    return override(recipe, overrides)


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


def smoke(recipe: Recipe) -> Recipe:
    """Shrink a recipe until its whole path takes seconds; what it reaches means nothing."""

    def brief(fit: FitConfig) -> FitConfig:
        return dataclasses.replace(fit, num_steps=6, log_every=2, checkpoint_every=3, warmup_steps=2)

    return dataclasses.replace(
        recipe,
        collect=dataclasses.replace(recipe.collect, num_episodes=24, num_steps=16, chunk=12),
        objective=dataclasses.replace(recipe.objective, batch_size=16),
        world_model=brief(recipe.world_model),
        predictor=recipe.predictor
        and dataclasses.replace(recipe.predictor, fit=brief(recipe.predictor.fit), batch_size=32),
        critic=recipe.critic
        and dataclasses.replace(
            recipe.critic,
            fit=brief(recipe.critic.fit),
            batch_size=32,
            paths=recipe.critic.paths and PathConfig(num_graphs=3, episodes_per_graph=4, static_frames=4),
        ),
        actor=recipe.actor and dataclasses.replace(recipe.actor, fit=brief(recipe.actor.fit), batch_size=32),
        planner=dataclasses.replace(recipe.planner, args={**recipe.planner.args, "num_samples": 16}),
        evaluation=dataclasses.replace(recipe.evaluation, num_tasks=8, num_steps=12),
    )


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
    "ActorRecipe.fit": FitConfig,
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
