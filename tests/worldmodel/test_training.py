import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import safetensors
import torch
from torch import nn

from tests.worldmodel.factories import make, make_batch
from worldmodel.checkpoint import CheckpointError
from worldmodel.distributed import stop_process_group
from worldmodel.metrics import read_metrics
from worldmodel.objectives import JEPAObjective
from worldmodel.training import FitConfig, NonFiniteLossError, fit

WEIGHTS = {"prediction": 1.0, "variance": 16.0, "sigreg": 0.1, "inverse_dynamics": 1.0}
CONFIG = FitConfig(num_steps=8, checkpoint_every=3, log_every=2, warmup_steps=2)


def objective(seed=0, **changes):
    model = make(seed=seed, **changes)
    return JEPAObjective(model, WEIGHTS, rollout_steps=3, seed=seed)


def batches(step):
    return make_batch(make(), seed=step)


def train(module, run, config=CONFIG, batch_fn=batches, **kwargs):
    return fit(module, batch_fn, WEIGHTS, config, run=run, stage="world_model", **kwargs)


class KilledError(Exception):
    pass


def killed_at(step):
    def batch_fn(at):
        if at == step:
            raise KilledError
        return batches(at)

    return batch_fn


@pytest.mark.parametrize("target", ["shared", "ema"])
def test_a_killed_and_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, target):
    whole = objective(target=target)
    train(whole, tmp_path / "whole", after_step=whole.model.update_target)
    first = objective(target=target)
    with pytest.raises(KilledError):
        train(first, tmp_path / "cut", batch_fn=killed_at(5), after_step=first.model.update_target)
    resumed = objective(target=target)
    train(resumed, tmp_path / "cut", after_step=resumed.model.update_target)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    whole_log, cut_log = (read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut"))
    for a, b in zip(whole_log, cut_log, strict=True):
        assert {k: v for k, v in a.items() if k != "steps_per_s"} == {
            k: v for k, v in b.items() if k != "steps_per_s"
        }


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_kill_minus_9_leaves_a_state_to_resume_from(tmp_path, delay):
    script = textwrap.dedent(
        f"""
        import pathlib, torch
        torch.set_num_threads(1)
        from tests.worldmodel.test_training import objective, train, FitConfig
        config = FitConfig(num_steps=100_000, checkpoint_every=1)
        train(objective(), pathlib.Path({str(tmp_path)!r}), config)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    path = tmp_path / "train_state" / "world_model.safetensors"
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(delay)
    process.kill()
    process.wait()
    with safetensors.safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
    assert step >= 1
    config = FitConfig(num_steps=100_000, checkpoint_every=1)
    with pytest.raises(KilledError):
        train(objective(), tmp_path, config, batch_fn=killed_at(step + 1))


def test_training_lowers_the_loss_and_logs_every_term(tmp_path):
    config = FitConfig(num_steps=60, log_every=10)
    fixed = make_batch(make())
    result = train(objective(), tmp_path, config, batch_fn=lambda step: fixed)
    log = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in log] == [10, 20, 30, 40, 50, 60]
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert set(WEIGHTS) <= set(log[0])
    assert result.step == 60
    weighted = sum(weight * log[-1][name] for name, weight in WEIGHTS.items())
    assert log[-1]["loss"] == pytest.approx(weighted, rel=1e-5)


def test_held_out_terms_are_logged_at_checkpoints_and_leave_the_bits_alone(tmp_path):
    with_val, without = objective(), objective()
    held_out = make_batch(make(), seed=99)
    train(with_val, tmp_path / "with", val_batch=held_out)
    train(without, tmp_path / "without")
    for p, q in zip(with_val.parameters(), without.parameters(), strict=True):
        assert torch.equal(p, q)
    log = read_metrics(tmp_path / "with" / "metrics.jsonl")
    assert [line["step"] for line in log if "val_prediction" in line] == [3, 6, 8]
    with torch.no_grad():
        expected = float(with_val(held_out, 7)["prediction"])
    assert log[-1]["val_prediction"] == pytest.approx(expected, rel=1e-5)


def test_a_finished_run_is_not_trained_again(tmp_path):
    module = objective()
    train(module, tmp_path)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    again = objective(seed=0)
    train(again, tmp_path, batch_fn=killed_at(0))
    for name, tensor in before.items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_non_finite_loss_stops_with_its_name_and_keeps_the_last_good_state(tmp_path):
    def poisoned(step):
        batch = batches(step)
        if step == 5:
            batch["action"] = batch["action"] * float("nan")
        return batch

    with pytest.raises(
        NonFiniteLossError, match="inverse_dynamics = nan.* at step 5 of world_model; the last good"
    ):
        train(objective(), tmp_path, batch_fn=poisoned)
    with safetensors.safe_open(tmp_path / "train_state/world_model.safetensors", framework="pt") as file:
        assert file.metadata()["step"] == "3"
        assert all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_a_checkpoint(tmp_path):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch, step):
            return {"prediction": (self.weight * (0.0 if step == 5 else 1.0)).sqrt().sum()}

    with pytest.raises(NonFiniteLossError, match="grad_norm = (nan|inf) at step 5"):
        fit(Root(), batches, {"prediction": 1.0}, CONFIG, run=tmp_path, stage="root")
    with safetensors.safe_open(tmp_path / "train_state/root.safetensors", framework="pt") as file:
        assert all(bool(file.get_tensor(name).isfinite().all()) for name in file.keys())  # noqa: SIM118


def test_resuming_with_other_settings_or_a_damaged_state_is_refused(tmp_path):
    train(objective(), tmp_path)
    with pytest.raises(CheckpointError, match="must be resumed with the settings it was started with"):
        train(objective(), tmp_path, FitConfig(num_steps=9))
    with pytest.raises(CheckpointError, match="weights must fit the architecture"):
        train(objective(embedding_dim=4), tmp_path)
    path = tmp_path / "train_state" / "world_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="training state must be a safetensors file"):
        train(objective(), tmp_path)


def test_a_full_disk_keeps_the_previous_state(tmp_path, monkeypatch):
    path = tmp_path / "train_state" / "world_model.safetensors"
    synced = []

    def full_at_the_second_save(_):
        synced.append(path.read_bytes() if path.exists() else b"")
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldmodel.training.os.fsync", full_at_the_second_save)
    with pytest.raises(OSError, match="No space left"):
        train(objective(), tmp_path)
    assert len(synced[1]) > 0
    assert path.read_bytes() == synced[1]
    monkeypatch.undo()
    whole = objective()
    train(whole, tmp_path / "whole")
    resumed = objective()
    train(resumed, tmp_path)
    for p, q in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


def test_every_setting_of_the_optimiser_moves_the_result(tmp_path):
    def weights_after(name, **changes):
        settings = {"num_steps": 8, "warmup_steps": 2, "grad_clip": 0.5, **changes}
        module = objective()
        train(module, tmp_path / name, FitConfig(**settings))
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    reference = weights_after("reference")
    for name, value in {
        "num_steps": 9,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "warmup_steps": 4,
        "final_lr": 0.5,
        "grad_clip": 0.1,
        "precision": "bfloat16",
    }.items():
        assert not torch.equal(weights_after(name, **{name: value}), reference), name


def test_the_learning_rate_warms_up_and_falls_to_its_end():
    config = FitConfig(num_steps=100, lr=1.0, warmup_steps=10, final_lr=0.1)
    assert config.lr_at(0) == pytest.approx(0.1)
    assert config.lr_at(9) == config.lr_at(10) == pytest.approx(1.0)
    assert config.lr_at(55) == pytest.approx(0.55)
    assert config.lr_at(99) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be >= 0, got -1"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"precision": "fp8"}, "precision must be auto, float32 or bfloat16, got 'fp8'"),
    ],
)
def test_bad_settings_are_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        FitConfig(**{"num_steps": 1, **changes})


def test_a_metrics_line_cut_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"stage": "a", "step": 1}) + '\n{"stage": "a", "st')
    assert read_metrics(path) == [{"stage": "a", "step": 1}]


def _ddp_worker(rank, folder, name, starts, queue):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    module = distributed_objective(name, starts)

    def half(step):
        return {key: value[2 * rank : 2 * rank + 2] for key, value in batches(step).items()}

    fit(module, half, WEIGHTS, CONFIG, run=folder / "two", stage="world_model")
    if rank == 0:
        queue.put([p.detach().numpy() for p in module.parameters()])
    torch.distributed.barrier()
    stop_process_group()
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert not {name for name in threads if "gloo" in name}, (
        "a thread outlives its group and may abort the exit"
    )


@pytest.fixture
def in_double_precision(monkeypatch):
    """Everything is computed in double precision, ``float()`` included: what then differs is no rounding."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def distributed_objective(name, starts):
    return JEPAObjective(make(name), WEIGHTS, rollout_steps=3, starts=starts)


@pytest.mark.parametrize(
    ("name", "starts"), [("patch-mlp", "first"), ("conv-gru", "first"), ("impala-transformer", "every")]
)
def test_two_processes_train_like_one_with_the_joint_batch(tmp_path, in_double_precision, name, starts):
    one = distributed_objective(name, starts)
    train(one, tmp_path / "one")
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [
        context.Process(target=_ddp_worker, args=(rank, tmp_path, name, starts, queue)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    two = queue.get(timeout=120)
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    logs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    for alone, joint in zip(*logs, strict=True):
        for key in ("loss", "variance", "grad_norm"):
            assert joint[key] == pytest.approx(alone[key], rel=1e-9), key
    for p, q in zip(one.parameters(), two, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(q), rtol=1e-7, atol=1e-9)


def test_a_module_without_trainable_parameters_names_the_problem(tmp_path):
    class Frozen(nn.Module):
        def forward(self, batch, step):
            return {"prediction": batch["action"].mean()}

    with pytest.raises(ValueError, match="empty parameter list"):
        fit(Frozen(), batches, {"prediction": 1.0}, CONFIG, run=tmp_path, stage="x")


def test_tensorboard_is_asked_for_by_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(objective(), tmp_path, tensorboard=True)
