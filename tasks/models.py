"""Small networks that train well under DP-SGD: no batch statistics, bounded activations."""

from __future__ import annotations

from torch import nn


def linear(inputs: int, classes: int) -> nn.Module:
    """Multinomial logistic regression from zero, which costs no noise to find."""
    layer = nn.Linear(inputs, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def tanh_cnn(classes: int = 10) -> nn.Module:
    """The 26,010-parameter CNN of Papernot et al. 2021 (arXiv:2007.14191) for 1x28x28 images.

    Tanh keeps activations, and so gradients, bounded, which wastes less on clipping.
    """
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 32),
        nn.Tanh(),
        nn.Linear(32, classes),
    )
