"""`tacit.tasks.vector`: a model's trained parameters as one vector, and the rest as a digest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tacit.privacy.errors import ModelError
from tacit.tasks import vector


def mixed() -> nn.Module:
    """A frozen layer, a layer with buffers, two trained layers and a scalar."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 2, 3), nn.PReLU())
    model[0].requires_grad_(False)
    model.register_parameter("scalar", nn.Parameter(torch.tensor(2.0)))
    return model


def size(model: nn.Module) -> int:
    """Trained numbers of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


class Tied(nn.Module):
    """Encoder and decoder share one trained weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight


def test_the_vector_has_the_trained_parameters_only() -> None:
    model = mixed()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"scalar", "1.weight", "1.bias", "2.weight", "2.bias", "3.weight"}
    assert vector.read(model).shape == (1 + 4 + 4 + 2 * 4 * 3 + 2 + 1,)


def test_read_is_a_float32_copy() -> None:
    model = mixed()
    read = vector.read(model)
    before = vector.read(model)
    assert read.dtype == np.float32
    read += 1
    np.testing.assert_array_equal(vector.read(model), before)


def test_what_is_written_is_read_and_lies_in_the_models_order() -> None:
    model = mixed()
    values = np.random.default_rng(0).normal(size=size(model)).astype(np.float32)
    vector.write(model, values)
    np.testing.assert_array_equal(vector.read(model), values)
    trained = [p for p in model.parameters() if p.requires_grad]
    np.testing.assert_array_equal(nn.utils.parameters_to_vector(trained).detach(), values)


def test_write_neither_keeps_nor_changes_its_vector() -> None:
    model = mixed()
    values = np.ones(size(model), dtype=np.float32)
    values.setflags(write=False)
    vector.write(model, values)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert values.min() == 1


def test_write_leaves_frozen_parameters_and_buffers_alone() -> None:
    model = mixed()
    before = vector.frozen_digest(model)
    vector.write(model, np.full(size(model), 5, dtype=np.float32))
    assert vector.frozen_digest(model) == before


@pytest.mark.parametrize("change", [-1, 1, -5, 100])
def test_a_vector_of_another_length_is_a_model_error(change: int) -> None:
    model = mixed()
    before = vector.read(model)
    wrong = np.zeros(size(model) + change, dtype=np.float32)
    with pytest.raises(ModelError, match="should be"):
        vector.write(model, wrong)
    # Refused before anything of the model was overwritten.
    np.testing.assert_array_equal(vector.read(model), before)


def test_the_digest_covers_frozen_parameters_and_buffers() -> None:
    digests = {vector.frozen_digest(mixed())}
    for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        model = mixed()
        model.state_dict()[name].add_(1)
        digests.add(vector.frozen_digest(model))
    assert len(digests) == 6


def test_the_digest_ignores_the_values_that_are_trained() -> None:
    model = mixed()
    before = vector.frozen_digest(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(1)
    assert vector.frozen_digest(model) == before


def test_the_digest_tells_shapes_and_types_apart() -> None:
    def holding(tensor: torch.Tensor) -> str:
        model = nn.Linear(1, 1)
        model.register_buffer("held", tensor)
        return vector.frozen_digest(model)

    ones = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(8)]
    assert len({holding(t) for t in ones}) == 4


def test_a_trained_parameter_with_two_names_isnt_frozen() -> None:
    # Else an artifact would hold the weight's initial value under its second name.
    model = Tied()
    assert size(model) == 9
    before = vector.frozen_digest(model)
    vector.write(model, np.ones(9, dtype=np.float32))
    assert vector.frozen_state(model) == {}
    assert vector.frozen_digest(model) == before


def test_a_frozen_parameter_that_cannot_be_stored_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2).bfloat16().requires_grad_(False), nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"0\.weight is torch\.bfloat16"):
        vector.frozen_digest(model)


def test_frozen_state_is_a_copy() -> None:
    model = mixed()
    vector.frozen_state(model)["1.running_mean"][:] = 9
    assert model[1].running_mean.abs().max() == 0
