"""Events: the allow-list, its JSON, and the arithmetic of Gaussians released together."""

from __future__ import annotations

import json
import math
from typing import Any

import dp_accounting
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.discrete.renyi import library_event
from tacit.privacy.errors import AccountingError, ConfigError
from tacit.privacy.events import (
    Event,
    SampledDiscreteGaussian,
    SampledGaussian,
    SampledSkellam,
    collapse,
    from_json,
)

multipliers = st.floats(1e-3, 1e3)
rates = st.floats(1e-9, 1.0)
counts = st.integers(1, 10**9)
sampled = st.builds(SampledGaussian, multipliers, rates, counts)


@given(sampled)
def test_an_event_survives_the_ledger_exactly(event: SampledGaussian) -> None:
    assert from_json(event.to_json()) == event


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.0000001),
        ("sampling_rate", -0.5),
        ("sampling_rate", math.nan),
        ("count", 0),
        ("count", -3),
    ],
)
def test_an_impossible_event_cannot_be_made_or_read(field: str, value: float) -> None:
    fields = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "count": 2, field: value}
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        SampledGaussian(**fields)
    with pytest.raises((ConfigError, AccountingError)):
        from_json({"type": "sampled_gaussian", **fields})


@pytest.mark.parametrize("count", [2.0, 2.5, math.nan, math.inf, True, False, "2", None, [2]])
def test_a_count_that_is_no_integer_cannot_be_made_or_read(count: Any) -> None:
    with pytest.raises(ConfigError, match="count="):
        SampledGaussian(1.0, 0.5, count)
    with pytest.raises(AccountingError, match="event count="):
        from_json({**SampledGaussian(1.0, 0.5, 2).to_json(), "count": count})


@pytest.mark.parametrize("field", ["noise_multiplier", "sampling_rate"])
@pytest.mark.parametrize("value", ["1.0", "nan", True, False, None, [1.0], {}])
def test_a_parameter_that_is_no_number_cannot_be_read(field: str, value: object) -> None:
    with pytest.raises(AccountingError, match=f"event {field}="):
        from_json({**SampledGaussian(1.0, 0.5, 2).to_json(), field: value})


def test_an_integral_parameter_is_the_float_it_was_before_canonical_json() -> None:
    # RFC 8785 writes 3.0 and 1.0 as 3 and 1.
    event = SampledGaussian(3.0, 1.0, 2)
    body = json.loads(rfc8785.dumps(event.to_json()))
    assert isinstance(body["noise_multiplier"], int)
    read = from_json(body)
    assert read == event
    assert {type(read.noise_multiplier), type(read.sampling_rate)} == {float}
    assert type(read.count) is int


@given(sampled)
def test_an_event_survives_canonical_json_exactly(event: SampledGaussian) -> None:
    assert from_json(json.loads(rfc8785.dumps(event.to_json()))) == event


@pytest.mark.parametrize("kind", ["laplace", "SampledGaussian", "", None, 1])
def test_an_event_off_the_allow_list_is_refused(kind: object) -> None:
    body = SampledGaussian(1.0, 0.5, 2).to_json()
    with pytest.raises(AccountingError, match="can't be accounted for"):
        from_json({**body, "type": kind})


def test_an_event_without_a_type_is_refused() -> None:
    body = SampledGaussian(1.0, 0.5, 2).to_json()
    del body["type"]
    with pytest.raises(AccountingError):
        from_json(body)


@pytest.mark.parametrize("field", ["noise_multiplier", "sampling_rate", "count"])
def test_a_missing_or_unknown_field_is_refused(field: str) -> None:
    body = SampledGaussian(1.0, 0.5, 2).to_json()
    # An unknown field may change what the event means, so it can't be skipped.
    with pytest.raises(AccountingError):
        from_json({**body, "sensitivity": 2.0})
    del body[field]
    with pytest.raises(AccountingError):
        from_json(body)


def test_reading_leaves_the_leaf_as_it_was() -> None:
    body = SampledGaussian(1.0, 0.5, 2).to_json()
    before = dict(body)
    from_json(body)
    assert body == before


@given(sampled, st.integers(1, 1000))
def test_times_multiplies_the_count_and_nothing_else(event: SampledGaussian, n: int) -> None:
    assert event.times(n).count == event.count * n
    assert event.times(n).once() == event.once()
    assert event.once().count == 1


@given(multipliers, rates)
def test_a_rate_of_one_is_a_plain_gaussian_for_the_library(z: float, q: float) -> None:
    event = library_event(SampledGaussian(z, q, 7))
    if q == 1.0:
        assert event == dp_accounting.GaussianDpEvent(z)
    else:
        assert event == dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))


@given(st.lists(multipliers, min_size=1, max_size=6))
def test_released_together_is_never_better_than_its_weakest_part(zs: list[float]) -> None:
    together = collapse(zs)
    assert together <= min(zs) * (1 + 1e-12)
    assert together >= min(zs) / math.sqrt(len(zs)) * (1 - 1e-12)


@given(multipliers, st.integers(1, 10**6))
def test_n_equal_gaussians_are_one_with_z_over_root_n(z: float, n: int) -> None:
    assert collapse([z / math.sqrt(n)]) == pytest.approx(z / math.sqrt(n), rel=1e-12)
    assert collapse([z] * min(n, 50)) == pytest.approx(z / math.sqrt(min(n, 50)), rel=1e-12)


