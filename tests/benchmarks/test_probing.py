import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.agents import load_run
from benchmarks.cli import main
from benchmarks.collecting import collect_store
from benchmarks.probe_data import choose_trajectories, read_trajectories
from benchmarks.probe_targets import Recorded, known_targets, make_target, standardised
from benchmarks.probing import (
    ProbeConfig,
    add_probe,
    encode_and_imagine,
    probe_run,
    probe_table,
    report_lines,
    train_supervised,
    untrained,
)
from benchmarks.recipes import CollectConfig
from benchmarks.report import render_report
from envs.registration import make_simulator
from tests.benchmarks.runs import smoke_run
from worldmodel.data import ArraySpec, TrajectoryStore
from worldmodel.jepa import ModelConfig, build_jepa

QUICK = {"supervised_steps": 0, "horizons": (1, 4)}
ROOMS, DOTS = "worldmodel/TwoRooms-v0", "worldmodel/MovingDot-v0"


@pytest.fixture
def run(tmp_path):
    """A private copy of a smoke run."""
    return Path(shutil.copytree(smoke_run(), tmp_path / "run"))


def data() -> str:
    return str(smoke_run().parent / "data")


def store_of(folder, env_id, num_episodes=16, num_steps=6, **env_kwargs):
    config = CollectConfig(
        env_id, env_kwargs, policy="uniform", num_episodes=num_episodes, num_steps=num_steps, states_only=True
    )
    return collect_store(config, folder, seed=0)


def recorded(store, *columns):
    """All episodes of a store of equal lengths."""
    length = int(store.lengths[0])
    arrays = store.read(columns)
    shaped = {name: value.reshape(-1, length, *value.shape[1:]) for name, value in arrays.items()}
    num = store.num_episodes
    return Recorded(store.episodes["episode_index"], torch.ones(num, length, dtype=torch.bool), shaped)


def error_of(capsys, *argv):
    status = main([str(word) for word in argv])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert status != 0
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "target", ["position", "velocity", "reward", "expert_action", "proprio", "state", "action"]
)
def test_every_target_of_a_run_is_probed(run, target):
    found = probe_run(run, data(), target=target, **QUICK)
    assert found["horizons"] == [1, 4]
    lines = report_lines(found)
    assert list(lines) == ["encoding", "rollout", "transfer", "chance", "random encoding", "random rollout"]
    for scores in lines.values():
        assert all(np.isfinite(scores[found["measure"]][str(h)]) for h in (1, 4))
    assert found["num_train"] + found["num_test"] == 24
    assert json.loads((run / "probes.json").read_text())["probes"] == [found]


def test_chance_of_the_position_is_its_spread_in_the_store(run):
    """Read the store again, by hand: the split by trajectory, the frame of a horizon and the unit are right."""
    found = probe_run(run, data(), target="position", seed=3, **QUICK)
    store = TrajectoryStore.open(data())
    split = store.split_episodes({"train": 0.75, "test": 0.25}, seed=3)
    length = int(store.lengths[0])

    def positions(part):
        return store.read(["proprio"], split[part])["proprio"].reshape(-1, length, 2)[:, :5]

    mean = positions("train").mean(axis=(0, 1))
    for h in (1, 4):
        expected = np.sqrt(((positions("test")[:, h] - mean) ** 2).sum(axis=-1).mean())
        assert found["chance"]["rmse"][str(h)] == pytest.approx(expected, rel=1e-5)
    assert (found["unit"], found["measure"], found["split_by"]) == ("px", "rmse", "episode")


def test_the_supervised_line_learns_what_the_random_one_does_not_know(run):
    found = probe_run(run, data(), target="position", supervised_steps=40, horizons=(1, 4), seed=1)
    assert found["supervised_steps"] == 40
    # On 18 trajectories a probe overfits; the training of the networks still must show.
    assert found["supervised"] != found["random"]
    assert found["supervised"]["encoding"]["rmse"]["all"] < 0.8 * found["random"]["encoding"]["rmse"]["all"]


