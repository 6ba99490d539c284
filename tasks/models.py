"""Small networks that train well under DP-SGD: no batch statistics, bounded activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from opacus.layers import DPLSTM
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


def mlp(inputs: int, hidden: int, classes: int) -> nn.Module:
    """One hidden layer of tanh, and a linear layer from zero."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), linear(hidden, classes))


class OneHot(nn.Module):
    """Codes of shape [B, T] as indicators of shape [B, symbols, T]."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = symbols

    def forward(self, codes: Tensor) -> Tensor:
        """Indicators of the codes."""
        return (codes[:, None, :] == torch.arange(self.symbols)[:, None]).float()


class Causal(nn.Module):
    """A convolution over [B, channels, T] whose output at t sees inputs up to t, no later.

    Returns features last: [B, T, outputs].
    """

    def __init__(self, channels: int, outputs: int, reach: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(channels, outputs, reach, padding=reach - 1)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution, without what it gives past the last input."""
        result: Tensor = self.convolution(x)
        return result[:, :, : x.shape[2]].transpose(1, 2)


class Embedded(nn.Module):
    """Codes of shape [B, T] as learnt vectors, [B, size, T]."""

    def __init__(self, symbols: int, size: int) -> None:
        super().__init__()
        self.table = nn.Embedding(symbols, size)

    def forward(self, codes: Tensor) -> Tensor:
        """The codes' vectors."""
        result: Tensor = self.table(codes)
        return result.transpose(1, 2)


class Recurrent(nn.Module):
    """Opacus's LSTM over [B, channels, T]; its outputs, [B, T, outputs]."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.lstm = DPLSTM(channels, outputs, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """The state after each input."""
        states: Tensor = self.lstm(x.transpose(1, 2))[0]
        return states


def window(symbols: int, reach: int = 4) -> nn.Module:
    """A softmax on the last ``reach`` symbols, from zero; takes codes, [B, T]."""
    model = Causal(symbols, symbols, reach)
    return nn.Sequential(OneHot(symbols), zeroed(model, model.convolution))


def causal_cnn(symbols: int, size: int = 16, hidden: int = 64, reach: int = 6) -> nn.Module:
    """Learnt vectors, one convolution over the last ``reach``, tanh, a layer from zero."""
    head = nn.Linear(hidden, symbols)
    return nn.Sequential(
        Embedded(symbols, size), Causal(size, hidden, reach), nn.Tanh(), zeroed(head, head)
    )


def lstm(symbols: int, size: int = 16, hidden: int = 64) -> nn.Module:
    """Learnt vectors, one LSTM, and a linear layer from zero."""
    head = nn.Linear(hidden, symbols)
    return nn.Sequential(Embedded(symbols, size), Recurrent(size, hidden), zeroed(head, head))


def zeroed(model: nn.Module, layer: nn.Linear | nn.Conv1d) -> nn.Module:
    """The model, with a layer of it set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return model


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
