"""Small networks that train well under DP-SGD: no batch statistics, bounded activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from tacit.privacy.errors import ConfigError


class Scale(nn.Module):
    """Multiplies its input by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The input, scaled."""
        return self.factor * x


def linear(inputs: int, classes: int, scale: float = 1.0) -> nn.Module:
    """Multinomial logistic regression from zero, which costs no noise to find."""
    layer = nn.Linear(inputs, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(Scale(scale), nn.Flatten(), layer)


def gabor_cnn(classes: int = 10) -> nn.Module:
    """A 10,170-parameter CNN whose first layer is fixed: it takes `features.gabor`.

    One convolution over the 16 amplitude maps, tanh, and a linear layer from zero.
    """
    convolution = nn.Conv2d(16, 16, 3, padding=1)
    nn.init.uniform_(convolution.weight, -1.7 / 12, 1.7 / 12)
    head = nn.Linear(16 * 7 * 7, classes)
    for tensor in (convolution.bias, head.weight, head.bias):
        if tensor is not None:
            nn.init.zeros_(tensor)
    return nn.Sequential(Scale(14.0), convolution, nn.Tanh(), nn.Flatten(), head)


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


Choice = tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]


def choose(choices: Mapping[str, Choice], wanted: str | None) -> Choice:
    """The model a configuration asks for; the first one where it doesn't say.

    Args:
        choices: for each name the model, and the features it takes, of a task's inputs.
        wanted: ``model=`` of the configuration.

    Raises:
        ConfigError: the task has no such model.
    """
    name = next(iter(choices)) if wanted is None else wanted
    if name not in choices:
        raise ConfigError(f"model={wanted} must be one of {', '.join(choices)}")
    return choices[name]


def as_it_is(inputs: Tensor) -> Tensor:
    """The features of a model that takes a task's inputs themselves."""
    return inputs
