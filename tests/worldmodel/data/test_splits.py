import numpy as np
import pytest

from tests.worldmodel.data.stores import ENV, SPEC, make_episodes
from worldmodel.data import TrajectoryStore, split_groups


def make_layouts(path, num_episodes=60):
    store = TrajectoryStore.create(path, SPEC, env=ENV)
    layouts = np.arange(num_episodes) % 12
    factors = {"layout": layouts, "door": np.stack([layouts, layouts // 2], axis=1).astype(np.float32)}
    store.append(make_episodes(num_episodes, 2), seeds=range(num_episodes), factors=factors)
    return store


@pytest.mark.parametrize("by", ["episode", "seed", "layout", "door"])
def test_splits_are_disjoint_complete_and_reproducible(tmp_path, by):
    store = make_layouts(tmp_path / "s")
    fractions = {"train": 0.6, "val": 0.2, "eval": 0.2}
    parts = store.split_episodes(fractions, seed=3, by=by)
    assert list(parts) == list(fractions)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(60))
    again = TrajectoryStore.open(store.path).split_episodes(fractions, seed=3, by=by)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    other = store.split_episodes(fractions, seed=4, by=by)
    assert any(not np.array_equal(parts[name], other[name]) for name in parts)


@pytest.mark.parametrize("by", ["layout", "door"])
def test_no_layout_is_in_two_splits(tmp_path, by):
    store = make_layouts(tmp_path / "s")
    parts = store.split_episodes(0.7, seed=0, by=by)
    layouts = store.episodes["layout"]
    assert len(parts["train"])
    assert len(parts["val"])
    assert not set(layouts[parts["train"]]) & set(layouts[parts["val"]])


def test_an_episode_keeps_its_split_when_the_store_grows(tmp_path):
    store = make_layouts(tmp_path / "s")
    before = store.split_episodes(0.7, seed=0)
    factors = {"layout": np.zeros(40, np.int64), "door": np.zeros((40, 2), np.float32)}
    store.append(make_episodes(40, 2), seeds=range(40), factors=factors)
    after = store.split_episodes(0.7, seed=0)
    for name in before:
        assert set(before[name]) == {episode for episode in after[name] if episode < 60}


def test_sizes_follow_the_fractions():
    parts = split_groups(np.arange(20_000), {"a": 0.5, "b": 0.3, "c": 0.2}, seed=0)
    for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs(parts[name].mean() - share) < 4 * np.sqrt(share * (1 - share) / 20_000)


@pytest.mark.parametrize("seed", range(20))
def test_no_split_is_empty_however_small_the_store(seed):
    parts = split_groups(np.arange(3), {"a": 0.98, "b": 0.01, "c": 0.01}, seed)
    assert [int(mask.sum()) for mask in parts.values()] == [1, 1, 1]


def test_wrong_splits_are_refused(tmp_path):
    store = make_layouts(tmp_path / "s")
    for fractions in (0.0, 1.0, {"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {}):
        with pytest.raises(ValueError, match="fractions must be positive and add up to 1"):
            store.split_episodes(fractions, seed=0)
    with pytest.raises(ValueError, match=r"by must be 'episode' or one of .*layout.*, got 'colour'"):
        store.split_episodes(0.5, seed=0, by="colour")
    with pytest.raises(ValueError, match="a split must find a group for each of a, b, got 1 groups"):
        split_groups(np.zeros(5), {"a": 0.5, "b": 0.5}, seed=0)
