"""Shares of noise: they add up to what was planned, whoever drops out."""

from __future__ import annotations

import hashlib
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tacit.privacy.discrete import layers
from tacit.privacy.discrete.layers import LAWS, SEED_BYTES, Shares, chain, tolerated
from tacit.privacy.errors import ConfigError

each = pytest.mark.parametrize("law", sorted(LAWS))


def key(*labels: object) -> bytes:
    return hashlib.sha256(repr(labels).encode()).digest()


def seeds(client: int, run: object = 0) -> tuple[bytes, bytes]:
    """A client's base key and its first layer's seed."""
    return key("base", run, client), key("chain", run, client)[:SEED_BYTES]


# Variances


def variances(total: float, clients: int, dropped: int) -> list[float]:
    """Of all shares in a sum that ``clients - dropped`` survived into."""
    shares = Shares("skellam", total, clients, dropped, 1)
    return [shares.layer_variance(k) for k in range(dropped + 1)] * (clients - dropped)


@given(clients=st.integers(1, 3000), total=st.floats(1e-3, 2.0**30), part=st.floats(0, 0.999))
@settings(max_examples=200, deadline=None)
def test_variances_add_up_whoever_drops(clients: int, total: float, part: float) -> None:
    dropped = int(part * clients)
    one = variances(total, clients, dropped)[: dropped + 1]
    assert math.fsum(one) * (clients - dropped) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("clients", [1, 2, 7, 40])
def test_variances_add_up_exactly(clients: int) -> None:
    # The module's formula in fractions: there is no remainder at all.
    for dropped in range(clients):
        whole = Fraction(1, clients) + sum(
            Fraction(1, (clients - k) * (clients - k + 1)) for k in range(1, dropped + 1)
        )
        assert (clients - dropped) * whole == 1
        found = variances(1.0, clients, dropped)
        assert len(found) == (clients - dropped) * (dropped + 1)
        assert math.fsum(found) == pytest.approx(1.0, rel=1e-14)


@given(clients=st.integers(2, 500), layer=st.integers(1, 499))
def test_a_layer_is_what_one_more_dropout_takes_away(clients: int, layer: int) -> None:
    layer = min(layer, clients - 1)
    shares = Shares("skellam", 5.0, clients, layer, 1)
    before = math.fsum(shares.layer_variance(k) for k in range(layer))
    after = before + shares.layer_variance(layer)
    assert before * (clients - layer + 1) == pytest.approx(5.0, rel=1e-12)
    assert after * (clients - layer) == pytest.approx(5.0, rel=1e-12)


@pytest.mark.parametrize(
    ("clients", "dropout", "due"), [(10, 0.25, 2), (4, 0.25, 1), (3, 0.3, 0), (100, 0.0, 0)]
)
def test_tolerated(clients: int, dropout: float, due: int) -> None:
    assert tolerated(clients, dropout) == due


# Keys


def test_the_chain_goes_one_way() -> None:
    seed = bytes(range(16))
    made = chain(seed, 5)
    assert made[0] == seed
    for before, after in itertools.pairwise(made):
        assert after == hashlib.sha256(b"tacit noise next\x00" + before).digest()[:16]
    # From any link the later ones follow, and there is nothing of the earlier in them.
    for k in range(5):
        assert chain(made[k], 5 - k) == made[k:]
        assert not set(chain(made[k], 30)) & set(made[:k])
    assert chain(seed, 0) == []


def test_every_draw_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bytes] = []
    real = Shares._draw

    def spy(self: Shares, k: int, own: bytes) -> np.ndarray:
        used.append(own)
        return real(self, k, own)

    monkeypatch.setattr(Shares, "_draw", spy)
    shares = Shares("skellam", 50.0, 12, 4, 3)
    revealed = set()
    for client in range(12):
        base, seed = seeds(client)
        shares.add(np.zeros(3, dtype=np.int64), base, seed)
        revealed |= set(chain(seed, 4))
        assert used[5 * client] == base
    assert len(set(used)) == len(used) == 12 * 5
    # What is drawn from is neither a seed nor its beginning: a seed says more than a key.
    assert not {k[:16] for k in used} & revealed
    assert all(len(k) == 32 for k in used)


# Sums


