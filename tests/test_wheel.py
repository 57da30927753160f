"""The wheel: what is in it, and that it works away from the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy of what is in it, with the setuptools of this environment."""
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("worldmodel", "envs", "planners", "benchmarks", "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_their_data_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {"worldmodel", "envs", "planners", "benchmarks"} <= top
    assert not any(name.startswith("tests/") for name in names)
    for name in ("template.html", "style.css", "player.js"):
        assert f"benchmarks/report/{name}" in names
    assert "worldmodel/py.typed" in names


def test_the_wheel_works_where_there_is_no_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = f"""
import sys
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]  # its .venv may lie inside
sys.path.insert(0, {str(site)!r})
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import benchmarks.cli, envs, planners, worldmodel
for package in (benchmarks, envs, planners, worldmodel):
    assert package.__file__.startswith({str(site)!r}), package.__file__
status = benchmarks.cli.main(["quickstart", "--preset", "smoke", "--out", "run", "--quiet"])
assert status == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
