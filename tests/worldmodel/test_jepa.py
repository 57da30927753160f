import pytest
import torch

from tests.worldmodel.factories import MODELS, make, make_batch
from worldmodel.jepa import ModelConfig
from worldmodel.memory import ShortTermMemory


def observations(model, **kwargs):
    batch = make_batch(model, **kwargs)
    return {key: batch[key] for key in model.observation_keys}, batch["action"]


@pytest.mark.parametrize("name", MODELS)
def test_rollout_is_predict_applied_again_and_again(name):
    model = make(name).eval()
    obs, actions = observations(model)
    start = model.encode(obs)[:, 0]
    rolled = model.rollout(start, actions[:, :3])
    memory, embedding = model.empty_memory(len(start)), start
    for k in range(3):
        after = model.predict(embedding, actions[:, k], memory=memory)
        memory = model.remember(memory, embedding, actions[:, k])
        embedding = after
        torch.testing.assert_close(rolled[:, k], embedding)


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_batch_do_not_see_each_other(name):
    model = make(name).eval()
    obs, actions = observations(model)
    together = model.rollout(model.encode(obs)[:, 0], actions)
    for row in range(len(actions)):
        one = {key: value[row : row + 1] for key, value in obs.items()}
        alone = model.rollout(model.encode(one)[:, 0], actions[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_have_the_announced_shape_and_any_leading_axes(name):
    model = make(name).eval()
    obs, _ = observations(model)
    embeddings = model.encode(obs)
    assert embeddings.shape == (4, 6, *model.embedding_shape)
    flat = model.encode({key: value.flatten(0, 1) for key, value in obs.items()})
    torch.testing.assert_close(embeddings.flatten(0, 1), flat)


@pytest.mark.parametrize("name", MODELS)
def test_actions_and_start_reach_the_prediction_and_its_gradient(name):
    model = make(name).eval()
    with torch.no_grad():  # AdaLN-zero starts with closed gates; open them as training does
        for parameter_name, parameter in model.named_parameters():
            if "modulation" in parameter_name:
                parameter.normal_(std=0.5)
    obs, actions = observations(model)
    start = model.encode(obs)[:, 0].detach().requires_grad_()
    actions = actions[:, :2].clone().requires_grad_()
    model.rollout(start, actions)[:, -1].square().sum().backward()
    assert (actions.grad.abs().sum(dim=-1) > 0).all()
    assert (start.grad.flatten(1).abs().sum(dim=1) > 0).all()


def test_a_transformer_reads_its_memory_and_only_the_valid_part():
    model = make("impala-transformer").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modulation" in name:
                parameter.normal_(std=0.5)
    embedding, action = torch.randn(3, 8), torch.randn(3, 2)
    past = ShortTermMemory(torch.randn(3, 2, 8), torch.randn(3, 2, 2), torch.tensor([[True, True]] * 3))
    with_past = model.predict(embedding, action, memory=past)
    assert not torch.allclose(with_past, model.predict(embedding, action))
    forgotten = past.forget(torch.tensor([True, False, False]))
    without = model.predict(embedding, action, memory=forgotten)
    torch.testing.assert_close(without[0], model.predict(embedding, action)[0])
    torch.testing.assert_close(without[1:], with_past[1:])


def test_memory_is_a_value_whose_oldest_step_drops_out():
    empty = ShortTermMemory.empty(1, 2, (1,), 1)
    memory = empty
    for k in range(3):
        memory = memory.push(torch.full((1, 1), float(k)), torch.full((1, 1), 10.0 + k))
    assert memory.embeddings.flatten().tolist() == [1.0, 2.0]
    assert memory.actions.flatten().tolist() == [11.0, 12.0]
    assert memory.valid.all()
    assert not empty.valid.any()


def test_one_seed_gives_one_model_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.rand(1) == expected
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.encoder.head[1].weight, other.encoder.head[1].weight)


def test_the_norm_is_shared_until_it_is_untied():
    model = make()
    assert model.predictor_norm is model.encoder_norm
    model.untie_norm()
    assert model.predictor_norm is not model.encoder_norm
    assert not model.config.tied_norm
    torch.testing.assert_close(model.predictor_norm.layer.weight, model.encoder_norm.layer.weight)


def test_map_embeddings_are_normalised_over_channels():
    model = make("map-conv").eval()
    obs, _ = observations(model)
    embeddings = model.encode(obs)
    torch.testing.assert_close(embeddings.mean(dim=-3), torch.zeros(4, 6, 4, 4), atol=1e-5, rtol=0)


def test_the_ema_target_moves_by_its_momentum():
    model = make("conv-gru", target="ema", ema_momentum=0.75)
    target, online = model.target_encoder[0].head[1].weight, model.encoder.head[1].weight
    before = target.clone()
    with torch.no_grad():
        online.add_(1.0)
    model.update_target()
    torch.testing.assert_close(target, before + 0.25)
    assert not target.requires_grad


def test_targets_carry_gradient_only_when_shared():
    for target, has_gradient in (("shared", True), ("stop_gradient", False), ("ema", False)):
        model = make(target=target)
        obs, _ = observations(model)
        assert model.encode_target(obs, model.encode(obs)).requires_grad == has_gradient


def test_normalisation_is_per_channel_and_forgives_constant_channels():
    model = make()
    model.normalizer.set("pixels", [10.0, 0.0], [5.0, 0.0])
    images = torch.full((1, 2, 16, 16), 20, dtype=torch.uint8)
    normal = model.normalizer({"pixels": images})["pixels"]
    assert normal[0, 0].unique().tolist() == [2.0]
    assert normal[0, 1].unique().tolist() == [20.0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"encoder": "impla"}, "encoder must be one of .*, got 'impla'; did you mean 'impala'"),
        ({"predictor": "transfomer"}, "did you mean 'transformer'"),
        ({"target": "emma"}, "target must be one of .*did you mean 'ema'"),
        ({"embedding_dim": 0}, "embedding_dim must be >= 1, got 0"),
        ({"encoder_args": {"patch_size": 3}}, "patch_size must divide the rows and cols of the image"),
        ({"action_dim": 0}, "action_dim must be >= 1, got 0"),
        ({"observation": {}}, "observation must name at least one key"),
        ({"ema_momentum": 2.0}, r"ema_momentum must be in \[0, 1\], got 2.0"),
        ({"encoder_args": {"patchsize": 2}}, "argument of encoder patch must be .*did you mean 'patch_size'"),
        ({"predictor_args": {"hidden": 2}}, "argument of predictor residual_mlp must be one of hidden_dims"),
        ({"predictor": "conv"}, r"embedding_shape must be \(C, h, w\)"),
    ],
)
def test_a_wrong_architecture_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


