import multiprocessing
import pickle
from datetime import timedelta

import lance
import numpy as np
import pytest
import torch

from tests.worldmodel.data.stores import ENV, SPEC, make_episodes, make_ragged, make_store
from worldmodel.data import ArraySpec, EnvSpec, StoreError, TrajectoryStore, tables
from worldmodel.data.schema import DTYPES


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_with_the_same_bits(tmp_path, dtype, shape):
    rng = np.random.default_rng(1)
    if dtype == "bool":
        values = rng.random((2, 7, *shape)) < 0.5
    else:  # random bits: includes NaN with payloads, infinities, extreme integers
        bits = rng.integers(0, 256, (2, 7, *shape, np.dtype(dtype).itemsize), dtype=np.uint8)
        values = bits.view(dtype)[..., 0]
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec(dtype, shape)}, env=ENV)
    store.append({"x": values}, seeds=[0, 1])
    read = TrajectoryStore.open(tmp_path / "s").read(["x"])["x"]
    assert read.dtype == np.dtype(dtype)
    assert read.shape == (14, *shape)
    assert read.tobytes() == values.tobytes()


def test_ragged_episodes_come_back_in_the_order_asked(tmp_path):
    store, episodes = make_store(tmp_path / "s")
    assert store.lengths.tolist() == [5, 9, 7, 20, 6]
    assert (store.num_episodes, store.num_steps) == (5, 47)
    for wanted in ([0, 1, 2, 3, 4], [3, 0], [4], []):
        read = store.read(list(SPEC), wanted)
        for key, spec in SPEC.items():
            expected = [episodes[at][key] for at in wanted] or [np.empty((0, *spec.shape), spec.dtype)]
            np.testing.assert_array_equal(read[key], np.concatenate(expected))


def test_long_episodes_cross_written_batches_and_read_batches(tmp_path):
    store = TrajectoryStore.create(
        tmp_path / "s", {"x": ArraySpec("int64"), "y": ArraySpec("uint8", (64,))}, env=ENV
    )
    lengths = [3000, 1, 40000]
    episodes = [
        {"x": np.arange(rows), "y": np.repeat(np.arange(rows, dtype=np.uint8)[:, None], 64, axis=1)}
        for rows in lengths
    ]
    store.append(episodes, seeds=[0, 1, 2])
    read = store.read(["x", "y"], [2, 0])
    np.testing.assert_array_equal(read["x"], np.concatenate([np.arange(40000), np.arange(3000)]))
    np.testing.assert_array_equal(
        read["y"], np.repeat((read["x"] % 256).astype(np.uint8)[:, None], 64, axis=1)
    )
    assert store.verify().is_intact


def test_no_scan_asks_for_more_than_its_share_of_memory(tmp_path, monkeypatch):
    """A scan of more than Lance's I/O buffer may wait for room in it forever, within some tens of readings."""
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec("int64")}, env=ENV)
    for first in range(0, 3000, 1000):
        store.append([{"x": np.arange(first, first + 1000)}], seeds=[first])
    asked, scanner = [], lance.LanceDataset.scanner

    def watched(self, *args, **kwargs):
        asked.extend([kwargs["limit"]] if kwargs["limit"] else [])  # without: a small table as a whole
        return scanner(self, *args, **kwargs)

    monkeypatch.setattr(lance.LanceDataset, "scanner", watched)
    monkeypatch.setattr(tables, "_READ_AHEAD_BYTES", 8 * 700)
    read = store.read(["x"], [0, 1, 2])["x"]
    np.testing.assert_array_equal(read, np.arange(3000))
    assert (max(asked), sum(asked)) == (700, 3000)
    assert store.verify().is_intact
    assert max(asked) == 700


def test_what_describes_a_store_comes_back(tmp_path):
    env = EnvSpec("worldmodel/Test-v0", {"size": 3}, {"pixels": (3, 8, 8)}, (-1.0,), (2.0,), fps=10.0)
    store = TrajectoryStore.create(tmp_path / "s", SPEC, env=env, metadata={"command": "collect"})
    factors = {"layout": np.array([4, 5]), "door": np.ones((2, 3), np.float32), "name": np.array(["a", "bc"])}
    store.append(
        make_episodes(2, 4),
        seeds=np.array([7, 8]),
        split=["train", "val"],
        factors=factors,
        info=[{}, {"a": [1]}],
    )
    store = TrajectoryStore.open(tmp_path / "s")
    assert store.env == {
        "id": "worldmodel/Test-v0",
        "kwargs": {"size": 3},
        "observation": {"pixels": [3, 8, 8]},
        "action": {"low": [-1.0], "high": [2.0], "max_norm": None},
        "fps": 10.0,
    }
    assert store.metadata["command"] == "collect"
    assert set(store.metadata["versions"]) == {"python", "pylance", "pyarrow", "numpy"}
    assert store.spec == SPEC | {"action_valid": ArraySpec("bool")}
    episodes = store.episodes
    assert episodes["episode_index"].tolist() == [0, 1]
    assert episodes["seed"].tolist() == [7, 8]
    assert episodes["split"].tolist() == ["train", "val"]
    assert episodes["info"] == [{}, {"a": [1]}]
    for name, array in factors.items():
        np.testing.assert_array_equal(episodes[name], array)
        assert episodes[name].dtype == array.dtype