def test_the_supervised_model_never_sees_held_out_trajectories(run):
    trained, store = load_run(run), TrajectoryStore.open(data())
    episodes, is_train = choose_trajectories(store, 24, "episode", 0)
    seen, kept = read_trajectories(
        store, trained.model, ["state"], episodes, is_train, 5, torch.device("cpu")
    )
    target = make_target(store, kept, "position", 0).values
    weights = []
    for poison in (False, True):
        if poison:
            seen.obs["pixels"][~is_train] = 77
            seen.action[~is_train] = 1e6
            target[~is_train] = -1e6
        model = untrained(trained.model, seen, 0)
        train_supervised(model, seen, target, 3, 0)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_random_model_has_other_weights_and_the_same_statistics(run):
    model, store = load_run(run).model, TrajectoryStore.open(data())
    episodes, is_train = choose_trajectories(store, 24, "episode", 0)
    seen, _ = read_trajectories(store, model, [], episodes, is_train, 5, torch.device("cpu"))
    fresh = untrained(model, seen, 0)
    ours, theirs = model.state_dict(), fresh.state_dict()
    assert torch.equal(ours["action_scale"], theirs["action_scale"])
    assert torch.equal(ours["normalizer.pixels_mean"], theirs["normalizer.pixels_mean"])
    changed = [key for key in ours if key.startswith("encoder.") and not torch.equal(ours[key], theirs[key])]
    assert changed


def test_batch_norm_of_the_random_model_has_the_statistics_of_the_training_frames(tmp_path):
    store = store_of(tmp_path / "data", DOTS)
    config = ModelConfig(observation={"pixels": (1, 28, 28)}, action_dim=2, encoder="conv", norm=False)
    model = build_jepa(config, 0)
    episodes, is_train = choose_trajectories(store, 16, "episode", 0)
    seen, _ = read_trajectories(store, model, [], episodes, is_train, 5, torch.device("cpu"))
    fresh = untrained(model, seen, 1)
    assert not fresh.training
    layer = fresh.encoder.trunk[0]
    images = fresh.normalizer({"pixels": seen.obs["pixels"][is_train].flatten(0, 1)})["pixels"]
    with torch.no_grad():
        activations = torch.relu(layer(images))
    torch.testing.assert_close(
        fresh.encoder.trunk[2].running_mean, activations.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )
    assert fresh.encoder.trunk[2].momentum == 0.1


def test_frames_are_rendered_where_the_store_holds_states_only(tmp_path):
    states = store_of(tmp_path / "states", ROOMS, image_size=32)
    config = CollectConfig(ROOMS, {"image_size": 32}, policy="uniform", num_episodes=16, num_steps=6)
    frames = collect_store(config, tmp_path / "frames", seed=0)
    model = load_run(smoke_run()).model
    outcomes = []
    for store in (states, frames):
        episodes, is_train = choose_trajectories(store, 16, "episode", 0)
        seen, _ = read_trajectories(store, model, [], episodes, is_train, 7, torch.device("cpu"))
        outcomes.append(encode_and_imagine(model, seen))
    for one, other in zip(*outcomes, strict=True):
        assert torch.equal(one, other)
    assert outcomes[0][0].shape[:2] == (16, 7)
    assert outcomes[0][1].shape[:2] == (16, 6)


def test_short_episodes_end_where_they_end(tmp_path):
    spec = {
        "proprio": ArraySpec("float32", (2,)),
        "action": ArraySpec("float32", (2,)),
        "mood": ArraySpec("int64", ()),
    }
    store = TrajectoryStore.create(tmp_path / "s", spec, env={"id": "elsewhere", "kwargs": {}})
    rng = np.random.default_rng(0)
    lengths = [4, 9] * 8
    store.append(
        [
            {
                "proprio": rng.normal(size=(n, 2)).astype(np.float32),
                "action": rng.normal(size=(n, 2)).astype(np.float32),
                "mood": np.arange(n) % 3,
            }
            for n in lengths
        ],
        seeds=range(16),
    )
    model = build_jepa(ModelConfig(observation={"proprio": (2,)}, action_dim=2, encoder="mlp"), 0)
    episodes, is_train = choose_trajectories(store, 16, "episode", 0)
    seen, kept = read_trajectories(
        store, model, ["mood", "action"], episodes, is_train, 7, torch.device("cpu")
    )
    position = {episode: i for i, episode in enumerate(episodes)}
    mood = make_target(store, kept, "mood", 0)
    assert mood.measure == "accuracy"
    assert mood.values[position[0]].tolist() == [0, 1, 2, 0, -1, -1, -1]
    assert mood.values[position[1]].tolist() == [0, 1, 2, 0, 1, 2, 0]
    rows = store.read(["proprio"], [0])["proprio"]
    np.testing.assert_array_equal(seen.obs["proprio"][position[0]], rows[[0, 1, 2, 3, 3, 3, 3]])
    assert known_targets(store) == ["proprio", "action", "mood", "action_valid"]


