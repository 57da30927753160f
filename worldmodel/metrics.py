"""Training curves on disk: ``metrics.jsonl``, one JSON object per logged step, and optionally TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Append scalars of one training stage to ``metrics.jsonl``.

    Args:
        run: folder of the run.
        stage: name of the stage, written into each line.
        resume_step: lines of this stage past this step come from work that was lost to a kill and are dropped.
        tensorboard: also write event files to ``run/tensorboard``.
    """

    def __init__(self, run: Path, stage: str, *, resume_step: int = 0, tensorboard: bool = False) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.stage = stage
        self.path = run / "metrics.jsonl"
        self.writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("TensorBoard logs need: pip install tensorboard") from error
            self.writer = SummaryWriter(str(run / "tensorboard" / stage))
        kept = [
            line for line in read_metrics(self.path) if line["stage"] != stage or line["step"] <= resume_step
        ]
        staging = self.path.with_suffix(".tmp")
        staging.write_text("".join(json.dumps(line) + "\n" for line in kept))
        staging.replace(self.path)
        self.handle = self.path.open("a")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the scalars of ``step``."""
        self.handle.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        self.handle.flush()
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{self.stage}/{name}", value, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.handle.close()
        if self.writer is not None:
            self.writer.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read ``metrics.jsonl``; a last line cut by a kill is left out, a missing file is an empty list."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break  # only the last line can be half written; what follows a broken line is not trusted
    return lines
