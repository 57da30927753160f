"""What is changed: the terms of the objective, and the axes of the data.

Terms one at a time are the collapse canaries. The data axes are those of Sobal et al. 2025 (PLDM, arXiv 2502.14819): how
many transitions, in trajectories of what length, how many of them of good quality, and whether any passes the door.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.catalogue.weights import VARIANCE_COVARIANCE
from benchmarks.collecting import POLICIES
from benchmarks.recipes import Recipe

TRANSITIONS = tuple(634 * 4**k for k in range(7))  # 634 .. 2.6 M, of these at most
MOST = 8  # times as many as the recipe has
LENGTHS = (17, 33, 65, 91)  # frames of a trajectory, as many transitions in all
GOOD_SHARES = (0.0, 0.02, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Ablation:
    """One change.

    Attributes:
        name: what it is called in the table.
        settings: overrides of the recipe, such as ``"objective.weights.variance=0"``; none is the recipe itself.
        value: where it lies on the set's axis, or None.
    """

    name: str
    settings: tuple[str, ...]
    value: float | None = None


def terms(recipe: Recipe) -> list[Ablation]:
    """The full objective, then each of its terms left out; then some replaced by what is used for the same elsewhere.

    Variance and covariance by SIGReg, action contrast by the temporal similarity and inverse dynamics of PLDM.
    """
    weights = recipe.objective.weights
    cells = [Ablation("full", ())]
    cells += [
        Ablation(f"no {name.replace('_', ' ')}", (f"objective.weights.{name}=0",))
        for name, w in weights.items()
        if w
    ]
    if {"variance", "covariance"} <= weights.keys():
        cells.append(
            _replaced("SIGReg for variance and covariance", variance=0.0, covariance=0.0, sigreg=0.1)
        )
    if "action_contrast" in weights:
        name = "temporal similarity and inverse dynamics for action contrast"
        cells.append(_replaced(name, action_contrast=0.0, **VARIANCE_COVARIANCE))
    return cells


def _replaced(name: str, **weights: float) -> Ablation:
    return Ablation(name, tuple(f"objective.weights.{term}={weight}" for term, weight in weights.items()))


def data_size(recipe: Recipe) -> list[Ablation]:
    """Transitions by a factor of four up to :data:`MOST` times the recipe's, and as many as the recipe has."""
    steps, ours = recipe.collect.num_steps, recipe.collect.num_episodes
    episodes = {max(2, round(count / steps)) for count in TRANSITIONS if count <= MOST * ours * steps}
    return [
        Ablation(
            f"{count * steps:,} transitions",
            () if count == ours else (f"collect.num_episodes={count}",),
            count * steps,
        )
        for count in sorted(episodes | {ours})
    ]


def trajectory_length(recipe: Recipe) -> list[Ablation]:
    """Shorter trajectories, more of them: as many transitions in all."""
    ours = recipe.collect
    cells = []
    for frames in LENGTHS:
        if frames > recipe.objective.window:
            episodes = max(2, round(ours.num_episodes * ours.num_steps / (frames - 1)))
            changed = (f"collect.num_steps={frames - 1}", f"collect.num_episodes={episodes}")
            is_ours = (frames - 1, episodes) == (ours.num_steps, ours.num_episodes)
            cells.append(Ablation(f"{frames} frames", () if is_ours else changed, frames))
    return cells


def data_quality(recipe: Recipe) -> list[Ablation]:
    """A share of the trajectories is the recipe's, the others are drawn action by action, which goes nowhere.

    Raises:
        ValueError: the recipe's data policy cannot be mixed in: a mixture, one with arguments, or those actions itself.
    """
    ours, cells = recipe.collect, []
    if ours.policy not in POLICIES or ours.policy == "uniform" or ours.policy_kwargs:
        raise ValueError(
            "the ablation 'data-quality' must be of a single data policy without arguments, other than uniform, got "
            f"{ours.policy!r} with {ours.policy_kwargs}"
        )
    for share in GOOD_SHARES:
        policy = f"{share}*{recipe.collect.policy}+{round(1 - share, 6)}*uniform"
        changed = () if share == 1 else (f"collect.policy={policy}",)
        cells.append(Ablation(f"{100 * share:g} % good trajectories", changed, share))
    return cells


def door(recipe: Recipe) -> list[Ablation]:
    """The recipe's data, and the same where no trajectory passes through the door."""
    confined = f"{recipe.collect.policy}_one_room"
    if confined not in POLICIES:
        known = ", ".join(name.removesuffix("_one_room") for name in POLICIES if name.endswith("_one_room"))
        raise ValueError(
            f"the ablation 'door' must be of data collected by {known}, got {recipe.collect.policy!r}"
        )
    return [
        Ablation("as recorded", ()),
        Ablation("no trajectory through the door", (f"collect.policy={confined}",)),
    ]


def motion(recipe: Recipe) -> list[Ablation]:
    """What moves is not seen in one frame: shown by velocities, by the step before, or not at all.

    Raises:
        ValueError: the recipe's environment has no such choice.
    """
    if recipe.collect.env_id != "worldmodel/CartPole-v0":
        raise ValueError(
            f"the ablation 'motion' must be of worldmodel/CartPole-v0, got {recipe.collect.env_id}"
        )
    ours = recipe.collect.env_kwargs.get("motion", "velocity")
    return [
        Ablation(words, () if shown == ours else (f"collect.env_kwargs.motion={shown}",))
        for shown, words in (
            ("velocity", "velocities"),
            ("history", "the step before"),
            ("nothing", "one frame alone"),
        )
    ]


ABLATIONS: dict[str, Callable[[Recipe], list[Ablation]]] = {
    "terms": terms,
    "data-size": data_size,
    "trajectory-length": trajectory_length,
    "data-quality": data_quality,
    "door": door,
    "motion": motion,
}
