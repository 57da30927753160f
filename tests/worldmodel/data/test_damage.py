import shutil

import lance
import numpy as np
import pyarrow as pa
import pytest

from tests.worldmodel.data.stores import ENV, SPEC, make_episodes, make_store
from worldmodel.data import ArraySpec, StoreError, TrajectoryStore
from worldmodel.data.schema import steps_schema


def data_files(store, table="steps.lance"):
    return sorted((store / table / "data").glob("*.lance"))


def inspect(path):
    """What a user sees of a damaged store: the error's sentence, or the report of a verification."""
    try:
        report = TrajectoryStore.open(path).verify()
    except StoreError as error:
        return str(error)
    return "" if report.is_intact else str(report.damages[0])


def test_flipped_bytes_are_detected_wherever_they_lie_in_the_values(tmp_path):
    spec = {key: SPEC[key] for key in ("pixels", "state")}
    store = TrajectoryStore.create(tmp_path / "s", spec, env=ENV)
    episodes = {key: array for key, array in make_episodes(8, 30).items() if key in spec}
    store.append(episodes, seeds=range(8))
    (file,) = data_files(tmp_path / "s")
    content = file.read_bytes()
    found = {}
    for key in spec:  # random values are stored as they are, so their place in the file is known
        needle = episodes[key][5, 7].tobytes()
        assert content.count(needle) == 1
        found[key] = content.index(needle)
    for key, position in found.items():
        for offset in (0, 3, 13):
            flip(file, content, position + offset)
            report = TrajectoryStore.open(tmp_path / "s").verify()
            (damage,) = report.damages
            assert (damage.episode_index, damage.column) == (5, key)
            assert damage.file == f"steps.lance/data/{file.name}"
            with pytest.raises(
                StoreError, match=f"got damage in episode 5, column '{key}', file steps.lance"
            ):
                report.raise_if_damaged()
    file.write_bytes(content)
    assert inspect(tmp_path / "s") == ""


@pytest.mark.parametrize("table", ["steps.lance", "episodes.lance"])
def test_flips_anywhere_in_a_data_file_are_detected_or_change_nothing(tmp_path, table):
    store, _ = make_store(tmp_path / "s")
    expected = store.read([*SPEC, "action_valid"])
    records = {name: np.asarray(value).tolist() for name, value in store.episodes.items()}
    (file,) = data_files(tmp_path / "s", table)
    content = file.read_bytes()
    detected = 0
    positions = np.random.default_rng(0).choice(len(content), 60, replace=False)
    for position in positions:
        flip(file, content, int(position))
        if seen := inspect(tmp_path / "s"):
            assert "\n" not in seen
            detected += 1
            continue
        store = TrajectoryStore.open(tmp_path / "s")  # padding, or metadata that reading does not use
        for key, array in store.read(list(expected)).items():
            assert array.tobytes() == expected[key].tobytes()
        assert {name: np.asarray(value).tolist() for name, value in store.episodes.items()} == records
    assert detected > 10


def flip(file, content, position):
    damaged = bytearray(content)
    damaged[position] ^= 0x10
    file.write_bytes(bytes(damaged))


@pytest.mark.parametrize("table", ["steps.lance", "episodes.lance"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_one_sentence(tmp_path, table, share):
    make_store(tmp_path / "s")
    (file,) = data_files(tmp_path / "s", table)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "must be readable, got" in inspect(tmp_path / "s")


def test_a_missing_data_file_is_one_sentence(tmp_path):
    make_store(tmp_path / "s")
    data_files(tmp_path / "s")[0].unlink()
    assert "must be readable, got" in inspect(tmp_path / "s")


@pytest.mark.parametrize("table", ["steps.lance", "episodes.lance"])
def test_a_missing_table_is_named(tmp_path, table):
    make_store(tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / table)
    with pytest.raises(StoreError, match=table):
        TrajectoryStore.open(tmp_path / "s")


def test_a_manifest_that_hides_an_episode_is_detected(tmp_path):
    make_store(tmp_path / "s")
    newest, *_ = sorted((tmp_path / "s" / "episodes.lance" / "_versions").glob("*.manifest"))
    content = newest.read_bytes()
    rows = b"\x20\x05\x18\x03"  # protobuf: five physical rows in the fragment
    assert content.count(rows) == 1
    newest.write_bytes(content.replace(rows, b"\x20\x04\x18\x03"))
    store = TrajectoryStore.open(tmp_path / "s")
    assert store.num_episodes == 4
    with pytest.raises(StoreError, match="must be readable, got"):
        store.verify()


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="must be a trajectory store"):
        TrajectoryStore.open(tmp_path)
    with pytest.raises(StoreError, match="must be a trajectory store"):
        TrajectoryStore.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    lance.write_dataset(pa.table({"x": [1]}), str(tmp_path / "steps.lance"))
    with pytest.raises(StoreError, match="must be a trajectory store, got a Lance table without its header"):
        TrajectoryStore.open(tmp_path)


def rewrite_steps(path, schema, columns):
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    lance.write_dataset(table, str(path / "steps.lance"), mode="overwrite")


def test_another_format_version_is_refused(tmp_path, monkeypatch):
    store, _ = make_store(tmp_path / "s")
    table = store.steps.to_table()
    monkeypatch.setattr("worldmodel.data.schema.FORMAT_VERSION", 99)
    rewrite_steps(tmp_path / "s", steps_schema(store.spec, ENV, {}), table)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="must have format version 1, got 99"):
        TrajectoryStore.open(tmp_path / "s")


