"""The house's rules about who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "worldmodel": {"worldmodel"},
    "envs": {"envs"},
    "planners": {"planners"},
    "benchmarks": {"worldmodel", "envs", "planners", "benchmarks"},
}


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_they_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        own = imported_packages(path) & (set(ALLOWED) | {"tests"})
        assert own <= ALLOWED[package], path


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import envs", ("mujoco", "matplotlib", "torch")),
        ("import envs.two_rooms, envs.moving_dot, envs.adapters", ("mujoco", "matplotlib", "lance")),
        ("import planners", ("matplotlib", "lance", "gymnasium")),
        ("import worldmodel.jepa", ("matplotlib", "lance", "gymnasium")),
        ("import benchmarks.cli", ("torch", "matplotlib", "lance")),
    ],
)
def test_heavy_things_are_imported_only_where_they_are_used(statement, absent):
    code = f"import sys; {statement}; print([n for n in {absent!r} if n in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_package_is_listed_for_the_wheel():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in ALLOWED
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == found
