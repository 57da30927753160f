import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.collecting import collect_store
from benchmarks.preparation import encode_rows, make_model, split_episodes
from benchmarks.recipes import resolve
from benchmarks.runs import RunError
from benchmarks.stages import RowWindows, _Stages, train_run
from worldmodel.data import ResidentWindows, StreamingWindows, TrajectoryStore
from worldmodel.metrics import read_metrics

SMOKE = resolve("two-rooms", "smoke")


def stages(recipe, store, run):
    return _Stages(recipe, store, run, 0, torch.device("cpu"), None, False)


def test_held_out_episodes_reach_no_stage(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)
    split = split_episodes(SMOKE, store)
    assert len(split["val"]) >= 1
    assert not set(split["train"]) & set(split["val"])
    made = stages(SMOKE, store, tmp_path / "run")
    frames = store.read(["pixels"], split["train"])["pixels"]
    np.testing.assert_array_equal(made.windows.arrays["pixels"].numpy(), frames)
    embeddings, actions, offsets = made.cached(make_model(SMOKE, store, 0))
    assert len(embeddings) == len(actions) == int(offsets[-1]) == len(frames)


def test_held_out_layouts_are_not_trained_on(tmp_path):
    collect = dataclasses.replace(SMOKE.collect, env_kwargs={"image_size": 32, "layout": "random"})
    store = collect_store(collect, tmp_path, seed=0)
    split, layouts = split_episodes(SMOKE, store), store.episodes["layout_id"]
    position = {index: i for i, index in enumerate(store.episodes["episode_index"])}
    train, val = ({int(layouts[position[e]]) for e in split[name]} for name in ("train", "val"))
    assert train
    assert val
    assert not train & val


def test_statistics_and_action_scale_travel_in_the_model(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    model = make_model(SMOKE, store, 0)
    frames = store.read(["pixels"], split_episodes(SMOKE, store)["train"])["pixels"]
    mean = model.normalizer.get_buffer("pixels_mean").flatten()
    np.testing.assert_allclose(mean.numpy(), frames.mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(model.get_buffer("action_scale").numpy(), 2.45, rtol=1e-6)


def test_streamed_frames_encode_to_the_rows_of_resident_ones(tmp_path):
    collect = dataclasses.replace(
        SMOKE.collect, num_steps=17
    )  # 18 rows: the last window overlaps the one before
    store = collect_store(collect, tmp_path, seed=0)
    model = make_model(SMOKE, store, 0).eval()
    resident = ResidentWindows(store, ["pixels", "action"], 13)
    with StreamingWindows(store, ["pixels", "action"], 13) as streaming:
        streamed = encode_rows(model, streaming, ["pixels"], {})
    torch.testing.assert_close(streamed, encode_rows(model, resident, ["pixels"], {}), rtol=1e-4, atol=1e-5)


def test_every_stage_resumes_where_it_was_killed(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)
    train_run(SMOKE, store, tmp_path / "whole", seed=0)

    class KilledError(Exception):
        pass

    for stage in ("world_model", "predictor", "critic", "actor"):

        def killer(name, step, total, scalars, stage=stage):
            if name == stage and step == 4:
                raise KilledError

        with pytest.raises(KilledError):
            train_run(SMOKE, TrajectoryStore.open(store.path), tmp_path / "cut", seed=0, on_step=killer)
    train_run(SMOKE, store, tmp_path / "cut", seed=0)
    for part in ("model", "critic", "policy"):
        whole, cut = (tmp_path / run / part / "model.safetensors" for run in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), part
    logs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut")]
    assert [(line["stage"], line["step"]) for line in logs[0]] == [
        (line["stage"], line["step"]) for line in logs[1]
    ]
    with pytest.raises(RunError, match="same recipe, got other critic"):
        train_run(resolve("two-rooms", "smoke", ["critic.batch_size=8"]), store, tmp_path / "cut", seed=0)


def test_rows_of_windows_stay_inside_episodes():
    windows = RowWindows(torch.tensor([0, 5, 9, 20]), 4, 200, seed=0)
    rows = windows(0)
    assert rows.shape == (200, 5)
    episode = torch.tensor([0] * 5 + [1] * 4 + [2] * 11)[rows]
    assert (episode == episode[:, :1]).all()
    assert not (episode == 1).any()  # four rows hold no window of five
    with pytest.raises(ValueError, match=r"rows of the longest episode \(5\), got 9"):
        RowWindows(torch.tensor([0, 5]), 9, 1, seed=0)