def test_a_tampered_header_is_refused(tmp_path):
    store, _ = make_store(tmp_path / "s")
    metadata = dict(store.steps.schema.metadata)
    metadata[b"worldmodel"] = metadata[b"worldmodel"].replace(b"Test-v0", b"Test-v1")
    rewrite_steps(tmp_path / "s", store.steps.schema.with_metadata(metadata), store.steps.to_table())
    with pytest.raises(StoreError, match="must match its checksum"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize("column", ["state", "step_index"])
def test_a_missing_column_is_named(tmp_path, column):
    store, _ = make_store(tmp_path / "s")
    store.steps.drop_columns([column])
    with pytest.raises(StoreError, match=f"must have the column '{column}'"):
        TrajectoryStore.open(tmp_path / "s")


def test_a_missing_column_of_the_episode_table_is_named(tmp_path):
    make_store(tmp_path / "s")
    lance.dataset(str(tmp_path / "s" / "episodes.lance")).drop_columns(["seed"])
    with pytest.raises(StoreError, match="must have the column 'seed'"):
        TrajectoryStore.open(tmp_path / "s")


def test_missing_checksums_are_refused(tmp_path):
    store, _ = make_store(tmp_path / "s")
    other = TrajectoryStore.create(tmp_path / "t", {key: SPEC[key] for key in ("state", "reward")}, env=ENV)
    shutil.rmtree(tmp_path / "s" / "episodes.lance")
    shutil.copytree(tmp_path / "t" / "episodes.lance", tmp_path / "s" / "episodes.lance")
    assert set(other.spec) < set(store.spec)
    with pytest.raises(StoreError, match=r"must hold checksums of pixels, state, .* got state, reward"):
        TrajectoryStore.open(tmp_path / "s")


def test_a_column_of_another_type_is_refused(tmp_path):
    store, _ = make_store(tmp_path / "s")
    steps = store.steps
    steps.drop_columns(["reward"])
    steps.add_columns({"reward": "cast(1 as float)"})
    with pytest.raises(StoreError, match=r"column 'reward' of .* must be double, got float"):
        TrajectoryStore.open(tmp_path / "s")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("episode_index = 2", "must hold each listed episode once, got no rows for episode 2"),
        ("episode_index = 2 AND step_index = 6", "episode 2 .* must have the listed 7 rows, got 6"),
        ("episode_index = 2 AND step_index = 3", "rows of .* must count 0, 1, 2, .* within each episode"),
    ],
)
def test_tables_that_disagree_are_refused(tmp_path, condition, message):
    store, _ = make_store(tmp_path / "s")
    store.steps.delete(condition)
    with pytest.raises(StoreError, match=message):
        TrajectoryStore.open(tmp_path / "s")


def test_an_episode_written_twice_is_refused(tmp_path):
    store, _ = make_store(tmp_path / "s")
    lance.write_dataset(store.steps.to_table(filter="episode_index = 2"), store.steps.uri, mode="append")
    with pytest.raises(StoreError, match="got an episode twice"):
        TrajectoryStore.open(tmp_path / "s")


def test_verification_reports_its_progress_and_amount(tmp_path):
    store, _ = make_store(tmp_path / "s")
    calls = []
    report = store.verify(lambda done, total: calls.append((done, total)))
    assert report.is_intact
    assert report.num_episodes == 5
    assert report.num_bytes == 47 * (192 + 16 + 8 + 8 + 1)
    assert calls[-1] == (report.num_bytes, report.num_bytes)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_verification_covers_an_empty_store(tmp_path):
    store = TrajectoryStore.create(tmp_path / "s", {"x": ArraySpec("int8")}, env=ENV)
    assert store.verify().is_intact
    assert store.read(["x"])["x"].shape == (0,)