def test_actions_without_a_meaning_are_unknown(tmp_path):
    store = store_of(tmp_path / "s", ROOMS)
    target = make_target(store, recorded(store, "action", "action_valid"), "action", 0).values
    assert bool(target[:, -1].isnan().all())
    assert not bool(target[:, :-1].isnan().any())


def test_columns_of_several_values_are_judged_in_their_own_spread(tmp_path):
    store = store_of(tmp_path / "s", ROOMS)
    is_train = torch.arange(16) < 10
    state = standardised(make_target(store, recorded(store, "state"), "state", 0), is_train)
    assert state.unit == "std"
    std = state.values[is_train].flatten(0, 1).std(dim=0, correction=0)
    assert set(std.round(decimals=3).tolist()) == {0.0, 1.0}  # constant, or standardised
    assert float(std.sum()) > 2


def test_velocity_is_the_way_between_two_frames(tmp_path):
    store = store_of(tmp_path / "s", DOTS)
    of = recorded(store, "state", "proprio")
    velocity = make_target(store, of, "velocity", 0).values
    assert bool(velocity[:, 0].isnan().all())
    np.testing.assert_allclose(velocity[:, 1:], np.diff(of.columns["proprio"], axis=1), rtol=1e-6)


def test_reward_and_expert_action_are_of_one_goal(tmp_path):
    store = store_of(tmp_path / "s", DOTS)
    of = recorded(store, "state", "proprio")
    reward = make_target(store, of, "reward", 5).values[..., 0].numpy()
    position = of.columns["proprio"].reshape(-1, 2)
    # the point whose distances the rewards are: |x - g|^2 = |x|^2 - 2 x g + |g|^2 is linear in (g, |g|^2)
    system = np.hstack([-2 * position, np.ones((len(position), 1))])
    goal = np.linalg.lstsq(system, reward.reshape(-1) ** 2 - (position**2).sum(1), rcond=None)[0][:2]
    np.testing.assert_allclose(-reward.reshape(-1), np.linalg.norm(position - goal, axis=1), atol=1e-3)
    action = make_target(store, of, "expert_action", 5).values.reshape(-1, 2).numpy()
    way = goal - position
    far = np.linalg.norm(way, axis=1) > 4
    np.testing.assert_allclose(
        action[far], 4 * way[far] / np.linalg.norm(way[far], axis=1)[:, None], atol=1e-3
    )
    assert not np.allclose(make_target(store, of, "reward", 6).values[..., 0], reward)


def test_layouts_are_regressed_and_do_not_straddle_the_split(tmp_path):
    store = store_of(tmp_path / "s", ROOMS, layout="random", image_size=32)
    layout = make_target(store, recorded(store, "state"), "layout", 0)
    expected = np.stack([store.episodes["wall_x"], store.episodes["door_y"]], axis=-1)
    np.testing.assert_array_equal(layout.values[:, 3], expected)
    column = make_target(store, recorded(store, "state"), "wall_x", 0)
    np.testing.assert_array_equal(column.values[:, 0, 0], expected[:, 0])
    for target, split_by in (("layout", "layout_id"), ("layout_id", "episode")):
        found = probe_run(smoke_run(), tmp_path / "s", target=target, out=tmp_path / "out", **QUICK)
        assert found["split_by"] == split_by
        assert found["measure"] == {"layout": "rmse", "layout_id": "accuracy"}[target]


