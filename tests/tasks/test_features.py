"""`tacit.tasks.features`: each image's features come from that image alone, and are bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tacit.tasks import features

KINDS = {
    "gradients": (features.gradients, (64,), (128,), 2.0),
    "gabor": (features.gabor, (1, 28, 28), (16, 7, 7), 1.0),
}


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest,
) -> tuple[Callable[[Tensor], Tensor], tuple[int, ...], tuple[int, ...], float]:
    return KINDS[request.param]


def images(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def test_features_have_the_promised_shape_and_norm(kind: tuple) -> None:
    make, given, made, norm = kind
    got = make(images(7, given))
    assert got.shape == (7, *made)
    torch.testing.assert_close(
        got.flatten(1).norm(dim=1), torch.full((7,), norm), rtol=1e-4, atol=0
    )


def test_an_images_features_depend_on_no_other_image(kind: tuple) -> None:
    make, given, _, _ = kind
    x = images(7, given)
    alone = torch.cat([make(x[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(make(x), alone, rtol=1e-4, atol=1e-5)
    odd = x.clone()
    odd[3] = float("nan")
    rest = [0, 1, 2, 4, 5, 6]
    torch.testing.assert_close(make(odd)[rest], alone[rest], rtol=1e-4, atol=1e-5)


def test_no_images_have_no_features(kind: tuple) -> None:
    make, given, made, _ = kind
    assert make(images(0, given)).shape == (0, *made)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_have_finite_features(kind: tuple, value: float) -> None:
    make, given, _, norm = kind
    got = make(torch.full((2, *given), value))
    assert bool(torch.isfinite(got).all())
    assert float(got.flatten(1).norm(dim=1).max()) <= norm * (1 + 1e-4)


def test_gabor_in_pieces_is_gabor_in_one() -> None:
    x = images(2003, (1, 28, 28))
    whole = features.gabor(x)
    assert whole.shape == (2003, 16, 7, 7)
    torch.testing.assert_close(whole[1998:], features.gabor(x[1998:]), rtol=1e-4, atol=1e-5)


def test_kept_features_are_made_once_and_are_those_of_the_rows_asked_for() -> None:
    x, made = images(9, (1, 28, 28)), []

    def make(some: Tensor) -> Tensor:
        made.append(len(some))
        return features.gabor(some)

    kept, whole = features.Kept(x, make), features.gabor(x)
    made.clear()
    for rows, new in (([3, 1], [2]), ([1, 8, 3, 0], [2]), ([0, 8], []), ([], [])):
        torch.testing.assert_close(kept[torch.tensor(rows, dtype=torch.long)], whole[rows])
        assert made == new
        made.clear()


def test_what_is_done_to_kept_features_changes_only_a_copy() -> None:
    kept = features.Kept(images(4, (64,)), features.gradients)
    rows = torch.arange(4)
    before = kept[rows]
    kept[rows].zero_()
    assert torch.equal(kept[rows], before)


def test_a_brighter_image_has_the_same_gabor_features() -> None:
    # Normalised within the image, so contrast tells nothing.
    x = images(3, (1, 28, 28))
    assert float((features.gabor(x) - features.gabor(x / 2)).abs().max()) < 0.01


def test_gradients_see_where_an_edge_is() -> None:
    left, right = torch.zeros(2, 8, 8).unbind()
    left[:, :2], right[:, 6:] = 1.0, 1.0
    got = features.gradients(torch.stack([left, right]).flatten(1))
    assert float((got[0] - got[1]).norm()) > 1.0
