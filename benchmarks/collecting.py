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
from worldmodel.data import ArraySpec, StoreError, TrajectoryStore
from worldmodel.jepa import require_known

OnChunk = Callable[[int, int], None]  # episodes done, episodes in all


def _in_one_room(walk: Callable[..., Policy]) -> Callable[..., OneRoom]:
    """Return the same policy kept out of the door, with the same arguments."""

    @functools.wraps(walk, updated=())
    def make(**kwargs: Any) -> OneRoom:  # noqa: ANN401
        return OneRoom(walk(**kwargs))

    return make


POLICIES: dict[str, Callable[..., Any]] = {
    "heading": HeadingRandomWalk,
    "uniform": UniformRandom,
    "door_crossing": DoorCrossing,
    "expert": Expert,
    "directed": DirectedWalk,
    "correlated": CorrelatedNoise,
    "block_waypoints": BlockWaypoints,
    "waypoints": RandomWaypoints,
    "heading_one_room": _in_one_room(HeadingRandomWalk),
    "waypoints_one_room": _in_one_room(RandomWaypoints),
}
NATIVE_POLICY = {
    "worldmodel/CartPole-v0": "0.5*correlated+0.5*expert",
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
    simulator = make_simulator(config.env_id, **config.env_kwargs, device=device)
    policy = make_data_policy(config.policy, config.policy_kwargs)
    store = _open_or_create(config, path, simulator, seed, split)
    keys = tuple(key for key in store.spec if key not in ("action", "action_valid"))
    done, index = store.num_episodes, store.next_index
    while done < config.num_episodes:
        number = done // config.chunk
        if done % config.chunk:
            raise StoreError(
                f"{path} must hold whole chunks of {config.chunk} episodes to be resumed, got {done} episodes"
            )
        episodes = collect(
            simulator,
            policy,
            min(config.chunk, config.num_episodes - done),
            config.num_steps,
            make_generator(seed, "collect", number),
            split=split,
            keys=keys,
            variation=config.variation or None,
        )
        factors = episodes.pop("factors")
        count = len(episodes["action"])
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
    return store


def _open_or_create(
    config: CollectConfig, path: Path | str, simulator: Simulator, seed: int, split: str
) -> TrajectoryStore:
    settings = {**dataclasses.asdict(config), "seed": seed, "split": split}
    comparable = {key: value for key, value in settings.items() if key != "num_episodes"}
    try:
        store = TrajectoryStore.open(path)
    except StoreError:
        if Path(path).exists() and (Path(path) / "episodes.lance").exists():
            raise  # a store, but not one that can be read
        return TrajectoryStore.create(
            path, _spec(simulator, config), env=env_spec(simulator), metadata={"collect": settings}
        )
    earlier = dict(store.metadata.get("collect", {}))
    earlier.pop("num_episodes", None)
    if earlier != comparable:
        differing = sorted(key for key in comparable if earlier.get(key) != comparable[key])
        raise StoreError(
            f"{path} must have been collected with the same settings to be resumed, "
            f"got other {', '.join(differing)}; choose another --out"
        )
    return store


def _spec(simulator: Simulator, config: CollectConfig) -> dict[str, ArraySpec]:
    spec = {
        "proprio": ArraySpec("float32", (simulator.proprio_dim,)),
        "state": ArraySpec("float32", (simulator.state_dim,)),
        "action": ArraySpec("float32", (simulator.action_dim,)),
        "action_valid": ArraySpec("bool", ()),
    }
    if config.states_only:
        return spec
    return {"pixels": ArraySpec("uint8", simulator.pixels_shape), **spec}


def env_spec(simulator: Simulator) -> dict[str, Any]:
    """What a store and a checkpoint say about their environment: id, keyword arguments, shapes and bounds."""
    return {
        "id": simulator.env_id,
        "kwargs": simulator.kwargs,
        "observation": {"pixels": list(simulator.pixels_shape), "proprio": [simulator.proprio_dim]},
        "action": {
            "low": simulator.action_low.tolist(),
            "high": simulator.action_high.tolist(),
            "max_norm": simulator.max_action_norm,
        },
    }


def renderer(
    env: dict[str, Any], device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from recorded states ``(rows, S)`` to frames ``(rows, C, rows, cols)`` of an environment."""
    simulator = make_simulator(env["id"], **env["kwargs"], device=device)

    def render(states: torch.Tensor) -> torch.Tensor:
        return simulator.observation(simulator.state_from_vector(states))["pixels"]

    return render
