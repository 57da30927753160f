import numpy as np
import pytest

from tests.worldmodel.data.stores import ENV, SPEC, make_episodes, make_store
from worldmodel.data import ArraySpec, TrajectoryStore


def test_statistics_are_those_of_numpy_over_the_train_split(tmp_path):
    store, _ = make_store(tmp_path / "s", (30, 41, 7), split=["train", "val", "train"])
    statistics = store.statistics(list(SPEC))
    rows = store.read([*SPEC, "action_valid"], [0, 2])
    rows["action"] = rows["action"][rows["action_valid"]]
    for key in SPEC:
        array = rows[key].astype(np.float64)
        axes = (0, 2, 3) if key == "pixels" else (0,)
        for name, expected in [
            ("mean", array.mean(axes)),
            ("std", array.std(axes)),
            ("min", array.min(axes)),
            ("max", array.max(axes)),
        ]:
            assert statistics[key][name].shape == expected.shape
            assert statistics[key][name].dtype == np.float64
            np.testing.assert_allclose(statistics[key][name], expected, rtol=1e-12, atol=1e-13)


def test_statistics_of_chosen_episodes_follow_the_choice(tmp_path):
    store, episodes = make_store(tmp_path / "s", split="eval")
    np.testing.assert_allclose(
        store.statistics(["state"], [3])["state"]["mean"], episodes[3]["state"].mean(0), rtol=1e-5
    )
    with pytest.raises(ValueError, match="must hold episodes of the split 'train', got none"):
        store.statistics(["state"])


def test_statistics_are_computed_again_after_an_append(tmp_path):
    store, _ = make_store(tmp_path / "s")
    before = store.statistics(["reward"])["reward"]["max"]
    episodes = make_episodes(1, 5)
    episodes["reward"][:] = 100.0
    store.append(episodes, seeds=[0])
    assert before < 100.0 == store.statistics(["reward"])["reward"]["max"]


def test_a_large_offset_does_not_cancel_the_spread(tmp_path):
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec("float64")}, env=ENV)
    values = 1e9 + np.random.default_rng(0).normal(size=(1, 50_000))
    store.append({"x": values}, seeds=[0])
    np.testing.assert_allclose(store.statistics(["x"])["x"]["std"], values.std(), rtol=1e-6)


def test_long_image_columns_do_not_overflow(tmp_path):
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec("uint8", (1, 64, 64))}, env=ENV)
    values = np.full((1, 1500, 1, 64, 64), 255, np.uint8)
    values[0, 0] = 0
    store.append({"x": values}, seeds=[0])
    found = store.statistics(["x"])["x"]
    np.testing.assert_allclose(found["mean"], [255 * 1499 / 1500])
    np.testing.assert_allclose(found["std"], [255 * np.sqrt(1499) / 1500], rtol=1e-9)
