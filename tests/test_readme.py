"""The README's commands, code and numbers are what they say."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.arguments import build_parser
from benchmarks.markdown import RESULTS, load_speed, load_summaries, quickstart_table, speed_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code):
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
    assert speed_table(load_speed()) in README


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
