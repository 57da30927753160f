"""Small models and batches that the tests of the world model share."""

import torch

from worldmodel.jepa import JEPA, ModelConfig, build_jepa

VECTOR = {"observation": {"pixels": (2, 16, 16)}, "action_dim": 2, "embedding_dim": 8}
MODELS = {
    "patch-mlp": VECTOR,
    "conv-gru": {**VECTOR, "encoder": "conv", "predictor": "gru", "norm": False},
    "impala-transformer": {
        **VECTOR,
        "encoder": "impala",
        "encoder_args": {"stacks": (4, 4)},
        "predictor": "transformer",
        "predictor_args": {"context": 2, "width": 16, "num_layers": 2, "num_heads": 2},
    },
    "map-conv": {
        **VECTOR,
        "encoder_args": {"feature_map": True},
        "predictor": "conv",
        "predictor_args": {"hidden_channels": 8},
    },
    "map-transformer": {
        **VECTOR,
        "encoder_args": {"feature_map": True},
        "predictor": "transformer",
        "predictor_args": {"context": 1, "width": 16, "num_layers": 1, "num_heads": 2},
    },
    "state-mlp": {"observation": {"proprio": (3,)}, "action_dim": 2, "embedding_dim": 8, "encoder": "mlp"},
    "fused": {**VECTOR, "observation": {"pixels": (2, 16, 16), "proprio": (3,)}},
    "fused-map": {
        **VECTOR,
        "observation": {"pixels": (2, 16, 16), "proprio": (3,)},
        "encoder_args": {"feature_map": True},
        "predictor": "conv",
    },
}


def make(name: str = "patch-mlp", seed: int = 0, **changes) -> JEPA:
    return build_jepa(ModelConfig(**{**MODELS[name], **changes}), seed)


def make_batch(model: JEPA, batch: int = 4, frames: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    obs = {
        key: torch.randint(0, 256, (batch, frames, *shape), generator=generator, dtype=torch.uint8)
        if len(shape) == 3
        else torch.randn(batch, frames, *shape, generator=generator)
        for key, shape in model.config.observation.items()
    }
    return {**obs, "action": torch.randn(batch, frames, model.config.action_dim, generator=generator)}