def test_an_unknown_configuration_key_names_the_nearest_known_one():
    with pytest.raises(ValueError, match="did you mean 'embedding_dim'"):
        ModelConfig.from_json({**VECTOR_JSON, "embeding_dim": 3})


VECTOR_JSON = {"observation": {"pixels": [2, 16, 16]}, "action_dim": 2}


def test_wrong_observations_are_one_sentence():
    model = make()
    with pytest.raises(ValueError, match="observation must have the key 'pixels', got proprio"):
        model.encode({"proprio": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"must end in shape \(2, 16, 16\), got \(1, 2, 8, 8\)"):
        model.encode({"pixels": torch.zeros(1, 2, 8, 8)})


def test_a_deterministic_predictor_refuses_a_latent():
    model = make()
    with pytest.raises(ValueError, match="latent must be None for a predictor with latent_dim 0"):
        model.predict(torch.randn(1, 8), torch.randn(1, 2), latent=torch.randn(1, 3))


def test_a_latent_moves_the_prediction():
    model = make(latent_dim=3).eval()
    embedding, action = torch.randn(2, 8), torch.randn(2, 2)
    first = model.predict(embedding, action, torch.randn(2, 3))
    assert not torch.allclose(first, model.predict(embedding, action, torch.randn(2, 3)))
    latents = torch.randn(2, 4, 3)
    rolled = model.rollout(embedding, torch.randn(2, 4, 2), latents)
    assert rolled.shape == (2, 4, 8)
