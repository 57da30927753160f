import dataclasses
import io
import json
import shutil
from html import unescape
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.collecting import collect_store
from benchmarks.diagnosing import diagnosed_episodes, draw_spaced, draw_windows, read_alarm, read_history
from benchmarks.display import print_alarm, progress_bar
from benchmarks.preparation import split_episodes
from benchmarks.report import render_report
from benchmarks.stages import _Stages
from tests.benchmarks.runs import smoke_run
from tests.benchmarks.test_report import HOSTILE, Page, section, write_run
from tests.worldmodel.factories import make, make_batch
from worldmodel.alarm import SlowFeatureAlarm
from worldmodel.data import ResidentWindows
from worldmodel.diagnostics import diagnose
from worldmodel.metrics import read_metrics
from worldmodel.objectives import JEPAObjective
from worldmodel.training import FitConfig, fit

SMOKE = resolve("two-rooms", "smoke")
DOTS = (
    "collect.num_episodes=320",
    "model.encoder=patch",
    "model.encoder_args.patch_size=7",
    "objective.batch_size=64",
    "world_model.num_steps=48",
)


@pytest.fixture
def run(tmp_path):
    """A private copy of a smoke run."""
    return Path(shutil.copytree(smoke_run(), tmp_path / "run"))


def train_world_model(recipe, store, run, **callbacks):
    stages = _Stages(recipe, store, run, 0, torch.device("cpu"), callbacks.get("on_step"), False)
    stages.on_warning = callbacks.get("on_warning")
    return stages.world_model()


# ---- the loop


