"""No gate decides on noise: verdicts over seeded simulations, and what a gate may ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tacit.privacy.errors import ConfigError
from tacit.privacy.gates import Gate, Noise, breached, decide
from tacit.privacy.intervals import Counts

ALPHA = 0.05


def gate(**changes: Any) -> Gate:
    return Gate(**{"model": "m", "alias": "champion", "margin": 0.0, **changes})


def released(
    rng: np.random.Generator, windows: int, accuracy: float, noise: float, cohort: float = 60
) -> list[Counts]:
    """Counts of drawn cohorts, each client right with one chance."""
    found = []
    for _ in range(windows):
        size = rng.poisson(cohort)
        right = rng.binomial(10 * size, accuracy) / 10
        e = noise * rng.normal(size=3)
        loss = (1 - accuracy) * size
        found.append(Counts(right + e[0], size + e[1], loss + e[2]))
    return found


def verdicts(
    made: Gate, champion: float, challenger: float, noise: float, trials: int
) -> list[str]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(trials):
        counts = [released(rng, made.windows, a, noise) for a in (champion, challenger)]
        found.append(decide(made, *counts, Noise(noise, noise)).verdict)
    return found


@pytest.mark.parametrize("noise", [1.0, 10.0, 60.0])
def test_equal_models_are_neither_better_nor_worse(noise: float) -> None:
    found = verdicts(gate(), 0.8, 0.8, noise, 1000)
    assert found.count("pass") <= 1000 * ALPHA / 2
    assert found.count("fail") <= 1000 * ALPHA / 2
    if noise == 60.0:
        assert set(found) == {"undecided"}


def test_a_better_one_passes_and_a_worse_one_fails_if_the_noise_lets_it_be_seen() -> None:
    assert verdicts(gate(), 0.6, 0.9, 1.0, 50).count("pass") >= 48
    assert verdicts(gate(), 0.9, 0.6, 1.0, 50).count("fail") >= 48
    assert set(verdicts(gate(), 0.6, 0.9, 60.0, 50)) == {"undecided"}
    assert verdicts(gate(margin=0.1, windows=12), 0.8, 0.8, 1.0, 50).count("pass") >= 45


def test_a_version_at_its_floor_seldom_passes() -> None:
    """The floor alone: at most the gate's risk, which a first look uses half of."""
    found = verdicts(gate(margin=None, at_least=0.8), 0.8, 0.8, 4.0, 2000)
    assert found.count("pass") <= 2000 * ALPHA / 2


def counts(accuracy: float, loss: float = 0.1, windows: int = 5) -> list[Counts]:
    shaken = (0.0, 0.4, -0.4, 0.2, -0.2, 0.1)
    return [Counts(60 * accuracy + e, 60 + e, 60 * loss + e) for e in shaken[:windows]]


def test_every_condition_has_to_pass() -> None:
    both = gate(at_least=0.85, margin=0.02)
    quiet = Noise(0.1, 0.1)
    assert decide(both, counts(0.89), counts(0.9), quiet).verdict == "pass"
    assert decide(both, counts(0.70), counts(0.8), quiet).verdict == "fail"
    assert decide(both, counts(0.95), counts(0.9), quiet).verdict == "fail"
    made = decide(both, counts(0.89), counts(0.9), Noise(20.0, 20.0))
    assert made.verdict == "undecided"
    assert [c.name for c in made.conditions] == ["at_least", "margin"]


def test_less_loss_is_better() -> None:
    limit = gate(metric="loss", margin=None, at_most=0.5)
    quiet = Noise(0.1, 0.1, loss_cap=4.0)
    assert decide(limit, [], counts(0.9, 0.1), quiet).verdict == "pass"
    assert decide(limit, [], counts(0.9, 0.2), quiet).verdict == "fail"
    beside = gate(metric="loss", margin=0.15)
    assert decide(beside, counts(0.9, 0.1), counts(0.9, 0.05), quiet).verdict == "pass"
    assert decide(beside, counts(0.9, 0.1), counts(0.9, 0.101), quiet).verdict == "pass"
    assert decide(beside, counts(0.9, 0.1), counts(0.9, 0.2), quiet).verdict == "fail"


def test_a_gate_reads_what_it_fixed_beforehand() -> None:
    quiet = Noise(0.1, 0.1)
    few = decide(gate(), counts(0.5), counts(0.9, windows=4), quiet)
    assert few.verdict == "undecided"
    assert "4 of 5 of the challenger" in few.why
    # Later evaluations don't count, however good.
    late = [*counts(0.5), *counts(0.99)]
    assert decide(gate(), counts(0.8), late, quiet).verdict == "fail"
    assert decide(gate(), counts(0.8), late, quiet) == decide(gate(), counts(0.8), late[:5], quiet)


def test_each_further_look_asks_for_more() -> None:
    quiet = Noise(0.1, 0.1)
    found = [decide(gate(), counts(0.8), counts(0.9), quiet, look) for look in (1, 2, 9)]
    assert found[0].confidence < found[1].confidence < found[2].confidence
    # All the risks that there will ever be, two intervals each, are the gate's.
    spent = sum(2 * (1 - decide(gate(), [], [], quiet, n).confidence) for n in range(1, 400))
    assert ALPHA * 0.99 < spent <= ALPHA


def test_more_noise_decides_less() -> None:
    order = {"undecided": 0, "fail": 1, "pass": 1}
    for challenger in (0.5, 0.78, 0.8, 0.82, 0.95):
        found = [
            decide(gate(), counts(0.8), counts(challenger), Noise(n, n)).verdict
            for n in (0.01, 0.1, 1.0, 3.0, 10.0, 50.0)
        ]
        decided = [order[verdict] for verdict in found]
        assert decided == sorted(decided, reverse=True)
        assert found[-1] == "undecided"


def test_one_evaluation_is_beyond_the_floor_or_it_isnt() -> None:
    floor = gate(margin=None, at_least=0.8, fallback_rounds=2)
    assert breached(floor, Counts(30.0, 60.0, 1.0), 0.5, 1.0)
    assert not breached(floor, Counts(47.0, 60.0, 1.0), 2.0, 1.0)
    assert not breached(floor, Counts(30.0, 60.0, 1.0), 40.0, 1.0)
    assert not breached(gate(), Counts(0.0, 60.0, 1.0), 0.5, 1.0)
    ceiling = gate(metric="loss", margin=None, at_most=0.5)
    assert breached(ceiling, Counts(30.0, 60.0, 30.0), 0.5, 4.0)
    assert not breached(ceiling, Counts(30.0, 60.0, 3.0), 0.5, 4.0)


def test_a_gate_survives_its_leaf() -> None:
    for made in (gate(), gate(at_least=0.9, windows=7), gate(metric="loss", at_most=2.0)):
        assert Gate.from_json(made.to_json()) == made
        assert "evaluations at" in made.in_words()


@pytest.mark.parametrize(
    "changes",
    [
        {"margin": None},
        {"margin": -0.1},
        {"at_most": 0.5},
        {"metric": "loss", "at_least": 0.5},
        {"metric": "f1"},
        {"at_least": 1.5},
        {"confidence": 0.3},
        {"confidence": 1.0},
        {"windows": 1},
        {"fallback_rounds": 0},
        {"margin": float("nan")},
    ],
)
def test_what_is_no_gate_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        gate(**changes)


@pytest.mark.parametrize(
    "changes", [{"windows": "5"}, {"margin": "0"}, {"model": 1}, {"more": 1}, {"windows": True}]
)
def test_a_leaf_that_is_no_gate_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Gate.from_json(gate().to_json() | changes)
