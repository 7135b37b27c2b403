"""Encoders between the input and the recurrent network."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class ConvEncoder(nn.Module):
    """Four 3x3 convolutions that turn a colour image into a sequence of 256 features (the paper's encoder).

    Padding 1, stride 1, no bias; 32, 64, 128, 256 channels; batch normalisation and ReLU before each; 2x2 max
    pooling after the second and the fourth. A 32x32 image gives 8x8 positions, read row by row in 64 steps.

    Args:
        device, dtype: of the parameters.
    """

    n_features = 256
    trial_shape = (16, 3)  # the smallest input that can be pooled twice: 4x4 pixels

    def __init__(self, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate([(3, 32), (32, 64), (64, 128), (128, 256)]):
            convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False, **factory)
            layers += [nn.BatchNorm2d(before, **factory), nn.ReLU(), convolution]
            if k % 2:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)

    def n_steps(self, n_pixels: int) -> int:
        """Steps of the recurrent network for an image of so many pixels."""
        return n_pixels // 16

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, rows · columns, 3) of square images, row by row, to features (B, T, 256)."""
        side = math.isqrt(x.shape[1])
        images = x.transpose(1, 2).reshape(len(x), 3, side, side)
        return self.layers(images).flatten(2).transpose(1, 2)
