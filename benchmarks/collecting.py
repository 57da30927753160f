"""``collect``: from an environment to a trajectory store, in commits that survive an interruption."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.recipes import CollectConfig, like
from benchmarks.seeding import derive_seed, make_generator
from envs.collect import collect
from envs.gymnasium_worlds import GymnasiumWorlds, is_foreign
from envs.mujoco.push_policy import BlockWaypoints
from envs.policies import (
    CorrelatedNoise,
    DirectedWalk,
    DoorCrossing,
    Expert,
    HeadingRandomWalk,
    Mixture,
    OneRoom,
    Policy,
    RandomWaypoints,
    UniformRandom,
)
from envs.registration import make_simulator
from envs.simulator import Simulator
from worldmodel.data import ArraySpec, EnvSpec, StoreError, TrajectoryStore
from worldmodel.jepa import require_known

OnChunk = Callable[[int, int], None]  # episodes done, episodes in all
Source = Simulator | GymnasiumWorlds
INSTANCES = 32  # of a Gymnasium environment that act together


def _in_one_room(walk: Callable[..., Policy]) -> Callable[..., OneRoom]:
    """Return the same policy kept out of the door, with the same arguments."""

    @functools.wraps(walk, updated=())
    def make(**kwargs: Any) -> OneRoom:  # noqa: ANN401
        return OneRoom(walk(**kwargs))

    return make


def _noisy_expert(noise: float = 1.0) -> Expert:
    """Return the expert that is pushed about, so that data show how a deviation is mended."""
    return Expert(noise)


POLICIES: dict[str, Callable[..., Any]] = {
    "heading": HeadingRandomWalk,
    "uniform": UniformRandom,
    "door_crossing": DoorCrossing,
    "expert": Expert,
    "noisy_expert": _noisy_expert,
    "directed": DirectedWalk,
    "correlated": CorrelatedNoise,
    "block_waypoints": BlockWaypoints,
    "waypoints": RandomWaypoints,
    "heading_one_room": _in_one_room(HeadingRandomWalk),
    "waypoints_one_room": _in_one_room(RandomWaypoints),
}
RECORDED = "recorded"  # the policy of data that `collect` did not write
NATIVE_POLICY = {
    "worldmodel/CartPole-v0": "0.3*correlated+0.2*expert+0.5*noisy_expert",
    "worldmodel/MovingDot-v0": "directed",
    "worldmodel/PointMaze-v0": "correlated",
    "worldmodel/PushT-v0": "0.8*block_waypoints+0.2*correlated",
    "worldmodel/Reacher-v0": "correlated",
    "worldmodel/TwoRooms-v0": "heading",
}


def make_data_policy(expression: str, kwargs: dict[str, Any]) -> Policy:
    """Build a data policy such as ``"heading"``, or a mixture over worlds such as ``"0.8*heading+0.2*expert"``.

    Raises:
        ValueError: an unknown name or argument (the message names the nearest known one), a weight that is no
            number, or arguments for a mixture.
    """
    if "+" not in expression and "*" not in expression:
        return _single_policy(expression, kwargs)
    if kwargs:
        raise ValueError(f"a mixture of data policies must have no arguments, got {', '.join(kwargs)}")
    parts: dict[Policy, float] = {}
    for part in expression.split("+"):
        weight, _, name = part.strip().rpartition("*")
        try:
            parts[_single_policy(name.strip(), {})] = float(weight)
        except ValueError as error:
            if "data policy" in str(error):
                raise
            raise ValueError(f"weight of a data policy must be a number, got {weight!r}") from None
    return Mixture(parts)


def _single_policy(name: str, kwargs: dict[str, Any]) -> Policy:
    require_known("data policy", name, POLICIES)
    known = inspect.signature(POLICIES[name]).parameters
    for argument in kwargs:
        require_known(f"argument of data policy {name}", argument, known)
    return POLICIES[name](**{key: like(known[key].default, value, key) for key, value in kwargs.items()})


def collect_store(
    config: CollectConfig,
    path: Path | str,
    *,
    seed: int,
    split: str = "train",
    device: torch.device | str = "cpu",
    on_chunk: OnChunk | None = None,
) -> TrajectoryStore:
    """Collect trajectories into the store at ``path``, going on where an earlier call with equal settings stopped.

    Every chunk of episodes has a seed of its own and is one commit, so that an interrupted and resumed collection
    holds the same episodes as one that ran through. An episode's ``seed`` is its chunk's, ``info["row"]`` its place
    in the chunk.

    Raises:
        StoreError: there is a store that was collected with other settings, or another process appends to it.
    """
    source = make_source(config.env_id, config.env_kwargs, device=device)
    policy = make_data_policy(config.policy, config.policy_kwargs)
    store = _open_or_create(config, path, source, seed, split)
    done, index = store.num_episodes, store.next_index
    while done < config.num_episodes:
        number = done // config.chunk
        if done % config.chunk:
            raise StoreError(
                f"{path} must hold whole chunks of {config.chunk} episodes to be resumed, got {done} episodes"
            )
        count = min(config.chunk, config.num_episodes - done)
        generator = make_generator(seed, "collect", number)
        episodes: Any
        factors: dict[str, Any] | None
        if isinstance(source, GymnasiumWorlds):
            episodes, factors = source.record(policy, count, config.num_steps, generator), None
        else:
            episodes = collect(
                source,
                policy,
                count,
                config.num_steps,
                generator,
                split=split,
                keys=tuple(key for key in store.spec if key not in ("action", "action_valid")),
                variation=config.variation or None,
            )
            factors = episodes.pop("factors")
        appended = store.append(
            episodes,
            seeds=[derive_seed(seed, "collect", number)] * count,
            split=split,
            factors=factors,
            info=[{"row": row} for row in range(count)],
            expected_first=index,  # another process that collects into the same store is refused
        )
        index = appended.stop
        done += count
        if on_chunk is not None:
            on_chunk(done, config.num_episodes)
    if isinstance(source, GymnasiumWorlds):
        source.close()
    return store


def make_source(
    env_id: str, kwargs: dict[str, Any], device: torch.device | str = "cpu", instances: int = INSTANCES
) -> Source:
    """Make what trajectories are recorded in: one of our simulators, or instances of a Gymnasium environment.

    Raises:
        ValueError: an unknown id or keyword, or an environment whose actions or observations are no vectors.
    """
    if is_foreign(env_id):
        draws = (
            kwargs.get("image_size") is not None
        )  # several OpenGL contexts in a process slow each other down
        return GymnasiumWorlds(env_id, 1 if draws else instances, **kwargs)
    return make_simulator(env_id, **kwargs, device=device)


def _open_or_create(
    config: CollectConfig, path: Path | str, source: Source, seed: int, split: str
) -> TrajectoryStore:
    settings = {**dataclasses.asdict(config), "seed": seed, "split": split}
    comparable = {key: value for key, value in settings.items() if key != "num_episodes"}
    if not TrajectoryStore.exists(path):
        return TrajectoryStore.create(
            path, _spec(source, config), env=env_spec(source), metadata={"collect": settings}
        )
    store = TrajectoryStore.open(path)
    earlier = dict(store.metadata.get("collect", {}))
    earlier.pop("num_episodes", None)
    if earlier != comparable:
        differing = sorted(key for key in comparable if earlier.get(key) != comparable[key])
        raise StoreError(
            f"{path} must have been collected with the same settings to be resumed, "
            f"got other {', '.join(differing)}; choose another --out"
        )
    spec = _spec(source, config)
    if differing := [key for key in spec if store.spec.get(key) != spec[key]]:
        raise StoreError(
            f"{path} must hold what {config.env_id} records in this version, "
            f"got another shape of {', '.join(differing)}; choose another --out"
        )
    return store


def _spec(source: Source, config: CollectConfig) -> dict[str, ArraySpec]:
    pixels = None if config.states_only else source.pixels_shape
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {
        **({} if pixels is None else {"pixels": ("uint8", pixels)}),
        "proprio": ("float32", (source.proprio_dim,)),
        **({"state": ("float32", (source.state_dim,))} if source.state_dim else {}),
        "action": ("float32", (source.action_dim,)),
        "action_valid": ("bool", ()),
    }
    return {key: ArraySpec(dtype, shape) for key, (dtype, shape) in shapes.items()}


def env_spec(source: Source) -> dict[str, Any]:
    """What a store and a checkpoint say about their environment: id, keyword arguments, shapes and bounds."""
    pixels = {} if source.pixels_shape is None else {"pixels": source.pixels_shape}
    return EnvSpec(
        source.env_id,
        source.kwargs,
        {**pixels, "proprio": (source.proprio_dim,)},
        source.action_low.tolist(),
        source.action_high.tolist(),
        max_action_norm=source.max_action_norm,
    ).to_mapping()


def renderer(
    env: dict[str, Any], device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from recorded states ``(rows, S)`` to frames ``(rows, C, rows, cols)`` of an environment."""
    simulator = make_simulator(env["id"], **env["kwargs"], device=device)

    def render(states: torch.Tensor) -> torch.Tensor:
        return simulator.observation(simulator.state_from_vector(states))["pixels"]

    return render
