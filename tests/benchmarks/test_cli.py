import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.arguments import DESCRIPTION
from benchmarks.cli import VERBS, main
from tests.benchmarks.runs import smoke_run
from worldmodel.data import TrajectoryStore


@pytest.fixture
def run(tmp_path):
    """A private copy of a smoke run."""
    return Path(shutil.copytree(smoke_run(), tmp_path / "run"))


@pytest.fixture
def store(tmp_path):
    """A private copy of the store that the smoke run was trained on."""
    return Path(shutil.copytree(smoke_run().parent / "data", tmp_path / "data"))


def error_of(capsys, *argv) -> str:
    """Run a command that must fail and return its one line."""
    status = main([str(word) for word in argv])
    err = capsys.readouterr().err
    assert status != 0
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("worldmodel: ")
    return lines[0].removeprefix("worldmodel: ")


@pytest.mark.slow
def test_the_quickstart_goes_from_an_empty_folder_to_a_report_and_repeats(tmp_path, capsys):
    summaries = []
    for name in ("one", "two"):
        arguments = ["quickstart", "--preset", "smoke", "--seed", "3", "--out", str(tmp_path / name)]
        assert main([*arguments, "--json", str(tmp_path / f"{name}.json"), "--quiet"]) == 0
        summaries.append(json.loads((tmp_path / f"{name}.json").read_text()))
    for agent, row in summaries[0]["agents"].items():
        for key in ("success_rate", "ci95", "success_rate_final"):
            assert summaries[1]["agents"][agent][key] == row[key]
    one, two = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    run = tmp_path / "one"
    for part in ("config.json", "metrics.jsonl", "results.json", "report.html", "summary.json"):
        assert (run / part).stat().st_size > 0
    config = json.loads((run / "config.json").read_text())
    assert config["seed"] == 3
    assert set(config["seconds"]) >= {"collect", "world_model", "predictor", "critic", "actor", "evaluate"}


