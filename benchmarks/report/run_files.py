"""What a run folder holds, read once: every file may be missing, none may be malformed."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """The parsed files of a run folder; a file that is not there is ``None`` (or empty, for metrics)."""

    folder: Path
    config: Json | None
    metrics: list[Json]
    results: Json | None
    episodes: Json | None
    probe: Json | None
    cost_map: Json | None
    diagnostics: Json | None
    probes: Json | None

    @property
    def name(self) -> str:
        """The folder's own name, whatever path it was reached by."""
        return self.folder.resolve().name

    @property
    def films(self) -> dict[str, Path]:
        """The films of a world that is no map, by agent; none where paths are drawn instead."""
        paths = {
            agent: self.folder / "media" / f"film-{agent}.gif" for agent in ("mode-2", "mode-2+1", "mode-1")
        }
        return {agent: path for agent, path in paths.items() if path.exists()}

    @property
    def evaluate_command(self) -> str:
        """The command that fills the sections an evaluation writes."""
        return f"worldmodel evaluate {shlex.quote(str(self.folder))}"

    @property
    def diagnose_command(self) -> str:
        """The command that fills the section of label-free statistics."""
        return f"worldmodel diagnose {shlex.quote(str(self.folder))}"

    @property
    def probe_command(self) -> str:
        """The command that fills the section of probes, on the store that the run was trained on."""
        store = (self.config or {}).get("store")
        path = store.get("path") if isinstance(store, dict) else None
        where = shlex.quote(str(path)) if path else "STORE"
        return f"worldmodel probe {shlex.quote(str(self.folder))} {where} --target position"

    @property
    def train_command(self) -> str:
        """The command that fills the sections a training run writes."""
        return f"worldmodel train RECIPE --data STORE --out {shlex.quote(str(self.folder))}"


def read_run(run: Path) -> RunFiles:
    """Read the files of a run folder that a report is made of.

    NaN and infinity, which Python writes into JSON, are read as ``None``.

    Raises:
        ValueError: ``run`` is not a folder, or one of its files is not what its name says.
    """
    if not run.is_dir():
        raise ValueError(f"run must be a folder that a run has written, got {str(run)!r}")
    return RunFiles(
        folder=run,
        config=read_json_file(run / "config.json"),
        metrics=_read_metrics(run / "metrics.jsonl"),
        results=read_json_file(run / "results.json"),
        episodes=read_json_file(run / "media" / "episodes.json"),
        probe=read_json_file(run / "media" / "probe.json"),
        cost_map=read_json_file(run / "media" / "cost_map.json"),
        diagnostics=read_json_file(run / "diagnostics.json"),
        probes=read_json_file(run / "probes.json"),
    )


def read_json_file(path: Path) -> Json | None:
    """Read a JSON object, None where there is no file; NaN and infinity are read as ``None``.

    Raises:
        ValueError: the file is not a JSON object.
    """
    if not path.exists():
        return None
    return _parse(path.read_text(encoding="utf-8"), str(path))


def _read_metrics(path: Path) -> list[Json]:
    """Read one object per line; a last line without its newline was cut by a kill and is dropped."""
    if not path.exists():
        return []
    complete_lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [
        _parse(line, f"{path}, line {number}")
        for number, line in enumerate(complete_lines, start=1)
        if line.strip()
    ]


def _parse(text: str, where: str) -> Json:
    try:
        value = json.loads(text, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} must be JSON, got an error: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value
