"""The trajectory store on Lance, and windows of its episodes for training.

Lance runs threads: never fork a process that has opened a store. Use threads or spawned workers.
"""

from worldmodel.data.index import EpisodeIndex
from worldmodel.data.loading import free_bytes, open_windows
from worldmodel.data.malloc import tune_malloc
from worldmodel.data.schema import ArraySpec, EnvSpec, StoreError
from worldmodel.data.splits import split_groups
from worldmodel.data.store import TrajectoryStore
from worldmodel.data.streaming import StreamingWindows
from worldmodel.data.verification import Damage, VerifyReport
from worldmodel.data.windows import Derived, ResidentWindows, Windows

__all__ = [
    "ArraySpec",
    "Damage",
    "Derived",
    "EnvSpec",
    "EpisodeIndex",
    "ResidentWindows",
    "StoreError",
    "StreamingWindows",
    "TrajectoryStore",
    "VerifyReport",
    "Windows",
    "free_bytes",
    "open_windows",
    "split_groups",
    "tune_malloc",
]
