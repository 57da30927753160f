"""Model-predictive control: plan, execute the first steps, shift the plan, plan again."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.bounds import ActionBounds
from planners.checks import require, require_count, require_shape
from planners.chunking import chunk_candidates
from planners.macro import average_actions, repeat_actions, with_action_repeat
from planners.plan import CostFn, Plan, Planner


@dataclass(frozen=True)
class MPCConfig:
    """Settings of :class:`MPC`; lengths are counted in env steps."""

    horizon: int = 8  # H, planned env steps
    action_repeat: int = 1  # env steps per macro-action; divides horizon
    execute: int = 1  # env steps executed of each plan
    init_std: float = 1.0  # std that every plan's search begins with [action units]
    warm_start: bool = True  # begin at the last plan, shifted by what was executed
    max_rows: int | None = None  # most rows (problems x candidates) that the cost sees at once

    def __post_init__(self) -> None:
        require_count("horizon", self.horizon)
        require_count("action_repeat", self.action_repeat)
        require_count("execute", self.execute)
        divides = self.horizon % self.action_repeat == 0
        require(divides, "action_repeat", f"a divisor of horizon {self.horizon}", self.action_repeat)
        require(self.execute <= self.horizon, "execute", f"<= horizon {self.horizon}", self.execute)
        require(0 < self.init_std < float("inf"), "init_std", "finite and > 0", self.init_std)
        if self.max_rows is not None:
            require_count("max_rows", self.max_rows)

    @property
    def num_knots(self) -> int:
        """K, the macro-actions of a plan."""
        return self.horizon // self.action_repeat


class MPC:
    """Act by planning; ``B`` problems advance together, one :meth:`act` per env step.

    The state is the last plan and how much of it was executed. The warm start is that plan, shifted by the
    executed env steps, its end filled with its last action; with macro-actions the shifted steps are averaged
    back to knots, so ``execute`` need not be a multiple of ``action_repeat``. Without a last plan the mean is
    zero, projected.

    Args:
        planner: what :func:`planners.make_planner` returns, or any other :data:`planners.Planner`.
        bounds: allowed actions; they also give the device and dtype of the plans.
        config: lengths and the width of the search.
        generator: handed to the planner; ``None`` is torch's global generator.
    """

    def __init__(
        self,
        planner: Planner,
        bounds: ActionBounds,
        config: MPCConfig = MPCConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.planner = planner
        self.bounds = bounds
        self.config = config
        self.generator = generator
        self.last_plan: Plan | None = None  # in env steps: (B, H, A)
        self._sequence: Tensor | None = None  # (B, H, A) the plan being executed
        self._num_executed = 0
        self._is_stale = False

    @property
    def needs_plan(self) -> bool:
        """Whether the next :meth:`act` plans."""
        return self._sequence is None or self._is_stale or self._num_executed >= self.config.execute

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the plans of the problems in ``mask`` (bool ``(B,)``), or of all.

        Since problems are planned together, the next :meth:`act` then plans for all; the problems outside the
        mask begin at their own shifted plan.

        Raises:
            ValueError: ``mask`` is not bool of shape ``(B,)``.
        """
        if mask is None:
            self._sequence, self._num_executed, self._is_stale = None, 0, False
            return
        require(mask.dtype == torch.bool, "mask", "of dtype torch.bool", mask.dtype)
        if self._sequence is None:
            return
        require_shape("mask", mask, (self._sequence.shape[0],))
        if not bool(mask.any()):
            return
        shifted = shift_plan(self._sequence, self._num_executed)
        rest = self.bounds.project(torch.zeros_like(shifted))
        self._sequence = torch.where(mask.to(shifted.device)[:, None, None], rest, shifted)
        self._num_executed, self._is_stale = 0, True

    def act(
        self,
        cost_fn: CostFn | Callable[[], CostFn],
        num_problems: int,
        *,
        proposals: Tensor | None = None,
    ) -> Tensor:
        """Return the next action of each problem, ``(B, A)``; plan first if :attr:`needs_plan`.

        Args:
            cost_fn: actions ``(B, N, H, A)`` in env steps to cost ``(B, N)``; or a function without
                parameters that
                returns it, which is called only if this step plans.
            num_problems: B; constant between resets.
            proposals: ``(B, P, H, A)`` in env steps, candidates for the planner's first iteration; averaged
                over
                each macro-action.

        Raises:
            ValueError: ``num_problems`` changed without a reset, or a shape does not fit.
        """
        require_count("num_problems", num_problems)
        if self._sequence is not None:
            planned = self._sequence.shape[0]
            require(planned == num_problems, "num_problems", f"{planned} until reset()", num_problems)
        if self.needs_plan:
            self._plan(_resolve(cost_fn), num_problems, proposals)
        assert self._sequence is not None
        action = self._sequence[:, self._num_executed].clone()
        self._num_executed += 1
        return action

    def _plan(self, cost_fn: CostFn, num_problems: int, proposals: Tensor | None) -> None:
        config = self.config
        if config.max_rows is not None:
            cost_fn = chunk_candidates(cost_fn, config.max_rows)
        if proposals is not None:
            expected = (num_problems, "P", config.horizon, self.bounds.action_dim)
            require_shape("proposals", proposals, expected)
            proposals = average_actions(proposals, config.action_repeat)
        mean = average_actions(self._first_mean(num_problems), config.action_repeat)
        plan = self.planner(
            with_action_repeat(cost_fn, config.action_repeat),
            mean,
            torch.full_like(mean, config.init_std),
            self.bounds,
            proposals=proposals,
            generator=self.generator,
        )
        self.last_plan = replace(
            plan,
            actions=repeat_actions(plan.actions, config.action_repeat),
            mean=repeat_actions(plan.mean, config.action_repeat),
            std=repeat_actions(plan.std, config.action_repeat),
        )
        self._sequence = self.last_plan.actions
        self._num_executed, self._is_stale = 0, False

    def _first_mean(self, num_problems: int) -> Tensor:
        """Return where the search begins, ``(B, H, A)``."""
        if self._sequence is not None and self.config.warm_start:
            return shift_plan(self._sequence, self._num_executed)
        low = self.bounds.low
        return self.bounds.project(low.new_zeros(num_problems, self.config.horizon, low.shape[0]))


def shift_plan(actions: Tensor, num_steps: int) -> Tensor:
    """Drop the first ``num_steps`` of ``(B, H, A)`` and fill the end with the last action."""
    num_steps = min(num_steps, actions.shape[1])
    tail = actions[:, -1:].expand(-1, num_steps, -1)
    return torch.cat((actions[:, num_steps:], tail), dim=1)


def _resolve(cost_fn: CostFn | Callable[[], CostFn]) -> CostFn:
    """Return the cost function; call ``cost_fn`` for it if it cannot take the actions itself."""
    try:
        inspect.signature(cost_fn).bind(None)
    except TypeError:
        return cost_fn()  # type: ignore[call-arg, return-value]
    return cost_fn  # type: ignore[return-value]