def test_the_last_action_of_an_episode_is_marked_invalid(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 2))
    assert store.read(["action_valid"])["action_valid"].tolist() == [True, True, False, True, False]


def test_tensors_and_strided_arrays_are_stored_like_contiguous_arrays(tmp_path):
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec("float32", (2, 3))}, env=ENV)
    values = np.arange(48, dtype=np.float32).reshape(2, 4, 3, 2)
    store.append({"x": values.swapaxes(2, 3)}, seeds=[0, 1])
    store.append({"x": torch.from_numpy(values).transpose(2, 3)}, seeds=[0, 1])
    expected = values.swapaxes(2, 3).reshape(8, 2, 3)
    np.testing.assert_array_equal(store.read(["x"])["x"], np.concatenate([expected, expected]))
    assert store.verify().is_intact


def test_appends_number_episodes_onwards_also_after_reopening(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 4))
    assert store.append(make_ragged([5]), seeds=[0]) == range(2, 3)
    store = TrajectoryStore.open(tmp_path / "s")
    assert store.append(make_episodes(3, 4), seeds=[0, 1, 2]) == range(3, 6)
    assert store.lengths.tolist() == [3, 4, 5, 4, 4, 4]


def test_an_open_store_sees_the_appends_of_others_after_refresh(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 4))
    assert store.num_episodes == 2
    TrajectoryStore.open(tmp_path / "s").append(make_ragged([5]), seeds=[0])
    assert store.num_episodes == 2
    store.refresh()
    assert store.num_episodes == 3


def test_create_refuses_a_second_store_and_leaves_the_first(tmp_path):
    store, _ = make_store(tmp_path / "s", (3,))
    with pytest.raises(StoreError, match="must not hold a store already"):
        TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV)
    store.refresh()
    assert store.num_episodes == 1


def test_an_interrupted_creation_can_be_repeated(tmp_path):
    TrajectoryStore.create(tmp_path / "s", {"other": ArraySpec("int8")}, env=ENV)
    (tmp_path / "s" / "episodes.lance").rename(tmp_path / "gone")
    assert set(TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV).spec) == {*SPEC, "action_valid"}


def test_deleted_episodes_are_gone_compacted_and_never_numbered_again(tmp_path):
    store, episodes = make_store(tmp_path / "s")
    store.append(make_ragged([4, 4], seed=50), seeds=[5, 6])
    store.delete_episodes([6, 1, 3])
    assert store.episodes["episode_index"].tolist() == [0, 2, 4, 5]
    assert store.steps.count_rows() == store.num_steps == 5 + 7 + 6 + 4
    assert all(fragment.num_deletions == 0 for fragment in store.steps.get_fragments())
    np.testing.assert_array_equal(store.read(["state"], [2])["state"], episodes[2]["state"])
    assert store.verify().is_intact
    assert store.append(make_ragged([4]), seeds=[9]) == range(7, 8)
    with pytest.raises(ValueError, match="must be committed in the store, got 3"):
        store.read(["state"], [3])


def test_compaction_merges_fragments_and_keeps_values(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 4))
    for number in range(5):
        store.append(make_ragged([6, 2], seed=number), seeds=[0, 1])
    before = store.read(list(SPEC))
    store.compact()
    assert len(store.steps.get_fragments()) == 1
    for key, array in store.read(list(SPEC)).items():
        np.testing.assert_array_equal(array, before[key])
    assert store.verify().is_intact


def test_repair_spares_the_young_and_removes_the_old_orphans(tmp_path):
    from worldmodel.data.appending import make_blocks, write_steps

    store, _ = make_store(tmp_path / "s", (3, 4))
    write_steps(store.steps, make_blocks(make_ragged([9]), store.spec), 7, None)  # a writer that died here
    store.refresh()
    assert (store.num_episodes, store.index.orphans.tolist(), store.index.next_index) == (2, [7], 8)
    assert store.repair() == 0
    assert store.repair(timedelta(0)) == 9
    assert store.steps.count_rows() == store.num_steps == 7
    assert store.verify().is_intact


