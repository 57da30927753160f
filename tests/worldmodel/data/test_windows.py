import threading

import numpy as np
import pytest
import torch

from tests.worldmodel.data.stores import ENV, SPEC, make_ragged, make_store
from worldmodel.data import (
    ArraySpec,
    ResidentWindows,
    StoreError,
    StreamingWindows,
    TrajectoryStore,
    open_windows,
    tune_malloc,
)

KEYS = ["pixels", "action", "action_valid"]
KINDS = [ResidentWindows, StreamingWindows]


@pytest.fixture
def store(tmp_path):
    """Episodes whose order on disk is not that of their indices, with an orphan in between."""
    from worldmodel.data.appending import make_blocks, write_steps

    store, _ = make_store(tmp_path / "s")
    write_steps(store.steps, make_blocks(make_ragged([9]), store.spec), 40, None)
    store.append(make_ragged([4, 11], seed=70), seeds=[0, 1], split="val")
    return store


def naive_windows(store, keys, length, episodes, stride=1):
    """Every window by slicing one episode after the other."""
    windows = {key: [] for key in keys}
    for episode in np.sort(episodes):
        rows = store.read(keys, [episode])
        for start in range(0, len(rows[keys[0]]) - length + 1, stride):
            for key in keys:
                windows[key].append(rows[key][start : start + length])
    return {key: np.stack(values) for key, values in windows.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 4, 11])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("chosen", [slice(None), slice(1, 6, 2), slice(None, None, -1)])
def test_windows_are_all_slices_of_single_episodes(store, kind, length, stride, chosen):
    episodes = store.index.episode_index[chosen]
    expected = naive_windows(store, KEYS, length, episodes, stride)
    with kind(store, KEYS, length, episodes=episodes, stride=stride) as windows:
        assert windows.num_windows == len(expected["pixels"])
        batch = windows.gather(windows.starts)
    assert list(batch) == KEYS
    for key in KEYS:
        assert batch[key].numpy().dtype == expected[key].dtype
        np.testing.assert_array_equal(batch[key].numpy(), expected[key])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float16", "int32", "uint64", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (5, 1)])
def test_windows_of_every_width_agree(tmp_path, dtype, shape):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2 if dtype == "bool" else 100, (2, 9, *shape)).astype(dtype)
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec(dtype, shape)}, env=ENV)
    store.append({"x": values}, seeds=[0, 1])
    expected = naive_windows(store, ["x"], 4, [0, 1])["x"]
    for kind in KINDS:
        with kind(store, ["x"], 4) as windows:
            np.testing.assert_array_equal(windows.gather(windows.starts)["x"].numpy(), expected)


def test_resident_and_streaming_batches_are_the_same_bits(store):
    resident = ResidentWindows(store, KEYS, 4)
    with StreamingWindows(store, KEYS, 4) as streaming:
        for step in (0, 1, 2, 3, 9, 4, 5, 0):
            assert_equal_batches(resident.batch_at(step, 16, 3), streaming.batch_at(step, 16, 3))
        one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        for _ in range(3):
            assert_equal_batches(resident.sample(8, one), streaming.sample(8, two))
        assert torch.equal(one.get_state(), two.get_state())


