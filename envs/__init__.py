"""Batched simulators, data policies and Gymnasium environments; importing it registers the environments."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envs.registration import make_simulator, register_envs, registered_ids

if TYPE_CHECKING:
    from envs.collect import collect
    from envs.moving_dot import MovingDot
    from envs.simulator import Simulator, check_action
    from envs.state import State, index_state, num_worlds, repeat_state, where_state
    from envs.two_rooms import TwoRooms

# Public name -> module that is imported when the name is first used, so that `import envs` is quick.
_MODULES = {
    "MovingDot": "envs.moving_dot",
    "Simulator": "envs.simulator",
    "State": "envs.state",
    "TwoRooms": "envs.two_rooms",
    "check_action": "envs.simulator",
    "collect": "envs.collect",
    "index_state": "envs.state",
    "num_worlds": "envs.state",
    "repeat_state": "envs.state",
    "where_state": "envs.state",
}

__all__ = [
    "MovingDot",
    "Simulator",
    "State",
    "TwoRooms",
    "check_action",
    "collect",
    "index_state",
    "make_simulator",
    "num_worlds",
    "register_envs",
    "registered_ids",
    "repeat_state",
    "where_state",
]

register_envs()


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _MODULES:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