def test_other_dots_are_targets_of_their_own(tmp_path):
    store = store_of(tmp_path / "s", DOTS, num_dots=3)
    of = recorded(store, "state")
    simulator = make_simulator(DOTS, num_dots=3)
    state = simulator.state_from_vector(torch.from_numpy(of.columns["state"]).flatten(0, 1))
    walker, stationary = (make_target(store, of, name, 0).values for name in ("walker", "stationary"))
    assert torch.equal(walker.flatten(0, 1), state["other_positions"][:, 0])
    assert torch.equal(stationary.flatten(0, 1), state["other_positions"][:, 1])
    assert torch.equal(stationary, stationary[:, :1].expand_as(stationary))
    assert not torch.equal(walker, walker[:, :1].expand_as(walker))


def test_the_distractor_is_the_texture_that_the_background_shows(tmp_path):
    """Textures of one grey each: the class must sort the episodes as the brightness of their frames does."""
    np.save(
        tmp_path / "grey.npy",
        np.repeat(np.arange(10, dtype=np.uint8)[:, None], 40 * 40, 1).reshape(-1, 40, 40) * 20,
    )
    kwargs = {"distractor": "structured", "motion": "changing", "textures": str(tmp_path / "grey.npy")}
    store = store_of(tmp_path / "s", DOTS, **kwargs)
    of = recorded(store, "state")
    classes = make_target(store, of, "distractor", 0)
    background = make_target(store, of, "background", 0).values
    assert classes.measure == "accuracy"
    torch.testing.assert_close(background.mean(-1), classes.values * 20 / 255)
    assert background.shape[-1] == 16


@pytest.mark.parametrize(
    ("env", "target", "sentence"),
    [
        ((ROOMS, {}), "layout", "target 'layout' must vary over the trajectories to be probed, got 1 value"),
        ((ROOMS, {}), "wall_width", "must vary over the trajectories"),
        ((ROOMS, {}), "distractor", "must be of dots before a distractor, got worldmodel/TwoRooms-v0"),
        ((ROOMS, {}), "walker", "must be of three dots, got worldmodel/TwoRooms-v0"),
        ((DOTS, {}), "layout", "must be of an environment with layouts, got worldmodel/MovingDot-v0"),
        ((DOTS, {}), "background", "must be of dots before a distractor"),
        ((DOTS, {"distractor": "uniform"}), "distractor", "got uniform noise; probe 'background' instead"),
    ],
)
def test_a_target_that_a_store_does_not_have_is_one_sentence(tmp_path, env, target, sentence):
    store = store_of(tmp_path / "s", env[0], **env[1])
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make_target(store, recorded(store, "state"), target, 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "positon"], "did you mean 'position'?"),
        (["--target", "position", "--probe", "lineal"], "did you mean linear?"),
        (["--target", "position", "--horizons", "0"], "must be >= 1, got 0"),
        (["--target", "position", "--trajectories", "1"], "trajectories must be >= 2, got 1"),
        (
            ["--target", "action", "--horizons", "16"],
            "horizons must reach a frame with a known target, got [16]",
        ),
        ([], "required: --target"),
    ],
)
def test_a_wrong_call_is_one_sentence(run, capsys, arguments, sentence):
    common = ["probe", run, data(), "--supervised-steps", "0", "--quiet"]
    assert sentence in error_of(capsys, *common, *arguments)
    assert not (run / "probes.json").exists()


def test_a_store_that_does_not_fit_the_model_is_one_sentence(run, tmp_path, capsys):
    store_of(tmp_path / "large", ROOMS, image_size=40)
    message = error_of(capsys, "probe", run, tmp_path / "large", "--target", "position")
    assert (
        "observation 'pixels' of the store must have the model's shape (2, 32, 32), got (2, 40, 40)"
        in message
    )
    spec = {"proprio": ArraySpec("float32", (2,)), "action": ArraySpec("float32", (2,))}
    TrajectoryStore.create(tmp_path / "blind", spec, env={"id": "elsewhere", "kwargs": {}})
    message = error_of(capsys, "probe", run, tmp_path / "blind", "--target", "proprio")
    assert "must hold the observation 'pixels' that the model reads, got proprio, action" in message
    spec = {"pixels": ArraySpec("uint8", (2, 32, 32)), "action": ArraySpec("float32", (3,))}
    TrajectoryStore.create(tmp_path / "strong", spec, env={"id": "elsewhere", "kwargs": {}})
    message = error_of(capsys, "probe", run, tmp_path / "strong", "--target", "action")
    assert "actions of the store must have the model's shape (2,), got (3,)" in message
    message = error_of(capsys, "probe", tmp_path, data(), "--target", "proprio")
    assert f"run must have a trained model, got {tmp_path} without it" in message