def assert_equal_batches(one, two):
    assert list(one) == list(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        assert torch.equal(one[key], two[key])


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_a_pure_function_of_step_and_seed(store, kind):
    with kind(store, ["pixels"], 4) as windows:
        first = [windows.batch_at(step, 32, 7)["pixels"] for step in range(3)]
        torch.rand(5)
        again = [windows.batch_at(step, 32, 7)["pixels"] for step in (2, 1, 0)][::-1]
        other_seed = windows.batch_at(0, 32, 8)["pixels"]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other_seed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_slices_of_all_ranks_make_the_joint_batch(store, kind):
    with kind(store, ["pixels"], 4) as windows:
        joint = windows.batch_at(6, 12, 7)["pixels"]
        slices = [windows.batch_at(6, 12, 7, rank=rank, world_size=3)["pixels"] for rank in range(3)]
    assert torch.equal(torch.cat(slices), joint)


def test_samples_are_uniform_over_all_windows(store):
    windows = ResidentWindows(store, ["state"], 4)
    index = {state.numpy().tobytes(): at for at, state in enumerate(windows.gather(windows.starts)["state"])}
    counts = np.zeros(windows.num_windows)
    drawn = windows.sample(200 * windows.num_windows, torch.Generator().manual_seed(0))["state"]
    for state in drawn:
        counts[index[state.numpy().tobytes()]] += 1
    chi_square = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi_square - windows.num_windows) < 5 * np.sqrt(2 * windows.num_windows)


def test_windows_of_two_splits_share_no_row(store):
    parts = store.split_episodes(0.5, seed=1)
    seen = {}
    for name, episodes in parts.items():
        windows = ResidentWindows(store, ["state"], 2, episodes=episodes)
        rows = windows.gather(windows.starts)["state"].flatten(0, 1).numpy()
        seen[name] = {row.tobytes() for row in rows}
        assert windows.offsets[-1] == store.lengths[np.isin(store.index.episode_index, episodes)].sum()
    assert not seen["train"] & seen["val"]


def test_batches_may_be_kept(store):
    windows = ResidentWindows(store, ["pixels"], 4)
    kept = windows.batch_at(0, 8, 0)["pixels"]
    copy = kept.clone()
    kept_before = windows.arrays["pixels"].clone()
    for step in range(1, 20):
        windows.batch_at(step, 8, 0)["pixels"].zero_()
    assert torch.equal(kept, copy)
    assert torch.equal(windows.arrays["pixels"], kept_before)


def render(states):
    """Map (rows, S) to (rows, 1, 2, 2) uint8."""
    return (states[:, :1].abs() * 40).to(torch.uint8)[:, :, None, None].expand(-1, 1, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [["action"], ["action", "state"], ["pixels", "action"]])
def test_derived_keys_are_made_from_the_batch(store, kind, keys):
    with kind(store, keys, 4, derived={"pixels": ("state", render)}) as windows:
        batch = windows.batch_at(2, 8, 0)
    assert set(batch) == {*keys, "pixels"}
    states = ResidentWindows(store, ["state"], 4).batch_at(2, 8, 0)["state"]
    assert batch["pixels"].dtype == torch.uint8
    assert torch.equal(batch["pixels"], render(states.flatten(0, 1)).unflatten(0, (8, 4)))


def test_open_windows_keeps_within_the_budget(store):
    needed = store.num_steps * SPEC["pixels"].num_bytes
    assert isinstance(open_windows(store, ["pixels"], 4), ResidentWindows)
    assert isinstance(open_windows(store, ["pixels"], 4, max_bytes=needed), ResidentWindows)
    with open_windows(store, ["pixels"], 4, max_bytes=needed - 1) as windows:
        assert isinstance(windows, StreamingWindows)
    with pytest.raises(
        ValueError, match=f"max_bytes must be at least the {needed} bytes of the data, got 10"
    ):
        ResidentWindows(store, ["pixels"], 4, max_bytes=10)
    states_only = open_windows(
        store, [], 4, max_bytes=store.num_steps * 16, derived={"pixels": ("state", render)}
    )
    assert isinstance(states_only, ResidentWindows)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_calls_are_refused(store, kind):
    for arguments, message in [
        ({"length": 21}, "length must be at most the longest episode, 20 rows, got 21"),
        ({"length": 0}, "length and stride must be at least 1"),
        ({"length": 2, "episodes": [99]}, "episodes must be committed in the store, got 99"),
        ({"length": 2, "episodes": [1, 1]}, "episodes must be distinct"),
        ({"length": 2, "episodes": [0.5]}, "episodes must be episode indices"),
        ({"length": 2, "keys": ["nothing"]}, "key must be one of .*, got 'nothing'"),
        ({"length": 2, "keys": []}, "keys must name at least one key, got none"),
    ]:
        with pytest.raises(ValueError, match=message):
            kind(store, **({"keys": ["pixels"]} | arguments))
    with kind(store, ["pixels"], 4) as windows:
        for start in (-1, 2, int(windows.offsets[-1]) - 3, 10**9):
            with pytest.raises(ValueError, match=f"must lie inside one episode, got start {start}"):
                windows.gather(torch.tensor([0, start]))
        for bad in ({"batch_size": 0}, {"step": -1}, {"seed": -1}, {"world_size": 5}, {"rank": 1}):
            with pytest.raises(ValueError, match="must be"):
                windows.batch_at(**({"step": 0, "batch_size": 8, "seed": 0} | bad))


