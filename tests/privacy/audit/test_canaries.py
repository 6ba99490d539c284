"""Canaries are a function of their secret; a commitment hides it and binds to it."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
import rfc8785
from scipy import stats

from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.errors import ConfigError

SECRET = bytes(range(32))
MADE = Canaries("client", "one-run", 100, SECRET)


def test_the_same_secret_makes_the_same_canaries() -> None:
    again = Canaries("client", "one-run", 100, SECRET)
    other = Canaries("client", "one-run", 100, bytes(32))
    assert np.array_equal(MADE.included(), again.included())
    assert np.array_equal(MADE.places(500), again.places(500))
    assert np.array_equal(MADE.directions(20), again.directions(20))
    assert not np.array_equal(MADE.included(), other.included())
    assert not np.array_equal(MADE.directions(20), MADE.directions(20, "unseen"))


def test_a_commitment_opens_to_its_canaries_alone() -> None:
    commitment = MADE.commitment()
    assert MADE.opens(commitment)
    others = [
        dataclasses.replace(MADE, secret=bytes(32)),
        dataclasses.replace(MADE, count=101),
        dataclasses.replace(MADE, unit="record"),
        dataclasses.replace(MADE, method="one-shot"),
    ]
    assert not any(other.opens(commitment) for other in others)
    assert not MADE.opens("é")


def test_the_commitment_is_as_documented() -> None:
    # The format is in ledgers: it may never change.
    parameters = rfc8785.dumps({"unit": "client", "method": "one-run", "count": 100})
    want = hashlib.sha256(b"tacit canary commitment v1" + SECRET + parameters).hexdigest()
    assert MADE.commitment() == want


def test_neither_text_nor_parameters_show_the_secret() -> None:
    assert SECRET.hex() not in repr(MADE)
    assert str(SECRET) not in repr(MADE)
    assert MADE.to_json() == {"unit": "client", "method": "one-run", "count": 100}


def test_coins_are_fair_and_only_thrown_with_one_run() -> None:
    many = Canaries("record", "one-run", 100_000, SECRET).included()
    assert stats.binomtest(int(many.sum()), many.size).pvalue > 1e-7
    assert Canaries("client", "one-shot", 9, SECRET).included().all()


def test_client_canaries_have_places_of_their_own() -> None:
    assert len(set(MADE.places(100).tolist())) == 100
    with pytest.raises(ConfigError, match="canaries=100"):
        MADE.places(99)


def test_record_canaries_are_spread_evenly() -> None:
    counts = np.bincount(Canaries("record", "one-run", 100, SECRET).places(30), minlength=30)
    assert counts.min() >= 3
    assert counts.max() <= 4


def test_directions_are_unit_and_separate_ones_orthogonal() -> None:
    assert np.linalg.norm(MADE.directions(50), axis=1) == pytest.approx(np.ones(100))
    apart = MADE.separate(120)
    assert apart @ apart.T == pytest.approx(np.eye(100), abs=1e-12)
    # No room for so many: random ones.
    assert np.array_equal(MADE.separate(99), MADE.directions(99))


def test_drawn_secrets_differ() -> None:
    one, two = (Canaries.drawn("client", "one-run", 4) for _ in range(2))
    assert one.secret != two.secret


@pytest.mark.parametrize(
    "changes", [{"unit": "site"}, {"method": "two"}, {"count": 1}, {"secret": b"short"}]
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(MADE, **changes)  # type: ignore[arg-type]