@given(st.lists(multipliers, min_size=2, max_size=6), st.randoms())
def test_collapse_ignores_order_and_grouping(zs: list[float], random: object) -> None:
    shuffled = list(zs)
    random.shuffle(shuffled)
    assert collapse(shuffled) == pytest.approx(collapse(zs), rel=1e-12)
    assert collapse([collapse(zs[:1]), collapse(zs[1:])]) == pytest.approx(collapse(zs), rel=1e-12)


def test_collapse_is_the_epsilon_of_the_composition() -> None:
    # RDP of Gaussians adds up: alpha/2 * sum z^-2.
    rdp = dp_accounting.rdp.RdpAccountant([2, 8, 32])
    for z in (1.5, 4.0, 2.0):
        rdp.compose(dp_accounting.GaussianDpEvent(z))
    one = dp_accounting.rdp.RdpAccountant([2, 8, 32])
    one.compose(dp_accounting.GaussianDpEvent(collapse([1.5, 4.0, 2.0])))
    assert one.get_epsilon(1e-5) == pytest.approx(rdp.get_epsilon(1e-5), rel=1e-9)


# Integer noise

units = st.floats(1e-3, 1e12)
skellams = st.builds(SampledSkellam, units, units, units, rates, counts)
discrete_gaussians = st.builds(
    SampledDiscreteGaussian, units, units, st.floats(0, 1e3), rates, counts
)
on_the_lattice = st.one_of(skellams, discrete_gaussians)

SKELLAM = SampledSkellam(100.0, 5.0, 25.0, 0.5, 2)
DISCRETE = SampledDiscreteGaussian(100.0, 5.0, 0.0, 0.5, 2)
either = pytest.mark.parametrize("event", [SKELLAM, DISCRETE], ids=["skellam", "discrete"])


@given(st.one_of(sampled, on_the_lattice))
def test_every_kind_of_event_survives_canonical_json_exactly(event: Event) -> None:
    assert from_json(event.to_json()) == event
    read = from_json(json.loads(rfc8785.dumps(event.to_json())))
    assert read == event
    assert type(read) is type(event)
    assert all(type(v) is float for k, v in read.to_json().items() if k not in ("type", "count"))


def test_the_types_in_the_ledger_never_change() -> None:
    assert SKELLAM.to_json() == {
        "type": "sampled_skellam",
        "variance": 100.0,
        "l2": 5.0,
        "l1": 25.0,
        "sampling_rate": 0.5,
        "count": 2,
    }
    assert DISCRETE.to_json() == {
        "type": "sampled_discrete_gaussian",
        "variance": 100.0,
        "l2": 5.0,
        "closeness": 0.0,
        "sampling_rate": 0.5,
        "count": 2,
    }


@given(on_the_lattice, st.integers(1, 1000))
def test_times_multiplies_the_count_of_integer_noise_and_nothing_else(
    event: SampledSkellam | SampledDiscreteGaussian, n: int
) -> None:
    assert event.times(n).count == event.count * n
    assert event.times(n).once() == event.once()
    assert {**event.once().to_json(), "count": event.count} == event.to_json()
    assert event.once().count == 1


BAD = [0.0, -1.0, math.nan, math.inf]


@either
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("variance", v) for v in BAD),
        *(("l2", v) for v in BAD),
        *(("l1", v) for v in BAD),
        *(("closeness", v) for v in BAD[1:]),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.0000001),
        ("sampling_rate", math.nan),
        ("count", 0),
        ("count", -3),
    ],
)
def test_impossible_integer_noise_cannot_be_made_or_read(
    event: SampledSkellam | SampledDiscreteGaussian, field: str, value: float
) -> None:
    body = event.to_json()
    if field not in body:
        with pytest.raises(AccountingError, match="aren't those of a sampled_"):
            from_json({**body, field: value})
        return
    fields = {k: v for k, v in body.items() if k != "type"}
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        type(event)(**{**fields, field: value})
    with pytest.raises(ConfigError, match=f"{field}={value}"):
        from_json({**body, field: value})


@either
@pytest.mark.parametrize("value", ["1.0", "nan", True, False, None, [1.0], {}])
def test_a_parameter_of_integer_noise_that_is_no_number_cannot_be_read(
    event: SampledSkellam | SampledDiscreteGaussian, value: object
) -> None:
    body = event.to_json()
    for field in body:
        if field != "type":
            with pytest.raises(AccountingError, match=f"event {field}="):
                from_json({**body, field: value})


@either
def test_integer_noise_is_read_with_exactly_its_fields(
    event: SampledSkellam | SampledDiscreteGaussian,
) -> None:
    body = event.to_json()
    for field in body:
        with pytest.raises(AccountingError):
            from_json({k: v for k, v in body.items() if k != field})
    for extra in ("dimension", "noise_multiplier", "Variance"):
        with pytest.raises(AccountingError, match="aren't those of a sampled_"):
            from_json({**body, extra: 1.0})
    with pytest.raises(AccountingError):
        from_json({**body, "count": 2.0})
    with pytest.raises(AccountingError, match="out of range"):
        from_json({**body, "variance": 10**400})


def test_one_kind_is_never_read_as_another() -> None:
    bodies = [SKELLAM.to_json(), DISCRETE.to_json(), SampledGaussian(1.0, 0.5, 2).to_json()]
    for body in bodies:
        for other in bodies:
            if other is not body:
                with pytest.raises(AccountingError, match="aren't those of"):
                    from_json({**body, "type": other["type"]})
    for kind in ("skellam", "SampledSkellam", ["sampled_skellam"], {}, 1):
        with pytest.raises(AccountingError, match="can't be accounted for"):
            from_json({**bodies[0], "type": kind})