def test_an_error_in_the_thread_reaches_the_caller_and_later_batches_work(store):
    broken = threading.Event()

    def derive(states):
        if broken.is_set():
            raise ArithmeticError("no picture")
        return states

    with StreamingWindows(store, ["action"], 4, derived={"copy": ("state", derive)}) as windows:
        windows.batch_at(0, 8, 0)
        broken.set()
        with pytest.raises(ArithmeticError, match="no picture"):
            windows.batch_at(100, 8, 0)
        broken.clear()
        windows.batch_at(100 + 10, 8, 0)


def test_damage_while_streaming_is_one_sentence(store, tmp_path):
    with StreamingWindows(store, ["pixels"], 4) as windows:
        for file in (tmp_path / "s" / "steps.lance" / "data").glob("*.lance"):
            file.unlink()
        with pytest.raises(StoreError, match="must be readable, got"):
            windows.batch_at(0, 8, 0)


def test_closing_ends_the_thread(store):
    windows = StreamingWindows(store, ["pixels"], 4)
    windows.batch_at(0, 8, 0)
    assert any(thread.name.startswith("worldmodel-prefetch") for thread in threading.enumerate())
    windows.close()
    windows.close()
    assert not any(thread.name.startswith("worldmodel-prefetch") for thread in threading.enumerate())
    with pytest.raises(ValueError, match="windows must be open"):
        windows.batch_at(1, 8, 0)


def test_streaming_keeps_the_version_it_was_opened_on(store):
    resident = ResidentWindows(store, ["pixels"], 4)
    with StreamingWindows(store, ["pixels"], 4) as windows:
        store.delete_episodes([0, 3])
        assert_equal_batches(resident.batch_at(0, 32, 0), windows.batch_at(0, 32, 0))


def test_prefetching_reads_ahead_of_sequential_calls(store):
    read = []

    def count(states):
        read.append(threading.current_thread().name)
        return states

    with StreamingWindows(store, [], 4, derived={"copy": ("state", count)}, prefetch=3) as windows:
        windows.batch_at(0, 8, 0)
    assert all(name.startswith("worldmodel-prefetch") for name in read)
    with StreamingWindows(store, [], 4, derived={"copy": ("state", count)}, prefetch=3) as windows:
        read.clear()
        windows.batch_at(0, 8, 0)
        for _ in range(200):
            if len(read) == 4:
                break
            threading.Event().wait(0.01)
        assert len(read) == 4


def test_tuning_the_allocator_says_whether_it_worked():
    assert isinstance(tune_malloc(), bool)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_windows_on_a_gpu_are_those_on_a_cpu(store):
    for kind in KINDS:
        with kind(store, KEYS, 4, device="cuda") as windows:
            batch = windows.batch_at(3, 8, 1)
        assert all(tensor.device.type == "cuda" for tensor in batch.values())
        expected = ResidentWindows(store, KEYS, 4).batch_at(3, 8, 1)
        assert_equal_batches({key: tensor.cpu() for key, tensor in batch.items()}, expected)
