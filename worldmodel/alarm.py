"""The slow-feature alarm: says, without labels, that a world model describes the background and not what is acted on.

Why an alarm: an encoder that returns a fixed background, with a predictor that stands still, satisfies every term of
VICReg and of SIGReg (arXiv 2211.10831), and RankMe rises while the state is lost. The between-trajectory share tells
that failure by its constancy, but not a background that moves by itself; that the recorded actions cannot be read off
the embedding's motion tells both.

What it takes for granted: actions that displace (velocity control, not forces), and trajectories that get around in
their world. The thresholds were set on the moving dot, seed 100, alpha 1 to 2 (``benchmarks/results/LOG.md``); the
slow-feature benchmark judges them on other seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REMEDY = "controllable"  # the objective that the advice names

_CONSTANT = (
    "the embedding is constant within trajectories; "
    "the prediction loss is low because it predicts the background"
)
_UNCONTROLLED = (
    "the embedding moves, but not with the actions; the prediction loss is low because it predicts a motion "
    "that the actions do not control"
)
_COLLAPSED = "the embedding has collapsed: all observations are mapped to almost the same point"
_BURIED = (
    "the embedding moves with the actions, but what is constant within a trajectory outweighs it many times; "
    "distances between embeddings compare backgrounds"
)
_ADVICE = (
    "train with the contrast between the actions taken and others, which a background cannot satisfy: "
    f"worldmodel train RECIPE --objective {REMEDY}"
)
_COLLAPSE_ADVICE = (
    "raise the weights of the terms against collapse (variance and covariance, or sigreg), or train with a "
    f"contrastive objective: worldmodel train RECIPE --objective {REMEDY}"
)


@dataclass(frozen=True)
class Alarm:
    """What is wrong and what to try.

    Attributes:
        kind: "collapsed", "constant" (within trajectories), "uncontrolled" (moves, but not with the actions) or "buried"
            (moves with the actions, under something static).
        message: one sentence without its full stop.
        advice: what to try, likewise.
        action_r2: the statistic that raised it.
    """

    kind: str
    message: str
    advice: str
    action_r2: float


@dataclass(frozen=True)
class SlowFeatureAlarm:
    """Thresholds of the alarm, all in one place."""

    min_action_r2: float = 0.4  # below: the actions cannot be read off the embedding's motion
    max_share: float = (
        0.95  # between-trajectory share from which the embedding counts as constant; words only
    )
    max_static_ratio: float = 9.0  # of the action readout; above: buried (trajectories must get around)
    min_rankme: float = 1.5  # below: collapsed
    min_relative_variance: float = 1e-4  # of the embedding's mean square; below: collapsed
    min_trajectories: int = 128  # fewer leave the readout too uncertain to speak
    warm_up: float = 0.2  # share of the training during which the alarm is silent
    patience: int = 2  # checks in a row that must raise it, in training

    def check(self, diagnostics: Mapping[str, float]) -> Alarm | None:
        """Judge the scalars of :func:`worldmodel.diagnostics.diagnose`; None if nothing is wrong."""
        if diagnostics["num_trajectories"] < self.min_trajectories:
            return None
        r2 = diagnostics["action_r2"]
        if (
            diagnostics["rankme"] < self.min_rankme
            or diagnostics["relative_variance"] < self.min_relative_variance
        ):
            return Alarm("collapsed", _COLLAPSED, _COLLAPSE_ADVICE, r2)
        if r2 >= self.min_action_r2:
            is_buried = diagnostics.get("static_ratio", 0.0) > self.max_static_ratio
            return Alarm("buried", _BURIED, _ADVICE, r2) if is_buried else None
        if diagnostics["between_trajectory_share"] >= self.max_share:
            return Alarm("constant", _CONSTANT, _ADVICE, r2)
        return Alarm("uncontrolled", _UNCONTROLLED, _ADVICE, r2)

    def check_training(
        self, history: Sequence[Mapping[str, float]], num_steps: int
    ) -> tuple[int, Alarm] | None:
        """Judge a training from its checks: the first step at which the alarm speaks, and what it says.

        It speaks once ``patience`` checks in a row raise it, none of them within the warm-up.

        Args:
            history: the scalars of each check with its ``"step"``, in order.
            num_steps: of the whole training.
        """
        in_a_row = 0
        for diagnostics in history:
            if diagnostics["step"] < self.warm_up * num_steps:
                continue
            alarm = self.check(diagnostics)
            in_a_row = 0 if alarm is None else in_a_row + 1
            if alarm is not None and in_a_row >= self.patience:
                return int(diagnostics["step"]), alarm
        return None

    def thresholds(self) -> dict[str, float]:
        """Return the thresholds by name."""
        return dataclasses.asdict(self)
