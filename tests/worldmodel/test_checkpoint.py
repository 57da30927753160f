import json
import pickle

import pytest
import torch

from tests.worldmodel.factories import MODELS, make, make_batch
from worldmodel import checkpoint
from worldmodel.checkpoint import CheckpointError, load_jepa, save_jepa


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_computes_the_same_bits(tmp_path, name):
    model = make(name).eval()
    key = model.observation_keys[0]
    model.normalizer.get_buffer(f"{key}_mean").fill_(3.0)
    model.get_buffer("action_scale").fill_(2.5)
    save_jepa(tmp_path / "model", model, {"env": {"id": "x"}})
    loaded, extra = load_jepa(tmp_path / "model")
    batch = make_batch(model)
    obs = {key: batch[key] for key in model.observation_keys}
    with torch.no_grad():
        expected = model.rollout(model.encode(obs)[:, 0], batch["action"])
        assert torch.equal(loaded.rollout(loaded.encode(obs)[:, 0], batch["action"]), expected)
    assert extra == {"env": {"id": "x"}}
    assert not loaded.training


def test_untied_norms_survive(tmp_path):
    model = make()
    model.untie_norm()
    with torch.no_grad():
        model.predictor_norm.layer.weight.fill_(2.0)
    save_jepa(tmp_path / "model", model)
    loaded, _ = load_jepa(tmp_path / "model")
    assert float(loaded.predictor_norm.layer.weight.mean().detach()) == 2.0
    assert float(loaded.encoder_norm.layer.weight.mean().detach()) == 1.0


def rewrite(path, config):
    """Write a changed configuration as somebody would who fits the digest, too."""
    config["config_sha256"] = checkpoint._config_digest(config)
    path.write_text(json.dumps(config))


def test_a_tampered_configuration_is_found(tmp_path):
    save_jepa(tmp_path / "model", make(), {"action": {"max_norm": 2.0}})
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"max_norm": 2.0', '"max_norm": 99.0'))
    with pytest.raises(CheckpointError, match="config.json must have the SHA-256 recorded in it"):
        load_jepa(tmp_path / "model")


def test_every_flipped_byte_of_the_weights_is_found(tmp_path):
    save_jepa(tmp_path / "model", make())
    path = tmp_path / "model" / "model.safetensors"
    blob = bytearray(path.read_bytes())
    for position in range(0, len(blob), max(1, len(blob) // 23)):
        damaged = bytearray(blob)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="must have the SHA-256 recorded"):
            load_jepa(tmp_path / "model")


def test_a_checkpoint_of_another_architecture_is_refused_by_name(tmp_path):
    save_jepa(tmp_path / "model", make())
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["embedding_dim"] = 16
    rewrite(path, config)
    with pytest.raises(CheckpointError, match="weights must fit the architecture, got 'encoder"):
        load_jepa(tmp_path / "model")
    config["model"]["embedding_dim"] = 8
    config["model"]["predictor"] = "gru"
    rewrite(path, config)
    with pytest.raises(CheckpointError, match="missing in the (checkpoint|architecture)"):
        load_jepa(tmp_path / "model")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "must have the file model.safetensors"),
        (lambda folder: (folder / "config.json").unlink(), "must have the file config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json must be JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "checkpoint format must be"),
        (
            lambda folder: (folder / "config.json").write_text('{"format": "worldmodel-checkpoint/9"}'),
            "checkpoint format must be worldmodel-checkpoint/1, got 'worldmodel-checkpoint/9'",
        ),
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path, damage, sentence):
    save_jepa(tmp_path / "model", make())
    damage(tmp_path / "model")
    with pytest.raises(CheckpointError, match=sentence):
        load_jepa(tmp_path / "model")


def test_loading_executes_nothing(tmp_path):
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return marker.touch, ()

    save_jepa(tmp_path / "model", make())
    blob = pickle.dumps(Bomb())
    (tmp_path / "model" / "model.safetensors").write_bytes(blob)
    with pytest.raises(CheckpointError):
        load_jepa(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    import hashlib

    rewrite(path, {**config, "sha256": hashlib.sha256(blob).hexdigest()})
    with pytest.raises(CheckpointError, match="must be a safetensors file"):
        load_jepa(tmp_path / "model")
    assert not marker.exists()


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    save_jepa(tmp_path / "model", make(seed=0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_jepa(tmp_path / "model", make(seed=1))
    loaded, _ = load_jepa(tmp_path / "model")
    assert torch.equal(loaded.encoder.head[1].weight, make(seed=0).encoder.head[1].weight)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_is_undone(tmp_path, monkeypatch):
    save_jepa(tmp_path / "model", make(seed=0))
    rename = checkpoint.Path.rename
    calls = []

    def killed(self, target):
        if calls:
            raise SystemExit  # stands for a kill: nothing after the first rename runs
        calls.append(target)
        return rename(self, target)

    monkeypatch.setattr(checkpoint.Path, "rename", killed)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        save_jepa(tmp_path / "model", make(seed=1))
    monkeypatch.undo()
    loaded, _ = load_jepa(tmp_path / "model")
    assert torch.equal(loaded.encoder.head[1].weight, make(seed=0).encoder.head[1].weight)