@pytest.mark.parametrize(
    ("num_steps", "num_diagnoses", "steps"),
    [(9, 3, [3, 6, 9]), (10, 4, [3, 5, 8, 10]), (3, 6, [1, 2, 3]), (9, 0, [])],
)
def test_checks_are_spread_over_the_training_and_leave_its_bits_alone(
    tmp_path, num_steps, num_diagnoses, steps
):
    config = FitConfig(num_steps=num_steps, num_diagnoses=num_diagnoses, checkpoint_every=4, warmup_steps=2)
    weights = {"prediction": 1.0, "variance": 16.0, "sigreg": 0.1}
    modules, logs = [], []
    for name in ("with", "without"):
        model = make("conv-gru")  # BatchNorm: evaluation mode would show
        module = JEPAObjective(model, weights, rollout_steps=3)
        windows = make_batch(model, 12, seed=99)
        fit(
            module,
            lambda step, model=model: make_batch(model, seed=step),
            weights,
            config,
            run=tmp_path / name,
            stage="world_model",
            diagnose=(lambda: diagnose(model, windows).scalars) if name == "with" else None,  # noqa: B023
        )
        modules.append(module)
        logs.append(read_metrics(tmp_path / name / "metrics.jsonl"))
    for (key, a), b in zip(modules[0].state_dict().items(), modules[1].state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    assert [line["step"] for line in logs[0] if "diag_rankme" in line] == steps
    assert not any(key.startswith("diag_") for line in logs[1] for key in line)
    if steps:
        expected = diagnose(modules[0].model, windows).scalars
        assert logs[0][-1]["diag_action_cca"] == pytest.approx(expected["action_cca"], rel=1e-5)


def test_a_negative_number_of_checks_is_refused():
    with pytest.raises(ValueError, match="num_diagnoses must be >= 0, got -1"):
        FitConfig(num_steps=1, num_diagnoses=-1)


# ---- the stage


def test_a_smoke_run_writes_its_diagnostics():
    found = json.loads((smoke_run() / "diagnostics.json").read_text())
    assert [check["step"] for check in found["history"]] == [1, 2, 3, 4, 5, 6]
    assert found["history"] == read_history(smoke_run())
    assert set(found["history"][0]) - {"step"} == set(found["final"])
    assert found["final"]["action_cka"] == found["history"][-1]["action_cka"]
    assert found["episodes"] == "training"  # one held-out episode makes no statistic
    assert len(found["spectrum"]) == len(found["slowness"]) == 32
    assert found["thresholds"] == SlowFeatureAlarm().thresholds()
    assert found["alarm"] is None  # too few trajectories


def test_a_killed_and_resumed_training_writes_the_same_diagnostics(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)

    class KilledError(Exception):
        pass

    def killer(name, step, total, scalars):
        if step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_world_model(SMOKE, store, tmp_path / "run", on_step=killer)
    assert not (tmp_path / "run" / "diagnostics.json").exists()
    train_world_model(SMOKE, store, tmp_path / "run")
    cut, whole = (
        json.loads((path / "diagnostics.json").read_text()) for path in (tmp_path / "run", smoke_run())
    )
    assert cut == whole


def test_a_training_with_too_few_episodes_is_not_diagnosed(tmp_path):
    recipe = dataclasses.replace(SMOKE, collect=dataclasses.replace(SMOKE.collect, num_episodes=8))
    store = collect_store(recipe.collect, tmp_path / "data", seed=0)
    train_world_model(recipe, store, tmp_path / "run")
    assert not (tmp_path / "run" / "diagnostics.json").exists()
    assert not read_history(tmp_path / "run")


def test_held_out_episodes_are_diagnosed_where_they_are_enough(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    mostly = dataclasses.replace(SMOKE, objective=dataclasses.replace(SMOKE.objective, val_fraction=0.6))
    assert diagnosed_episodes(SMOKE, store)[0] == "training"
    name, episodes = diagnosed_episodes(mostly, store)
    assert name == "held-out"
    assert set(episodes) == set(split_episodes(mostly, store)["val"])


def test_spaced_frames_go_from_the_first_to_the_last_of_an_episode(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    windows = ResidentWindows(store, ["state", "action"], 13, episodes=range(3, 15))
    spaced = draw_spaced(windows, 8, 5, seed=0)["state"]
    assert spaced.shape[:2] == (8, 5)
    episodes = store.read(["state"], range(3, 15))["state"].reshape(12, 17, -1)
    found = set()
    for frames in spaced.numpy():
        (episode,) = [i for i in range(12) if (episodes[i, 0] == frames[0]).all()]
        found.add(episode)
        for frame, row in zip(frames, (0, 4, 8, 12, 16), strict=True):
            assert (episodes[episode, row] == frame).all()
    assert len(found) == 8


def test_windows_differ_and_come_from_as_many_episodes_as_there_are(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    windows = ResidentWindows(store, ["state", "action"], 13, episodes=range(3, 15))
    batch = draw_windows(windows, 30, seed=0)
    ids, counts = batch["trajectory"].unique(return_counts=True)
    assert ids.tolist() == list(range(12))
    assert set(counts.tolist()) == {2, 3}
    assert len(batch["state"].flatten(1).unique(dim=0)) == 30
    starts = {i: store.read(["state"], [3 + i])["state"] for i in range(12)}
    for row, episode in zip(batch["state"].numpy(), batch["trajectory"].tolist(), strict=True):
        assert (starts[episode] == row[0]).all(axis=1).any()
    assert not torch.equal(batch["state"], draw_windows(windows, 30, seed=1)["state"])
    assert len(draw_windows(windows, 10_000, seed=0)["action"]) == windows.num_windows


# ---- the warning


def train_dots(folder, distractor):
    """Train plain VICReg on a moving dot through the command line and return what the terminal showed."""
    recipe = resolve("moving-dot", "smoke", DOTS)
    kwargs = {"distractor": distractor, "motion": "fixed"}
    collect_store(dataclasses.replace(recipe.collect, env_kwargs=kwargs), folder / "data", seed=0)
    words = ["train", "moving-dot", "--preset", "smoke", "--data", folder / "data", "--out", folder / "run"]
    assert main([str(word) for word in [*words, "--set", *DOTS[1:], "--json", folder / "out.json"]]) == 0


def test_a_fixed_background_is_warned_of_in_terminal_and_report_and_its_absence_is_not(tmp_path, capsys):
    train_dots(tmp_path / "fixed", "uniform")
    shown = " ".join(capsys.readouterr().err.split())
    run = tmp_path / "fixed" / "run"
    message = "the prediction loss is low because it predicts the background"
    assert shown.count(message) == 1
    assert "Warning, at step 24 of the world model" in shown  # the second check after the warm-up
    assert "worldmodel train RECIPE --objective" in shown
    step, alarm = read_alarm(run)
    assert (step, alarm.kind) == (24, "constant")
    html = unescape(render_report(run).read_text(encoding="utf-8"))
    assert message in html[: html.index("</header>")]
    assert message in section(html, "diagnostics")
    assert main(["diagnose", str(run)]) == 0
    again = " ".join(capsys.readouterr().err.split())
    assert message in again

    train_dots(tmp_path / "none", "none")
    assert "Warning" not in capsys.readouterr().err
    assert read_alarm(tmp_path / "none" / "run") is None


def test_the_warning_is_printed_above_a_live_bar_whose_detail_keeps_to_the_loss():
    stream = io.StringIO()
    console = Console(file=stream, width=120, force_terminal=True, color_system="standard")
    bad = {"action_r2": 0.0, "rankme": 9.0, "relative_variance": 1.0, "num_trajectories": 256.0}
    alarm = SlowFeatureAlarm().check({**bad, "between_trajectory_share": 0.99})
    with progress_bar(console, "steps") as update:
        update("world_model", 40, 900, {"loss": 4.667, "diag_action_r2": 0.123})
        print_alarm(console, 40, alarm)
        update("world_model", 60, 900, {})
    text = stream.getvalue()
    assert "\x1b[1;33mWarning, at step 40" in text  # bold yellow
    assert "0.123" not in text
    assert "loss 4.67" in text


# ---- the verb


def test_the_verb_renews_the_final_part_and_keeps_the_history(run, capsys):
    before = json.loads((run / "diagnostics.json").read_text())
    assert main(["diagnose", str(run), "--seed", "5", "--json"]) == 0
    out, err = capsys.readouterr()
    after = json.loads((run / "diagnostics.json").read_text())
    assert json.loads(out) == after
    assert after["history"] == before["history"]
    assert after["final"] != before["final"]
    assert after["episodes"] == "training"
    for words in ("action R²", f"{after['final']['rankme']:.3g}", "The alarm needs 128 trajectories"):
        assert words in err
    other = collect_store(SMOKE.collect, run.parent / "other", seed=7)
    assert main(["diagnose", str(run), str(other.path), "--quiet"]) == 0
    assert json.loads((run / "diagnostics.json").read_text())["episodes"] == "another store"
    assert json.loads((run / "diagnostics.json").read_text())["final"]["num_trajectories"] == 24


def test_bad_input_of_the_verb_is_one_sentence(run, tmp_path, capsys):
    def error_of(*words):
        assert main(["diagnose", *map(str, words), "--quiet"]) != 0
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "config.json" in error_of(tmp_path / "nowhere")
    assert "store" in error_of(run, tmp_path / "nowhere")
    dots = collect_store(resolve("moving-dot", "smoke").collect, tmp_path / "dots", seed=0)
    assert "the store must be of worldmodel/TwoRooms-v0, got worldmodel/MovingDot-v0" in error_of(
        run, dots.path
    )
    few = collect_store(dataclasses.replace(SMOKE.collect, num_episodes=4), tmp_path / "few", seed=0)
    assert "at least 10 episodes, got 4" in error_of(run, few.path)
    shutil.rmtree(run / "model")
    assert "run must have a trained model" in error_of(run)


# ---- the page


def check(step, **changes):
    return {
        "step": step,
        "action_r2": 0.7,
        "between_trajectory_share": 0.8,
        "rankme": 20.0,
        "identity_ratio": 0.5,
        **changes,
    }


DIAGNOSTICS = {
    "episodes": "held-out",
    "num_windows": 512,
    "history": [check(150), check(300, action_r2=0.25), check(450, action_r2=0.0123)],
    "final": {**check(450, action_r2=0.0123), "num_trajectories": 200.0, "action_cka": 0.0571},
    "spectrum": [0.5, 0.3, 0.2, 0.0],
    "slowness": [0.01, 0.2, 0.4, 0.0],
    "alarm": {"kind": "constant", "message": "it stands <still>", "advice": "try this", "step": 450},
    "thresholds": SlowFeatureAlarm().thresholds(),
}


def page_with(tmp_path, diagnostics):
    run = write_run(tmp_path / "run", num_episodes=2)
    (run / "diagnostics.json").write_text(json.dumps(diagnostics))
    return render_report(run).read_text(encoding="utf-8")


def test_the_report_draws_the_diagnostics_and_shows_the_alarm_first(tmp_path):
    html = page_with(tmp_path, DIAGNOSTICS)
    drawn = section(html, "diagnostics")
    assert drawn.count("<svg") == 6
    for words in ("it stands &lt;still&gt;", "0.0123", "alarm below", "0.0571", "512 windows of held-out"):
        assert words in drawn, words
    header = html[: html.index("</header>")]
    assert "Slow-feature alarm" in header
    assert "at step 450: it stands &lt;still&gt;." in header
    assert header.index('role="alert"') < header.index('class="headline"')
    page = Page(html)
    assert "#diagnostics" in page.references
    assert len(page.ids) == len(set(page.ids))


def test_without_an_alarm_there_is_no_banner(tmp_path):
    healthy = {**DIAGNOSTICS, "alarm": None, "final": check(450, num_trajectories=200.0)}
    html = page_with(tmp_path, healthy)
    assert 'role="alert"' not in html
    assert "No alarm: the embedding moves with the actions (action R² 0.7)" in section(html, "diagnostics")


def test_too_few_trajectories_are_no_all_clear(tmp_path):
    few = {**DIAGNOSTICS, "alarm": None, "final": check(450, num_trajectories=20.0)}
    assert "needs 128 trajectories to speak and there are 20" in section(
        page_with(tmp_path, few), "diagnostics"
    )


def test_diagnostics_with_holes_and_hostile_words_are_drawn(tmp_path):
    holes = {"final": {"action_r2": None}, "history": [{"step": 1}], "spectrum": [1.0], "slowness": [None]}
    alarm = {"kind": HOSTILE, "message": HOSTILE, "advice": f"worldmodel {HOSTILE}", "step": None}
    page = Page(page_with(tmp_path, {**holes, "alarm": alarm, "episodes": HOSTILE, "num_windows": 3}))
    assert "img" not in page.tags
    assert page.tags.count("script") == 2


def test_a_run_without_diagnostics_names_the_command(run):
    (run / "diagnostics.json").unlink()
    html = render_report(run).read_text(encoding="utf-8")
    assert f"worldmodel diagnose {run}" in section(html, "diagnostics")


def test_the_training_curves_leave_the_diagnostics_to_their_section(run):
    assert any("diag_rankme" in line for line in read_metrics(run / "metrics.jsonl"))
    html = render_report(run).read_text(encoding="utf-8")
    assert "diag" not in section(html, "training")
    assert "RankMe" in section(html, "diagnostics")