@pytest.mark.parametrize("kind", ["linear", "sgd", "mlp"])
def test_the_command_repeats_bit_for_bit(run, kind, capsys, monkeypatch):
    monkeypatch.setattr("worldmodel.probing.ProbeConfig", partial(ProbeConfig, num_steps=15))
    command = ["probe", str(run), data(), "--target", "position", "--probe", kind, "--supervised-steps", "3"]
    command += ["--horizons", "2", "8", "--trajectories", "12", "--json"]
    contents = []
    for _ in range(2):
        assert main(command) == 0
        captured = capsys.readouterr()
        contents.append((run / "probes.json").read_bytes())
        assert "supervised rollout" in captured.err
        found = json.loads(captured.out)
        (run / "probes.json").unlink()
    assert contents[0] == contents[1]
    assert (found["kind"], found["horizons"]) == (kind, [2, 8])
    assert found["num_train"] + found["num_test"] <= 12
    assert main([*command, "--seed", "1", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rollout"] != found["rollout"]


def test_a_probe_takes_the_place_of_the_same_one_only(tmp_path):
    path = tmp_path / "probes.json"
    one = {"target": "position", "kind": "linear", "store": "a", "seed": 0}
    for change in ({}, {"target": "velocity"}, {"kind": "mlp"}, {"store": "b"}, {"seed": 1}):
        add_probe(path, {**one, **change})
    kept = json.loads(path.read_text())["probes"]
    assert [(p["target"], p["kind"], p["store"], p["seed"]) for p in kept] == [
        ("velocity", "linear", "a", 0),
        ("position", "mlp", "a", 0),
        ("position", "linear", "b", 0),
        ("position", "linear", "a", 1),
    ]


def test_the_report_draws_every_probe_and_quotes_its_numbers(run, capsys):
    for target in ("position", "reward"):
        probe_run(run, data(), target=target, config=ProbeConfig(), supervised_steps=2, horizons=(1, 4))
    html = render_report(run).read_text(encoding="utf-8")
    section = re.search(r'<section id="probes">.*?</section>', html, re.DOTALL)[0]
    assert section.count('<svg role="img"') == 2
    assert "RMSE [px]" in section
    assert "R²" in section
    probes = json.loads((run / "probes.json").read_text())["probes"]
    assert f"{float(format(probes[0]['rollout']['rmse']['4'], '.3g')):g}" in section
    assert "supervised rollout" in section
    assert probe_table(probes[0]).row_count == 8
    probes[0] |= {"target": "<img src=x>$", "store": "<b>", "rollout": {"rmse": {"1": None}}}
    broken = {
        "probes": [
            *probes,
            {"target": "empty"},
            {"measure": "<i>", "horizons": [1], "chance": {"<i>": {"1": 2}}},
        ]
    }
    (run / "probes.json").write_text(json.dumps(broken))
    html = render_report(run).read_text(encoding="utf-8")
    section = re.search(r'<section id="probes">.*?</section>', html, re.DOTALL)[0]
    assert "&lt;b&gt;" in section
    assert not re.findall(r"<img|<b>|<i>", section)
    assert section.count('<svg role="img"') == 2


def test_a_run_without_probes_says_the_command(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"store": {"path": "data/rooms"}}))
    html = render_report(folder).read_text(encoding="utf-8")
    section = re.search(r'<section id="probes">.*?</section>', html, re.DOTALL)[0]
    assert "my run&#x27; data/rooms --target position" in section