def test_the_verbs_one_by_one_make_a_run(tmp_path, capsys):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    collect = ["collect", "worldmodel/TwoRooms-v0", "--episodes", "24", "--steps", "16", "--out", data]
    assert main([*collect, "--env-args", "image_size=32", "--quiet"]) == 0
    assert json.loads((tmp_path / "data" / "config.json").read_text())["seed"] == 0
    assert main(["train", "two-rooms", "--preset", "smoke", "--data", data, "--out", run, "--quiet"]) == 0
    evaluate = ["evaluate", run, "--episodes", "5", "--steps", "4", "--mode", "2", "--planner", "mppi"]
    capsys.readouterr()
    assert main([*evaluate, "--planner-args", "num_samples=8", "num_elites=4", "--quiet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["evaluations"]
    assert rows[0]["planner"] == "mppi"
    assert rows[0]["episodes"] == 5
    assert main(["report", run, "--gif", "--quiet", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert Path(written["report"]).exists()
    assert Path(written["gif"]).exists()


def test_training_can_be_repeated_and_is_then_over_at_once(run, capsys):
    before = (run / "model" / "model.safetensors").read_bytes()
    data = smoke_run().parent / "data"
    assert (
        main(["train", "two-rooms", "--preset", "smoke", "--data", str(data), "--out", str(run), "--quiet"])
        == 0
    )
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_a_run_is_not_continued_with_another_seed_or_recipe(run, capsys):
    data = smoke_run().parent / "data"
    common = ["train", "two-rooms", "--preset", "smoke", "--data", data, "--out", run, "--quiet"]
    assert "same seed" in error_of(capsys, *common, "--seed", "5")
    assert "critic" in error_of(capsys, *common, "--set", "critic.critic.max_lag=3")


def test_a_quickstart_is_not_continued_with_other_settings(tmp_path, capsys):
    common = ["quickstart", "--preset", "smoke", "--quiet", "--out", tmp_path / "run"]
    assert main([str(word) for word in common]) == 0
    before = (tmp_path / "run" / "config.json").read_text()
    assert "got other world_model" in error_of(capsys, *common, "--set", "world_model.lr=0.5")
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_data_info_and_verify_read_a_store(store, capsys):
    assert main(["data", "info", str(store), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["episodes"] == 24
    assert facts["env"] == "worldmodel/TwoRooms-v0"
    assert facts["columns"]["pixels"] == "uint8[2, 32, 32]"
    assert main(["data", "verify", str(store)]) == 0
    assert main(["data", "repair", str(store)]) == 0


def test_a_flipped_byte_is_found_by_verify(store, capsys):
    frames = TrajectoryStore.open(store).read(["pixels"])["pixels"]
    needle = frames[5].tobytes()
    for path in sorted((store / "steps.lance" / "data").iterdir()):
        blob = bytearray(path.read_bytes())
        at = blob.find(needle)
        if at >= 0:
            blob[at + 100] ^= 1
            path.write_bytes(blob)
            break
    else:
        pytest.fail("the frame was not found on disk")
    assert not np.array_equal(TrajectoryStore.open(store).read(["pixels"])["pixels"], frames)
    message = error_of(capsys, "data", "verify", store, "--quiet")
    assert "pixels" in message
    assert "episode" in message


def test_a_truncated_store_is_one_sentence(store, capsys):
    path = max((store / "steps.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for command in (
        ["data", "verify", store],
        ["train", "two-rooms", "--data", store, "--out", store / "run"],
    ):
        status = main([str(word) for word in [*command, "--quiet"]])
        assert status == 1
        assert "Traceback" not in capsys.readouterr().err


def test_envs_are_listed(capsys):
    assert main(["envs", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == {
        f"worldmodel/{name}-v0"
        for name in ("CartPole", "MovingDot", "PointMaze", "PushT", "Reacher", "TwoRooms")
    }
    assert "door_y" in listed["worldmodel/TwoRooms-v0"]["variation"]


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), ["data", "verify"], ["envs", "list"], ["bench", "speed"]]
)
def test_every_help_reads(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "usage: worldmodel" in out
    if not verb:
        assert all(name in out for name in VERBS)
        assert DESCRIPTION.splitlines()[0] in out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["quikstart"], "did you mean quickstart"),
        (["quickstart", "--sed", "3"], "has no argument '--sed'; did you mean --seed"),
        (["quickstart", "--seed", "x"], "must be a whole number, got 'x'"),
        (["quickstart", "--seed", "-1"], "must be >= 0, got -1"),
        (["quickstart", "--preset", "smok"], "did you mean smoke"),
        (["quickstart", "--device", "gpu"], "--device must be cpu, cuda or cuda:N, got 'gpu'"),
        (["collect", "worldmodel/TwoRoom-v0", "--out", "x"], "did you mean"),
        (["collect", "worldmodel/TwoRooms-v0"], "required: --out"),
        (["collect", "worldmodel/TwoRooms-v0", "--out", "x", "--episodes", "0"], "must be >= 1, got 0"),
        (["collect", "worldmodel/TwoRooms-v0", "--out", "x", "--env-args", "layot=random"], "layout"),
        (
            ["collect", "worldmodel/TwoRooms-v0", "--out", "x", "--policy", "uniforn"],
            "did you mean 'uniform'",
        ),
        (["train", "two-rooms", "--data", "nowhere", "--out", "x"], "nowhere must be a trajectory store"),
        (["train", "tworooms", "--data", "nowhere", "--out", "x"], "did you mean 'two-rooms'"),
        (["evaluate", "RUN", "--planner", "cemm"], "did you mean 'cem'"),
        (["evaluate", "RUN", "--planner-args", "horizon=0"], "horizon must be"),
        (["evaluate", "RUN", "--planner-args", "num_sample=3"], "did you mean 'num_samples'"),
        (["evaluate", "RUN", "--planner-args", "cost=critc"], "did you mean 'critic'"),
        (
            ["evaluate", "RUN", "--planner-args", "num_samples=abc"],
            "num_samples must be of type int, got 'abc'",
        ),
        (["evaluate", "RUN", "--planner-args", "warm_start=no"], "warm_start must be of type bool, got 'no'"),
        (["evaluate", "RUN", "--planner-args", "horizon=2.5"], "horizon must be of type int, got 2.5"),
        (["collect", "worldmodel/TwoRooms-v0", "--out", "x", "--env-args", "image_size=abc"], "image_size"),
        (["collect", "worldmodel/TwoRooms-v0", "--out", "x", "--policy-args", "kappa=x"], "kappa"),
        (["quickstart", "--device", "mps"], "--device must be cpu, cuda or cuda:N, got 'mps'"),
        (["quickstart", "--set", "critic.batch_size=0"], "CriticRecipe.batch_size must be >= 1, got 0"),
        (["quickstart", "--set", "objective.weights={}"], "objective.weights must be numbers by name"),
        (["report", "nowhere"], "a run must have the file config.json, got nowhere"),
        (["data", "info", "nowhere"], "nowhere must be a trajectory store"),
        (["data", "inof", "nowhere"], "did you mean info"),
    ],
)
def test_a_users_mistake_is_one_line(argv, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [str(smoke_run()) if word == "RUN" else word for word in argv]
    assert sentence in error_of(capsys, *argv)


def test_a_folder_without_a_run_is_said_once(capsys):
    assert (
        error_of(capsys, "evaluate", "nowhere")
        == "a run must have the file config.json, got nowhere without it"
    )


def test_a_mistake_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    error_of(capsys, "collect", "worldmodel/TwoRooms-v0", "--out", "x", "--policy", "uniforn")
    error_of(capsys, "train", "two-rooms", "--data", "nowhere", "--out", "y")
    assert list(tmp_path.iterdir()) == []


def test_torchrun_trains_two_processes(tmp_path):
    data = smoke_run().parent / "data"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [
        "-m",
        "benchmarks.cli",
        "train",
        "two-rooms",
        "--preset",
        "smoke",
        "--threads",
        "1",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, "--data", str(data), "--out", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "policy" / "config.json").exists()