def play(
    law: str, variance: float, clients: int, count: int, dropped: int, length: int, run: object
) -> np.ndarray:
    """The noise in the sum once surplus layers are off; the first clients drop out."""
    shares = Shares(law, variance, clients, count, length)
    total = np.zeros(length, dtype=np.int64)
    ends = []
    for client in range(dropped, clients):
        base, seed = seeds(client, run)
        shares.add(total, base, seed)
        if dropped < count:
            ends.append(chain(seed, dropped + 1)[-1])
    return total - shares.surplus(dropped + 1, ends)


@each
@pytest.mark.parametrize(
    ("clients", "count", "dropped"),
    [(1, 0, 0), (6, 0, 0), (6, 2, 0), (6, 2, 1), (6, 2, 2), (30, 9, 0), (30, 9, 5), (30, 9, 9)],
)
def test_the_noise_left_has_the_planned_variance(
    law: str, clients: int, count: int, dropped: int
) -> None:
    # (m - 1) s^2 / v is within a chi-square's bounds; kurtosis widens them a little for
    # small shares, so at 1e-7 on fixed keys.
    variance, length = 9.5 * clients**2, 40_000
    noise = play(law, variance, clients, count, dropped, length, "planned")
    low, high = stats.chi2.ppf([1e-7, 1 - 1e-7], length)
    assert low < float((noise**2).sum()) / variance < high
    assert abs(noise.mean()) < 6 * math.sqrt(variance / length)
    spread = math.sqrt(variance)
    pvalue = stats.kstest(noise + dither(length), stats.norm(0.0, spread).cdf).pvalue
    assert pvalue > 1e-6, "by now it is all but normal"


def dither(length: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(-0.5, 0.5, length)


@each
def test_without_taking_off_there_is_more_and_without_layers_less(law: str) -> None:
    # Negative controls: the bounds above tell a missing layer and one too many.
    clients, count, dropped, length = 30, 9, 5, 40_000
    variance = 9.5 * clients**2
    low, high = stats.chi2.ppf([1e-7, 1 - 1e-7], length)
    shares = Shares(law, variance, clients, count, length)
    total, less = np.zeros(length, dtype=np.int64), np.zeros(length, dtype=np.int64)
    for client in range(dropped, clients):
        base, seed = seeds(client, "control")
        shares.add(total, base, seed)
        Shares(law, variance, clients, 0, length).add(less, base, seed)
    assert float((total**2).sum()) / variance > high
    assert float((less**2).sum()) / variance < low


@each
def test_surplus_is_exactly_what_was_added(law: str) -> None:
    # Bit for bit: the whole share minus its surplus is the base and the first layers.
    for dropped in range(4):
        shares = Shares(law, 4000.0, 10, 4, 100)
        base, seed = seeds(1)
        whole = np.arange(100, dtype=np.int64)
        shares.add(whole, base, seed)
        kept = np.arange(100) + shares._draw(0, base)
        for k, own in enumerate(chain(seed, dropped), 1):
            kept = kept + shares._draw(k, layers._hash(b"layer", own))
        end = chain(seed, dropped + 1)[-1]
        assert (whole - shares.surplus(dropped + 1, [end]) == kept).all()


def test_nothing_is_surplus_when_all_layers_were_needed() -> None:
    shares = Shares("skellam", 40.0, 10, 3, 5)
    assert not shares.surplus(4, []).any()
    assert not shares.surplus(4, [bytes(16)]).any()


def test_without_variance_nothing_is_added() -> None:
    shares = Shares("skellam", 0.0, 10, 3, 5)
    vector = np.arange(5, dtype=np.int64)
    shares.add(vector, *seeds(0))
    assert (vector == np.arange(5)).all()
    assert not shares.surplus(1, [bytes(16)]).any()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (("gaussian", 1.0, 4, 1, 5), "mechanism=gaussian"),
        (("skellam", -1.0, 4, 1, 5), "variance=-1"),
        (("skellam", math.nan, 4, 1, 5), "variance=nan"),
        (("skellam", 1.0, 0, 0, 5), "clients=0"),
        (("skellam", 1.0, 4, 4, 5), "layers=4 must be below clients=4"),
        (("skellam", 1.0, 4, -1, 5), "layers=-1"),
        (("skellam", 1.0, 4, 1, 0), "length=0"),
    ],
)
def test_shares_that_are_refused(values: tuple[str, float, int, int, int], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Shares(*values)
