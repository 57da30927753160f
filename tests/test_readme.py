"""The README's commands, code and numbers are what they say."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.arguments import build_parser
from benchmarks.markdown import (
    RESULTS,
    ablations_table,
    alarm_sentence,
    cost_sentence,
    factors_table,
    load_factor_studies,
    load_slow_features,
    load_speed,
    load_study,
    load_summaries,
    mujoco_table,
    planning_table,
    policies_table,
    quickstart_table,
    slow_features_table,
    speed_table,
    tuned_sentence,
    wanted_table,
)
from benchmarks.slow_features.table import chance, mean
from tests.benchmarks.runs import smoke_run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "runs/quickstart-seed0" in code:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "quickstart-seed0").symlink_to(smoke_run())
    exec(compile(code, "README.md", "exec"), {})


def test_there_are_python_blocks():
    assert len(blocks("python")) >= 3


def test_every_worldmodel_command_parses():
    commands = re.findall(r"^\s*(?:\S*/)?worldmodel (.+)$", "\n".join(blocks("sh")), flags=re.MULTILINE)
    commands += re.findall(r"`worldmodel ([^`]+)`", README)
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(shlex.split(command))


def test_the_first_screen_has_the_two_commands():
    first, second = blocks("sh")[:2]
    setup = "python3 -m venv .venv && .venv/bin/pip install -e"
    assert first.strip() == f"{setup} . && .venv/bin/worldmodel quickstart"
    assert second.strip() == f"{setup} '.[dev]' && .venv/bin/pytest"


def test_tables_are_those_of_the_committed_results():
    assert quickstart_table(load_summaries()) in README
    assert quickstart_table(load_summaries("two-rooms-small")) in README
    assert policies_table(load_study("two-rooms-small-seed0", "policies")) in README
    assert speed_table(load_speed()) in README
    assert mujoco_table() in README
    assert factors_table(load_factor_studies()) in README
    for recipe, name in (("two-rooms", "terms"), ("two-rooms-small", "terms"), ("cart-pole-small", "motion")):
        assert ablations_table(load_study(f"{recipe}-ablations", name)) in README


def test_the_slow_feature_tables_are_those_of_the_committed_results():
    value = load_slow_features()
    for table in (slow_features_table, planning_table, wanted_table):
        assert table(value["cells"]) in README
    assert alarm_sentence(value) in README
    assert cost_sentence(value) in README
    assert tuned_sentence(value["cells"]) in README
    dots = [cell for cell in value["cells"] if cell["world"] == "dot"]
    assert f"always guessing the mean gives {mean(chance(cell, '8') for cell in dots):.1f} px" in README
    assert (RESULTS / "slow_features_alpha.png").stat().st_size > 10_000
    assert value["command"].startswith("worldmodel bench slow-features --size small")
    assert value["seeds"] == [0, 1, 2]
    assert not value["overrides"]


def test_the_remedy_keeps_the_dot_where_the_others_lose_it():
    cells = [cell for cell in load_slow_features()["cells"] if cell["world"] == "dot" and cell["lr"] is None]

    def errors(objective, motion):
        return [
            cell["probes"]["position"]["rollout"]["rmse"]["8"]
            for cell in cells
            if cell["objective"] == objective and cell["motion"] == motion and cell["alpha"] <= 1
        ]

    assert max(errors("controllable", "fixed") + errors("controllable", "changing")) <= 1.2
    assert max(errors("controllable", "rolling")) <= 1.2
    noise = [cell for cell in cells if cell["motion"] == "fixed" and cell["alpha"] == 1]
    for name in ("vicreg", "simclr", "barlow", "byol", "sigreg"):
        lost = [cell for cell in noise if cell["objective"] == name]
        assert len(lost) >= 3
        assert all(cell["alarm"] is not None for cell in lost)
        assert min(cell["probes"]["position"]["rollout"]["rmse"]["8"] for cell in lost) > 8


def test_headline_numbers_hold_for_three_seeds():
    summaries = load_summaries()
    assert len(summaries) >= 3
    for summary in summaries:
        rate = {name: row["success_rate"] for name, row in summary["agents"].items()}
        assert rate["mode-2"] >= 0.97
        assert rate["mode-1"] >= 0.95
        assert rate["oracle"] >= 0.99
        assert rate["random"] <= 0.10
        assert rate["zero"] == 0
        assert summary["minutes"] <= 8
        assert summary["peak_memory_gib"] <= 3
        assert f"--seed {summary['seed']}" in summary["command"]


def test_files_that_the_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_results_are_json_with_their_command():
    for path in RESULTS.glob("*.json"):
        assert "command" in json.loads(path.read_text()), path
