"""``distill`` on a trained run, and acting by what it wrote."""

import dataclasses
import json
import re
import shutil

import pytest
import torch

from benchmarks import arguments
from benchmarks.agents import load_run
from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.distilling import DaggerConfig, _Distiller, _teacher, distill_run
from benchmarks.policy_checkpoint import POLICIES, load_policy, policy_folder
from envs.two_rooms import TwoRooms
from tests.benchmarks.runs import smoke_run

SMALL = DaggerConfig(
    rounds=2, episodes=6, num_steps=3, ask_every=2, train_steps=4, batch_size=8, hidden_dims=(16,)
)


@pytest.fixture
def run(tmp_path):
    shutil.copytree(smoke_run(), tmp_path / "run")
    return tmp_path / "run"


def test_the_command_line_knows_the_same_policies():
    assert arguments.POLICIES == POLICIES


def test_dagger_asks_the_planner_in_all_rounds_and_repeats(run):
    before = (run / "policy" / "model.safetensors").read_bytes()
    facts = distill_run(run, SMALL)
    assert (
        facts["demonstrations"] == 6 * 3 + 6 * 2
    )  # the planner acts at first, then it is asked every second step
    assert facts["planner"]["name"] == "cem"
    first = load_policy(policy_folder(run, "dagger"))
    assert first.hidden_dims == (16,)
    distill_run(run, SMALL)
    again = load_policy(policy_folder(run, "dagger"))
    for one, two in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    distill_run(run, SMALL, seed=5)
    other = load_policy(policy_folder(run, "dagger"))
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)
    assert (run / "policy" / "model.safetensors").read_bytes() == before


def test_dagger_starts_from_the_policy_of_the_run_where_it_fits(run):
    own = load_policy(policy_folder(run, "imagination"))
    config = dataclasses.replace(SMALL, hidden_dims=None, rounds=1, train_steps=1, lr=1e-9)
    facts = distill_run(run, config)
    assert facts["started_from_own"]
    assert facts["demonstrations"] == 6 * 2  # the policy acts from the first step on
    distilled = load_policy(policy_folder(run, "dagger"))
    for name, value in own.state_dict().items():
        torch.testing.assert_close(distilled.state_dict()[name], value)
    assert not distill_run(run, SMALL)["started_from_own"]  # of another shape
    assert not distill_run(run, dataclasses.replace(config, own_start=False))["started_from_own"]
    fresh = load_policy(policy_folder(run, "dagger"))
    assert not torch.equal(fresh.layers[0].weight, distilled.layers[0].weight)


def test_both_methods_are_kept_and_evaluated_by_name(run, capsys):
    small = {"dagger": ["episodes=6", "num_steps=3", "rounds=1"], "inverse": ["max_episodes=9"]}
    for method, settings in small.items():
        distill = ["distill", str(run), "--method", method, "--set", *settings, "train_steps=4", "--quiet"]
        assert main(distill) == 0
    assert json.loads((run / "distill.json").read_text()).keys() == {"dagger", "inverse"}
    common = ["evaluate", str(run), "--episodes", "4", "--steps", "2", "--no-references", "--quiet", "--json"]
    capsys.readouterr()
    shown = {}
    for mode, policy in (("1", "imagination"), ("1", "dagger"), ("1", "inverse"), ("2+1", "dagger")):
        assert main([*common, "--mode", mode, "--policy", policy]) == 0
        (row,) = json.loads(capsys.readouterr().out)["evaluations"]
        assert (row["agent"], row["policy"]) == (f"mode-{mode}", policy)
        assert (row["planner"] is None) == (mode == "1")
        shown[mode, policy] = row
    kept = json.loads((run / "results.json").read_text())["evaluations"]
    assert len(kept) == len(shown)
    assert main(["report", str(run), "--quiet"]) == 0
    page = (run / "report.html").read_text()
    assert "policy alone, no planning" in page
    assert "dagger" in page


def test_a_policy_that_was_not_distilled_is_one_sentence(run, capsys):
    assert main(["evaluate", str(run), "--mode", "1", "--policy", "inverse", "--quiet"]) == 1
    message = capsys.readouterr().err
    assert "run must have a trained policy-inverse" in message
    assert "worldmodel distill" in message
    assert "Traceback" not in message
    assert main(["evaluate", str(run), "--mode", "2", "--policy", "dagger", "--quiet"]) == 1
    assert "with a mode that acts by it, 1 or 2+1, got 'dagger' with mode 2" in capsys.readouterr().err


