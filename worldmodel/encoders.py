"""Perception: encoders that map observations to embeddings, ``s = Enc(x)``.

Every encoder takes a mapping of observation arrays with any leading axes and returns embeddings with the same
leading axes. An embedding is a vector ``(D,)`` or, with ``feature_map=True``, a map ``(C, h, w)``; its shape is
``encoder.embedding_shape``. Pixels arrive as normalised floats (see :class:`worldmodel.jepa.Normalizer`).

The IMPALA encoder follows Espeholt et al. 2018 (arXiv 1802.01561, figure 3); the patch encoder is a ViT-style stem
(one convolution whose stride is its kernel) followed by an MLP, five times cheaper on a CPU than three convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldmodel.distributed import JointBatchNorm2d

Shape = tuple[int, ...]


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Build ``Linear - ReLU - ... - Linear`` with the layer widths ``sizes``."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """What every encoder has: the observation keys it reads and the shape of its embeddings."""

    keys: tuple[str, ...]
    embedding_shape: Shape

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode ``obs[key] (..., *O)`` to ``(..., *embedding_shape)``."""
        raise NotImplementedError


class PixelEncoder(Encoder):
    """A convolutional trunk, then a linear head (vector) or a 1x1 convolution (feature map).

    Args:
        trunk: maps images ``(M, C, rows, cols)`` to features ``(M, c, h, w)``.
        image_shape: ``(C, rows, cols)``.
        embedding_dim: ``D`` of the vector, or channels of the map.
        hidden_dims: widths between the flattened features and a vector embedding.
        feature_map: keep the grid ``(embedding_dim, h, w)`` instead of a vector.
        key: observation key of the image.
    """

    def __init__(
        self,
        trunk: nn.Module,
        image_shape: Sequence[int],
        embedding_dim: int,
        *,
        hidden_dims: Sequence[int] = (),
        feature_map: bool = False,
        key: str = "pixels",
    ) -> None:
        super().__init__()
        self.keys = (key,)
        self.image_ndim = len(image_shape)
        self.trunk = trunk
        with torch.no_grad():
            channels, rows, cols = trunk(torch.zeros(1, *image_shape)).shape[1:]
        self.head: nn.Module
        if feature_map:
            self.head = nn.Conv2d(channels, embedding_dim, 1)
            self.embedding_shape = (embedding_dim, rows, cols)
        else:
            features = channels * rows * cols
            self.head = nn.Sequential(nn.Flatten(), *mlp([features, *hidden_dims, embedding_dim]))
            self.embedding_shape = (embedding_dim,)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode images ``(..., C, rows, cols)`` to ``(..., *embedding_shape)``."""
        images = obs[self.keys[0]]
        lead = images.shape[: -self.image_ndim]
        embedding = self.head(self.trunk(images.reshape(-1, *images.shape[len(lead) :])))
        return embedding.reshape(*lead, *self.embedding_shape)


class PatchEncoder(PixelEncoder):
    """Non-overlapping patches (convolution with stride = kernel), ReLU, MLP.

    Args:
        image_shape: ``(C, rows, cols)``; ``patch_size`` divides rows and cols.
        embedding_dim: ``D``.
        patch_size: kernel and stride of the stem [px].
        channels: features per patch.
        hidden_dims: widths of the MLP between patches and embedding.
        feature_map: return ``(embedding_dim, rows / patch, cols / patch)``.
        key: observation key of the image.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        embedding_dim: int = 32,
        *,
        patch_size: int = 4,
        channels: int = 32,
        hidden_dims: Sequence[int] = (256,),
        feature_map: bool = False,
        key: str = "pixels",
    ) -> None:
        if any(side % patch_size for side in image_shape[1:]):
            raise ValueError(
                f"patch_size must divide the rows and cols of the image, {tuple(image_shape[1:])}, got {patch_size}"
            )
        stem = nn.Sequential(nn.Conv2d(image_shape[0], channels, patch_size, stride=patch_size), nn.ReLU())
        super().__init__(
            stem, image_shape, embedding_dim, hidden_dims=hidden_dims, feature_map=feature_map, key=key
        )


