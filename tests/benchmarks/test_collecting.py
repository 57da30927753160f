import dataclasses
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.catalogue import resolve
from benchmarks.collecting import collect_store, renderer
from worldmodel.data import ArraySpec, StoreError, TrajectoryStore

CONFIG = resolve("two-rooms", "smoke").collect
KEYS = ["pixels", "proprio", "state", "action", "action_valid"]


class StopError(Exception):
    pass


def stop_after(num):
    def on_chunk(done, _):
        if done >= num:
            raise StopError

    return on_chunk


def contents(path):
    store = TrajectoryStore.open(path)
    return store.read(KEYS), store.episodes


def test_an_interrupted_and_resumed_collection_holds_the_same_episodes(tmp_path):
    collect_store(CONFIG, tmp_path / "whole", seed=3)
    with pytest.raises(StopError):
        collect_store(CONFIG, tmp_path / "cut", seed=3, on_chunk=stop_after(12))
    assert TrajectoryStore.open(tmp_path / "cut").num_episodes == 12
    collect_store(CONFIG, tmp_path / "cut", seed=3)
    (whole, episodes), (cut, cut_episodes) = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    for key in KEYS:
        np.testing.assert_array_equal(whole[key], cut[key])
    np.testing.assert_array_equal(episodes["seed"], cut_episodes["seed"])


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_collection_goes_on_with_the_same_command(tmp_path, sent):
    out = tmp_path / "store"
    command = [
        sys.executable,
        "-m",
        "benchmarks.cli",
        "collect",
        "worldmodel/TwoRooms-v0",
        "--episodes",
        "1000",
    ]
    command += ["--steps", "8", "--env-args", "image_size=16", "--seed", "1", "--quiet", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "episodes.lance").exists():
            break
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    subprocess.run(command, check=True, capture_output=True)
    store = TrajectoryStore.open(out)
    assert store.num_episodes == 1000
    assert store.verify().is_intact
    config = dataclasses.replace(
        CONFIG, num_episodes=1000, num_steps=8, chunk=250, env_kwargs={"image_size": 16}
    )
    collect_store(config, tmp_path / "whole", seed=1)
    np.testing.assert_array_equal(contents(out)[0]["pixels"], contents(tmp_path / "whole")[0]["pixels"])


def leave_folders(path):
    for table in ("steps.lance", "episodes.lance"):  # Lance makes its folders before it commits
        (path / table / "_transactions").mkdir(parents=True)


def leave_steps(path):
    TrajectoryStore.create(path, {"state": ArraySpec("float32", (2,))}, env={"id": "dot", "kwargs": {}})
    shutil.rmtree(path / "episodes.lance")


def leave_an_uncommitted_table(path):
    TrajectoryStore.create(path, {"state": ArraySpec("float32", (2,))}, env={"id": "dot", "kwargs": {}})
    shutil.rmtree(path / "episodes.lance" / "_versions")


@pytest.mark.parametrize("leave", [leave_folders, leave_steps, leave_an_uncommitted_table])
def test_what_a_creation_killed_before_its_commit_leaves_is_created_anew(tmp_path, leave):
    leave(tmp_path)
    store = collect_store(dataclasses.replace(CONFIG, num_episodes=12), tmp_path, seed=3)
    assert store.num_episodes == 12
    assert "pixels" in store.spec
    assert store.verify().is_intact


def test_a_store_that_lost_its_list_of_episodes_is_not_created_anew(tmp_path):
    collect_store(dataclasses.replace(CONFIG, num_episodes=12), tmp_path, seed=3)
    shutil.rmtree(tmp_path / "episodes.lance")
    with pytest.raises(StoreError, match="must not hold a store already"):
        collect_store(CONFIG, tmp_path, seed=3)


def test_two_processes_that_collect_into_one_store_do_not_double_its_episodes(tmp_path):
    config = dataclasses.replace(CONFIG, num_episodes=48)
    collect_store(dataclasses.replace(config, num_episodes=12), tmp_path, seed=3)

    def meddle(done, total):
        if done == 24:  # another process has the same next chunk in hand and is faster
            collect_store(dataclasses.replace(config, num_episodes=36), tmp_path, seed=3)

    with pytest.raises(StoreError, match="must have no other writer meanwhile"):
        collect_store(config, tmp_path, seed=3, on_chunk=meddle)
    store = collect_store(config, tmp_path, seed=3)
    rows = [
        (seed, info["row"]) for seed, info in zip(store.episodes["seed"], store.episodes["info"], strict=True)
    ]
    assert len(set(rows)) == len(rows) == 48