def test_a_run_without_a_policy_of_its_own_can_be_distilled(tmp_path, capsys):
    """Planning by distances needs no critic, and imitating needs neither."""
    shutil.copytree(smoke_run("slow-features"), tmp_path / "run")
    facts = distill_run(tmp_path / "run", SMALL)
    assert facts["planner"]["cost"] == "last_distance"
    common = ["evaluate", str(tmp_path / "run"), "--episodes", "4", "--steps", "2", "--quiet"]
    assert main([*common, "--mode", "1", "--policy", "dagger"]) == 0
    assert main([*common, "--mode", "1"]) == 1
    assert "trains none" in capsys.readouterr().err


def test_the_planner_remembers_what_the_policy_did(tmp_path):
    """A predictor that looks back must see the actions that were executed, not those that were proposed."""
    context = (
        "model.predictor=transformer",
        'model.predictor_args={"context": 2, "width": 16, "num_layers": 1}',
    )
    shutil.copytree(smoke_run("two-rooms", context), tmp_path / "run")
    executed, remembered = [], []

    class Watched(TwoRooms):
        def transition(self, state, action):
            executed.append(action)
            return super().transition(state, action)

    trained = load_run(tmp_path / "run")
    remember = type(trained.model).remember

    def watch(model, memory, embedding, action):
        remembered.append(action)
        return remember(model, memory, embedding, action)

    config = dataclasses.replace(SMALL, rounds=2, own_start=False)
    distiller = _Distiller(trained, config, {"hidden_dims": (16,), "noise": 0.1}, None, 0, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trained.model), "remember", watch)
        kwargs = trained.env["kwargs"]
        planner = resolve("two-rooms", "smoke").planner
        asked = distiller._round(config, Watched(**kwargs), planner, 1, distiller.policy)
    assert len(executed) == config.num_steps == len(remembered)
    for one, two in zip(executed, remembered, strict=True):
        assert torch.equal(one, two)
    mine = torch.cat(executed[::2])
    assert mine.shape == asked.action.shape
    assert not torch.equal(mine, asked.action)


def test_a_teacher_plans_from_nothing_where_the_policy_acts_and_goes_on_where_it_acts_itself():
    planner = resolve("two-rooms").planner
    assert (planner.execute, planner.warm_start) == (2, True)
    itself, asked = _teacher(planner, acts=True), _teacher(planner, acts=False)
    assert (itself.execute, itself.warm_start) == (1, True)
    assert (asked.execute, asked.warm_start) == (1, False)


def test_what_was_distilled_says_what_it_was_of(run):
    facts = distill_run(run, dataclasses.replace(SMALL, hidden_dims=None))
    assert facts["planner"]["execute"] == 1
    assert not facts["planner"]["warm_start"]
    assert facts["settings"]["hidden_dims"] == (256, 256)
    assert facts["settings"]["noise"] == 0.0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["rounds=0"], "DaggerConfig.rounds must be >= 1, got 0"),
        (["lr=0"], "lr must be > 0, got 0"),
        (["hidden_dims=16"], "hidden_dims of a policy must be whole widths >= 1, got 16"),
        (["conv_channels=[true]"], r"conv_channels of a policy must be whole widths >= 1, got \(True,\)"),
        (["noise=-1"], "noise of a policy must be a number >= 0, got -1"),
        (["conv_channels=[4]"], "must act on a feature map"),
        (["round=2"], "setting must be one of .*did you mean 'rounds'"),
        (["rounds=2.5"], "rounds must be of type int, got 2.5"),
        (["max_lag=3"], "setting must be one of .*got 'max_lag'"),  # of the other method
    ],
)
def test_bad_settings_are_one_sentence(run, capsys, settings, sentence):
    assert main(["distill", str(run), "--set", *settings, "--quiet"]) == 1
    message = capsys.readouterr().err
    assert len(message.strip().splitlines()) == 1
    assert re.search(sentence, message)