class ConvEncoder(PixelEncoder):
    """Small convolutions with BatchNorm; the defaults are the encoder of Sobal et al. 2022 (arXiv 2211.10831).

    Args:
        image_shape: ``(C, rows, cols)``; no layer may leave less than 1 px.
        embedding_dim: ``D``.
        channels: widths of the convolutions.
        kernels: their kernels [px]; an odd one is padded by half of itself, an even one so that the stride tiles.
        strides: their strides [px].
        pool: side of the average pooling after the last one; 1 for none.
        feature_map: return ``(embedding_dim, h, w)``.
        key: observation key of the image.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        embedding_dim: int = 128,
        *,
        channels: Sequence[int] = (32, 64, 64),
        kernels: Sequence[int] = (5, 5, 3),
        strides: Sequence[int] = (2, 2, 1),
        pool: int = 2,
        feature_map: bool = False,
        key: str = "pixels",
    ) -> None:
        if not len(channels) == len(kernels) == len(strides):
            raise ValueError(
                "channels, kernels and strides must have one entry per convolution, got "
                f"{len(channels)}, {len(kernels)} and {len(strides)}"
            )
        layers: list[nn.Module] = []
        fan_in = image_shape[0]
        for width, kernel, stride in zip(channels, kernels, strides, strict=True):
            padding = kernel // 2 if kernel % 2 else (kernel - stride) // 2
            layers += [nn.Conv2d(fan_in, width, kernel, stride=stride, padding=padding), nn.ReLU()]
            layers += [JointBatchNorm2d(width)]
            fan_in = width
        trunk = nn.Sequential(*layers, *([nn.AvgPool2d(pool)] if pool > 1 else []))
        super().__init__(trunk, image_shape, embedding_dim, feature_map=feature_map, key=key)


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(relu(x))))``, the unit of the IMPALA encoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(M, C, h, w)`` to the same shape."""
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ImpalaEncoder(PixelEncoder):
    """The residual encoder of IMPALA: per stack conv3x3, max-pool, two residual blocks.

    Args:
        image_shape: ``(C, rows, cols)``.
        embedding_dim: ``D``.
        stacks: channels of each stack; every stack halves the resolution.
        feature_map: return ``(embedding_dim, h, w)``.
        key: observation key of the image.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        embedding_dim: int = 512,
        *,
        stacks: Sequence[int] = (16, 32, 32),
        feature_map: bool = False,
        key: str = "pixels",
    ) -> None:
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip((image_shape[0], *stacks[:-1]), stacks, strict=True):
            layers += [
                nn.Conv2d(fan_in, fan_out, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(fan_out),
                ResidualBlock(fan_out),
            ]
        trunk = nn.Sequential(*layers, nn.ReLU())
        super().__init__(trunk, image_shape, embedding_dim, feature_map=feature_map, key=key)


class MLPEncoder(Encoder):
    """An MLP on a flat observation such as a simulator state or proprioception.

    Args:
        input_shape: shape of the observation, flattened.
        embedding_dim: ``D``.
        hidden_dims: widths of the hidden layers.
        key: observation key.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        embedding_dim: int = 32,
        *,
        hidden_dims: Sequence[int] = (256, 256),
        key: str = "proprio",
    ) -> None:
        super().__init__()
        self.keys = (key,)
        self.input_ndim = len(input_shape)
        self.embedding_shape = (embedding_dim,)
        self.layers = mlp([math.prod(input_shape), *hidden_dims, embedding_dim])

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode ``(..., *input_shape)`` to ``(..., D)``."""
        return self.layers(obs[self.keys[0]].flatten(-self.input_ndim))


class FusedEncoder(Encoder):
    """Pixels and proprioception in one embedding: a pixel encoder plus a projected MLP of the proprioception.

    A vector embedding is a linear layer on both codes; on a feature map the code of the proprioception is added to
    every position.

    Args:
        pixel_encoder: vector or map encoder of the image.
        proprio_shape: shape of the proprioception.
        proprio_dim: width of its code.
        key: observation key of the proprioception.
    """

    def __init__(
        self,
        pixel_encoder: PixelEncoder,
        proprio_shape: Sequence[int],
        *,
        proprio_dim: int = 64,
        key: str = "proprio",
    ) -> None:
        super().__init__()
        self.pixel_encoder = pixel_encoder
        self.proprio_encoder = MLPEncoder(proprio_shape, proprio_dim, hidden_dims=(proprio_dim,), key=key)
        self.embedding_shape = pixel_encoder.embedding_shape
        self.keys = (*pixel_encoder.keys, key)
        self.is_map = len(self.embedding_shape) == 3
        fan_in = proprio_dim if self.is_map else proprio_dim + self.embedding_shape[0]
        self.fuse = nn.Linear(fan_in, self.embedding_shape[0])

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Encode both observations to ``(..., *embedding_shape)``."""
        image_code = self.pixel_encoder(obs)
        proprio_code = self.proprio_encoder(obs)
        if self.is_map:
            return image_code + self.fuse(proprio_code)[..., None, None]
        return self.fuse(torch.cat([image_code, proprio_code], dim=-1))