def test_a_collection_can_grow_but_not_change_its_settings(tmp_path):
    collect_store(CONFIG, tmp_path, seed=3)
    larger = dataclasses.replace(CONFIG, num_episodes=36)
    assert collect_store(larger, tmp_path, seed=3).num_episodes == 36
    with pytest.raises(StoreError, match="must have been collected with the same settings .* got other seed"):
        collect_store(CONFIG, tmp_path, seed=4)
    with pytest.raises(StoreError, match="got other num_steps"):
        collect_store(dataclasses.replace(CONFIG, num_steps=5), tmp_path, seed=3)


def test_a_store_whose_states_were_of_another_shape_is_not_continued(tmp_path, monkeypatch):
    collect_store(dataclasses.replace(CONFIG, num_episodes=12), tmp_path, seed=3)
    monkeypatch.setattr("benchmarks.collecting._spec", lambda *_: {"state": ArraySpec("float32", (99,))})
    with pytest.raises(
        StoreError, match="must hold what worldmodel/TwoRooms-v0 records .* another shape of state"
    ):
        collect_store(CONFIG, tmp_path, seed=3)


def test_a_store_of_states_renders_to_the_frames_of_a_store_of_pixels(tmp_path):
    collect_store(CONFIG, tmp_path / "pixels", seed=3)
    store = collect_store(dataclasses.replace(CONFIG, states_only=True), tmp_path / "states", seed=3)
    assert "pixels" not in store.spec
    states = torch.from_numpy(store.read(["state"])["state"])
    frames = TrajectoryStore.open(tmp_path / "pixels").read(["pixels"])["pixels"]
    np.testing.assert_array_equal(renderer(store.env)(states).numpy(), frames)


def test_every_data_policy_collects(tmp_path):
    for name in ("uniform", "door_crossing", "expert", "0.5*heading+0.5*expert"):
        config = dataclasses.replace(CONFIG, policy=name, num_episodes=12)
        store = collect_store(config, tmp_path / name, seed=0)
        actions = store.read(["action"])["action"]
        assert np.linalg.norm(actions, axis=-1).max() <= 2.45 + 1e-4


def test_the_noisy_expert_is_the_expert_with_noise(tmp_path):
    def positions(name, **kwargs):
        config = dataclasses.replace(CONFIG, policy=name, policy_kwargs=kwargs, num_episodes=12)
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        return collect_store(config, folder, seed=0).read(["state"])["state"]

    plain = positions("expert")
    np.testing.assert_array_equal(positions("noisy_expert", noise=0.0), plain)
    assert not np.array_equal(positions("noisy_expert"), plain)


def test_unknown_policies_and_arguments_name_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="data policy must be one of .*did you mean 'heading'"):
        collect_store(dataclasses.replace(CONFIG, policy="headng"), tmp_path / "a", seed=0)
    with pytest.raises(ValueError, match="argument of data policy heading must be .*did you mean 'kappa'"):
        collect_store(dataclasses.replace(CONFIG, policy_kwargs={"kapa": 1}), tmp_path / "b", seed=0)
    with pytest.raises(ValueError, match="weight of a data policy must be a number, got 'half'"):
        collect_store(dataclasses.replace(CONFIG, policy="half*heading+expert"), tmp_path / "c", seed=0)
    mixed = dataclasses.replace(CONFIG, policy="1*heading", policy_kwargs={"kappa": 1})
    with pytest.raises(ValueError, match="a mixture of data policies must have no arguments, got kappa"):
        collect_store(mixed, tmp_path / "d", seed=0)


def test_set_factors_of_variation_are_recorded(tmp_path):
    config = dataclasses.replace(CONFIG, variation={"door_size": 5.0}, num_episodes=12)
    store = collect_store(config, tmp_path, seed=0)
    np.testing.assert_array_equal(store.episodes["door_size"], np.full(12, 5.0))
    with pytest.raises(ValueError, match="door_size"):
        collect_store(dataclasses.replace(config, variation={"door_siz": 5.0}), tmp_path / "b", seed=0)