def test_a_pickled_store_opens_itself_again(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 4))
    assert pickle.loads(pickle.dumps(store)).lengths.tolist() == [3, 4]  # noqa: S301


def test_a_forked_process_is_refused(tmp_path, monkeypatch):
    store, _ = make_store(tmp_path / "s", (3, 4))
    monkeypatch.setattr(store, "_process", -1)
    with pytest.raises(StoreError, match="must be opened by the process that uses it"):
        store.read(["state"])


def test_a_spawned_process_opens_the_store_itself(tmp_path):
    store, _ = make_store(tmp_path / "s", (3, 4))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_count_episodes, (store,)) == 2


def _count_episodes(store):
    return store.num_episodes


BAD_EPISODES = {
    "dtype": ({"pixels": np.zeros((2, 4, 3, 8, 8), np.float32)}, "pixels must be uint8, got float32"),
    "shape": (
        {"state": np.zeros((2, 4, 5), np.float32)},
        r"state must have shape \(2, 4, 4\), got \(2, 4, 5\)",
    ),
    "rows": ({"reward": np.zeros((2, 3))}, r"reward must have shape \(2, 4\), got \(2, 3\)"),
    "unknown": ({"pixel": np.zeros(3)}, "an episode must hold only the keys pixels, .*, got pixel$"),
    "missing": ({"state": None}, "an episode must hold the keys .*, got no state$"),
    "list": ({"reward": [[0.0] * 4] * 2}, "reward must be a numpy array or a tensor, got list"),
    "bfloat16": (
        {"reward": torch.zeros(2, 4, dtype=torch.bfloat16)},
        "reward must have a dtype that numpy knows",
    ),
}


@pytest.mark.parametrize("case", BAD_EPISODES)
def test_arrays_against_the_spec_are_refused_before_anything_is_written(tmp_path, case):
    change, message = BAD_EPISODES[case]
    store = TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV)
    episodes = {key: value for key, value in (make_episodes(2, 4) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        store.append(episodes, seeds=[0, 1])
    assert TrajectoryStore.open(tmp_path / "s").index.next_index == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": [0]}, "seeds must have one entry for each of 2 episodes, got 1"),
        ({"split": ["train"]}, "split must have one entry"),
        ({"info": [{}] * 3}, "info must have one entry"),
        ({"info": {"x": {1}}}, "info must be JSON-able"),
        ({"factors": {"layout": np.zeros(3)}}, r"factor 'layout' must have shape \(2, ...\), got \(3,\)"),
        ({"factors": {"seed": np.zeros(2)}}, "name must not be one of"),
        ({"factors": {"a.b": np.zeros(2)}}, "a factor must be an identifier"),
        ({"factors": {"x": np.zeros(2, complex)}}, "dtype must be one of"),
    ],
)
def test_arguments_of_append_are_checked(tmp_path, arguments, message):
    store = TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV)
    with pytest.raises(ValueError, match=message):
        store.append(make_episodes(2, 4), **({"seeds": [0, 1]} | arguments))


def test_factors_are_fixed_by_the_first_append(tmp_path):
    store = TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV)
    store.append(make_episodes(2, 4), seeds=[0, 1], factors={"layout": np.zeros(2)})
    for factors in (None, {"layout": np.zeros(2, np.int64)}, {"door": np.zeros(2)}):
        with pytest.raises(StoreError, match=r"factors must be those of the store, .*layout"):
            store.append(make_episodes(2, 4), seeds=[0, 1], factors=factors)
    assert store.num_episodes == 2


def test_descriptions_of_a_store_are_checked(tmp_path):
    with pytest.raises(ValueError, match="spec must hold at least one key"):
        TrajectoryStore.create(tmp_path / "s", {}, env=ENV)
    with pytest.raises(ValueError, match="a key must be an identifier"):
        TrajectoryStore.create(tmp_path / "s", {"step_index": ArraySpec("int8")}, env=ENV)
    with pytest.raises(ValueError, match="env must have the id"):
        TrajectoryStore.create(tmp_path / "s", SPEC, env={})
    with pytest.raises(StoreError, match="env and metadata must be JSON-able"):
        TrajectoryStore.create(tmp_path / "s", SPEC, env=ENV | {"kwargs": np.zeros(2)})
    with pytest.raises(ValueError, match=r"dtype must be one of .*, got 'complex64'"):
        ArraySpec("complex64")
    with pytest.raises(ValueError, match="shape must hold dimensions of at least 1"):
        ArraySpec("uint8", (0, 3))
    with pytest.raises(ValueError, match=r"key must be one of .*, got 'nothing'"):
        make_store(tmp_path / "t")[0].read(["nothing"])
