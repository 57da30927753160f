"""Writers that die, run out of disk, or work at the same time; each is a process of its own."""

import subprocess
import sys
import time

import numpy as np
import pytest

from tests.worldmodel.data.stores import SPEC, make_episodes, make_ragged, make_store
from worldmodel.data import StoreError, TrajectoryStore, appending

WRITER = """
import sys
import numpy as np
from tests.worldmodel.data.stores import make_episodes
from worldmodel.data import TrajectoryStore

path, tag, appends, episodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
store = TrajectoryStore.open(path)
data = make_episodes(episodes, 50, seed=tag)
print("ready", flush=True)
sys.stdin.readline()
for number in range(appends):
    data["reward"][:] = tag * 1000 + number
    store.append(data, seeds=[tag] * episodes, info={"append": number})
"""


def start_writer(path, tag, appends, episodes, *, prelude=""):
    return subprocess.Popen(
        [sys.executable, "-c", prelude + WRITER, str(path), str(tag), str(appends), str(episodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def release(*writers):
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()


def test_a_writer_killed_at_any_moment_loses_only_its_own_append(tmp_path):
    path = tmp_path / "s"
    before = {key: array.tobytes() for key, array in make_store(path, (5, 9))[0].read(list(SPEC)).items()}
    committed = 2
    writers = [start_writer(path, tag, 10_000, 40) for tag in range(1, 5)]
    for tag, writer in enumerate(
        writers, start=1
    ):  # one at a time, each killed a bit later than the one before
        release(writer)
        time.sleep(0.013 + 0.031 * tag)
        writer.kill()
        writer.communicate()
        store = TrajectoryStore.open(path)
        assert store.verify().is_intact
        episodes = store.episodes
        mine = episodes["seed"] == tag if tag > 1 else (episodes["seed"] == 1) & (episodes["length"] == 50)
        assert mine.sum() % 40 == 0  # whole appends only
        assert store.num_episodes == committed + mine.sum()
        for key, array in store.read(list(SPEC), [0, 1]).items():
            assert array.tobytes() == before[key]
        committed = store.num_episodes
    assert committed > 2
    indices = store.append(make_ragged([4]), seeds=[77])  # a collection resumes where it was
    assert indices.start >= store.index.episode_index[:-1].max()
    assert store.verify().is_intact


@pytest.mark.parametrize("stage", ["claim_indices", "write_steps", "write_table"])
def test_a_writer_that_fails_between_its_commits_leaves_the_store_as_it_was(tmp_path, monkeypatch, stage):
    """The three stages of an append, each of them the last that is completed."""
    store, _ = make_store(tmp_path / "s", (5, 9))
    original = getattr(appending, stage)

    def fail_afterwards(*args, **kwargs):
        if stage == "write_table" and "episodes.lance" in args[0]:
            raise KeyboardInterrupt
        original(*args, **kwargs)
        if stage != "write_table":
            raise KeyboardInterrupt

    monkeypatch.setattr(f"worldmodel.data.store.{stage}", fail_afterwards)
    with pytest.raises(KeyboardInterrupt):
        store.append(make_ragged([4]), seeds=[1])
    monkeypatch.undo()
    again = TrajectoryStore.open(tmp_path / "s")
    assert again.lengths.tolist() == [5, 9]
    assert again.index.orphans.tolist() == ([] if stage == "claim_indices" else [2])
    assert again.append(make_ragged([6]), seeds=[1]).start > 2
    assert again.lengths.tolist() == [5, 9, 6]
    assert again.verify().is_intact


def test_writers_at_once_all_succeed_with_indices_of_their_own(tmp_path):
    path = tmp_path / "s"
    make_store(path, (5, 9))
    writers = [start_writer(path, tag, 8, 3) for tag in (101, 102)]
    release(*writers)
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    store = TrajectoryStore.open(path)
    episodes = store.episodes
    assert store.num_episodes == 2 + 2 * 8 * 3
    assert len(set(episodes["episode_index"].tolist())) == store.num_episodes
    assert store.verify().is_intact
    rewards = store.read(["reward"], episodes["episode_index"][2:])["reward"].reshape(-1, 50)
    expected = episodes["seed"][2:] * 1000 + [info["append"] for info in episodes["info"][2:]]
    np.testing.assert_array_equal(rewards, np.broadcast_to(expected[:, None], rewards.shape))


def test_a_writer_that_opened_earlier_does_not_reuse_indices(tmp_path):
    first, _ = make_store(tmp_path / "s", (5, 9))
    second = TrajectoryStore.open(tmp_path / "s")
    ranges = [store.append(make_ragged([4, 4]), seeds=[0, 1]) for store in (first, second, first, second)]
    assert ranges == [range(2, 4), range(4, 6), range(6, 8), range(8, 10)]


def test_a_claim_that_always_loses_is_one_sentence(tmp_path, monkeypatch):
    store, _ = make_store(tmp_path / "s", (5, 9))
    stale = TrajectoryStore.open(tmp_path / "s")
    table = appending.open_table(f"{store.path}/episodes.lance", None)
    store.append(make_ragged([4]), seeds=[0])
    monkeypatch.setattr(appending, "open_table", lambda *_: table)
    with pytest.raises(
        StoreError, match="must accept a claim of episode indices, got 100 conflicts in a row"
    ):
        stale.append(make_ragged([4]), seeds=[0])


def test_a_full_disk_is_one_sentence_and_leaves_the_data_intact(tmp_path):
    path = tmp_path / "s"
    make_store(path, (5, 9))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
    writer = start_writer(path, 1, 1, 200, prelude=limit)
    release(writer)
    _, errors = writer.communicate(timeout=60)
    assert writer.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert "StoreError" in last
    assert "must be writable (episodes committed before are intact), got" in last
    store = TrajectoryStore.open(path)
    assert store.num_episodes == 2
    assert store.verify().is_intact
    assert store.append(make_episodes(1, 5), seeds=[0]).start >= 2
