"""Sums of encoded vectors that the coordinator sees, against clients of any make."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp

from tacit.client import update
from tacit.configs import build, wire
from tacit.configs.planning import privacy_plan
from tacit.privacy.discrete.layers import SEED_BYTES
from tacit.privacy.discrete.rotation import public_seed
from tacit.privacy.messages import EncodedReply, EvaluateRequest, Message, TrainReply, TrainRequest
from tacit.privacy.noise import Randomness
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.privacy.secagg.words import Words
from tacit.privacy.units import Evaluation
from tacit.server.aggregate import Aggregate
from tacit.server.distributed import EncodedAggregation
from tacit.server.legs import Reply
from tacit.server.secure import SecureAggregation
from tacit.simulations.grid import InProcessGrid

DIMENSION = 20
SETTINGS = [
    "experiment=none",
    "clients=10",
    "cohort=10",
    "minimum_survivors=6",
    "secure.dropout=0.3",
    "evaluation=federated",
    "mechanism=skellam",
    "aggregation=plain",
    "privacy.client=adaptive",
    "privacy.client.count_noise=2",
    "privacy.client.noise_multiplier=0.5",
]
COHORT = list(range(10))


@functools.cache
def plan_of(*overrides: str) -> PrivacyPlan:
    return privacy_plan(build.compose([*SETTINGS, *overrides]), 5, DIMENSION)


@pytest.fixture(autouse=True)
def _inside_flower() -> None:
    """A message can only be made in a process that Flower knows: the grid's maker sees to it."""
    InProcessGrid(ClientApp(), 1, {})


class FakeLegs:
    """Answers at once, by a function of leg, request and client.

    Args:
        answer: makes the reply; None is no reply, a word is what went wrong.
    """

    def __init__(self, answer: Callable[[str, Any, int], Message | str | None]) -> None:
        self._answer, self.asked = answer, {}

    def exchange(self, kind: str, requests: Mapping[int, Message]) -> Iterator[Reply]:
        self.asked[kind] = list(requests)
        for client, request in requests.items():
            made = self._answer(kind, request, client)
            if made is None:
                yield Reply(client, None, "no reply")
            elif isinstance(made, str):
                yield Reply(client, None, "error", made)
            else:
                yield Reply(client, FlowerMessage(wire.pack(made), 1, "train"))


def request(plan: PrivacyPlan, kind: type = TrainRequest) -> Any:
    clip = 0.5 if kind is TrainRequest else 0.0
    parameters = np.zeros(DIMENSION, np.float32)
    return kind("r", 2, 1, plan.digest(), "frozen", clip, 0, b"", parameters)


def vector_of(client: int, size: int = DIMENSION) -> np.ndarray:
    values = np.random.default_rng(client).normal(size=size)
    return (values / np.linalg.norm(values) / 3).astype(np.float32)


def encoded(plan: PrivacyPlan, asked: Any, client: int) -> EncodedReply:
    """What an honest client sends."""
    training = isinstance(asked, TrainRequest)
    purpose, lattice = ("train", plan.updates) if training else ("evaluate", plan.counts)
    assert lattice is not None
    vote = np.array([0.5 if client % 2 else -0.5] if lattice.vote else [], np.float32)
    vector = (vector_of(client, lattice.dimension), vote)
    bound = asked.clip if training else Evaluation.SENSITIVITY
    noise = update.own_noise(plan, asked.clients, Randomness(0), purpose, asked.round, client)
    whole = update.encoded(
        vector,
        bound,
        lattice,
        public_seed(purpose, asked.round),
        (plan.mechanism, noise),
        bytes([client]) * 32,
    )
    words = Words(lattice.bits)
    place = (asked.run, asked.round, asked.attempt)
    return EncodedReply(*place, words.pack(words.from_integers(whole)), noise.chain)


def summed(
    plan: PrivacyPlan,
    spoil: Callable[[EncodedReply, int], Message | str | None] = lambda reply, client: reply,
    kind: type = TrainRequest,
    cohort: list[int] = COHORT,
) -> Aggregate:
    legs = FakeLegs(lambda _, asked, client: spoil(encoded(plan, asked, client), client))
    made = EncodedAggregation(plan)
    how = made.train if kind is TrainRequest else made.evaluate
    return how(request(plan, kind), cohort, legs)  # type: ignore[operator,arg-type]


def test_without_noise_it_is_the_sum_with_the_votes() -> None:
    plan = plan_of("privacy.client.noise_multiplier=0")
    made = summed(plan)
    assert (made.accepted, made.noised, dict(made.rejected)) == (10, True, {})
    assert made.votes == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(made.total, sum(vector_of(k) for k in COHORT), atol=1e-3)
    some = summed(plan, lambda reply, k: None if k in (0, 2) else reply)
    assert (some.accepted, dict(some.rejected)) == (8, {"no reply": 2})
    assert some.votes == pytest.approx(1.0, abs=1e-9)
    np.testing.assert_allclose(
        some.total, sum(vector_of(k) for k in COHORT if k not in (0, 2)), atol=1e-3
    )


def test_each_client_is_told_how_many_share_the_noise() -> None:
    told: set[tuple[int, bytes]] = set()

    def noting(_: str, asked: Any, client: int) -> Message:
        told.add((asked.clients, asked.members))
        return encoded(plan_of(), asked, client)

    plan = plan_of()
    EncodedAggregation(plan).train(request(plan), COHORT[:8], FakeLegs(noting))  # type: ignore[arg-type]
    assert told == {(8, b"")}


@pytest.mark.parametrize("law", ["skellam", "discrete_gaussian"])
@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_the_noise_is_the_plans_whoever_drops_out(law: str, dropped: int) -> None:
    """Over 40 rounds and 32 coordinates and a vote; bounds of six deviations."""
    plan = plan_of(f"mechanism={law}", "secure.bits=32")
    quiet = plan_of("privacy.client.noise_multiplier=0", "secure.bits=32")
    lattice = plan.updates
    assert lattice is not None
    assert quiet.updates is not None
    left = COHORT[dropped:]
    found = []
    for number in range(40):
        asked = request(plan)
        object.__setattr__(asked, "round", number + 1)
        legs = FakeLegs(lambda _, r, k: encoded(plan, r, k) if k in left else None)
        made = EncodedAggregation(plan).train(asked, COHORT, legs)  # type: ignore[arg-type]
        assert made.accepted == len(left)
        noise = made.total - sum(vector_of(k) for k in left)
        found.append(noise * lattice.norm / asked.clip)
    deviation = np.sqrt(np.mean(np.square(found)) / lattice.variance)
    # Rounding adds under a quarter for each client, which is little beside the noise.
    rounding = len(left) / 4 / lattice.variance
    size = 40 * DIMENSION
    assert abs(deviation - 1) < 6 / np.sqrt(2 * size) + rounding


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda r: EncodedReply(r.run, r.round + 1, 1, r.words, r.chain), "wrong round or shape"),
        (lambda r: EncodedReply(r.run, r.round, 0, r.words, r.chain), "wrong round or shape"),
        (lambda r: EncodedReply("x", r.round, 1, r.words, r.chain), "wrong round or shape"),
        (lambda r: EncodedReply(r.run, r.round, 1, r.words[:-1], r.chain), "wrong round or shape"),
        (lambda r: EncodedReply(r.run, r.round, 1, r.words * 2, r.chain), "wrong round or shape"),
        (lambda r: EncodedReply(r.run, r.round, 1, b"", r.chain), "wrong round or shape"),
        (lambda r: EncodedReply(r.run, r.round, 1, r.words, b""), "malformed"),
        (lambda r: EncodedReply(r.run, r.round, 1, r.words, r.chain + b"x"), "malformed"),
        (lambda r: TrainReply(r.run, r.round, 1, np.zeros(20), np.zeros(0)), "malformed"),
        (lambda r: "boom", "error"),
        (lambda r: None, "no reply"),
    ],
)
def test_a_bad_answer_is_counted_and_leaves_the_sum_of_the_others(
    kind: type, spoil: Callable[[EncodedReply], Any], why: str
) -> None:
    plan = plan_of()
    made = summed(plan, lambda reply, k: spoil(reply) if k == 3 else reply, kind)
    assert (made.accepted, dict(made.rejected)) == (9, {why: 1})
    gone = summed(plan, lambda reply, k: None if k == 3 else reply, kind)
    np.testing.assert_array_equal(made.total, gone.total)
    assert made.votes == gone.votes
    assert made.detail == ("boom" if why == "error" else "")


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
@pytest.mark.parametrize(("dropped", "released"), [(2, True), (3, False), (5, False), (10, False)])
def test_where_more_drop_out_than_planned_nothing_is_accepted(
    kind: type, dropped: int, released: bool
) -> None:
    """A dropout of 0.3 would leave seven of ten, but eight have to be there to unmask."""
    made = summed(plan_of(), lambda reply, k: None if k < dropped else reply, kind)
    assert (made.accepted > 0) == released
    assert np.any(made.total) == released


def test_fewer_than_the_minimum_are_no_cohort() -> None:
    made = summed(plan_of(), cohort=COHORT[:6])
    assert made.accepted == 6
    made = summed(plan_of(), lambda reply, k: None if k == 0 else reply, cohort=COHORT[:6])
    assert made.accepted == 0
    assert not np.any(made.total)


# Secure aggregation against clients that say nothing of use


@pytest.mark.parametrize("answer", [None, "boom"])
def test_a_session_that_nobody_enters_ends_with_its_first_leg(answer: str | None) -> None:
    plan = plan_of("aggregation=secure")
    legs = FakeLegs(lambda *_: answer)
    made = SecureAggregation(plan, LocalDirectory()).train(request(plan), COHORT, legs)  # type: ignore[arg-type]
    assert list(legs.asked) == ["query.advertise"]
    assert legs.asked["query.advertise"] == COHORT
    assert (made.accepted, made.noised) == (0, True)
    assert sum(made.rejected.values()) == 10
    assert not np.any(made.total)
    assert "0 clients advertised; 6 have to" in made.detail
    assert "boom" in made.detail or answer is None


def test_answers_of_another_kind_are_refused_one_by_one() -> None:
    plan = plan_of("aggregation=secure")
    legs = FakeLegs(lambda _, asked, k: EncodedReply("r", 2, 1, b"", bytes(SEED_BYTES)))
    made = SecureAggregation(plan, LocalDirectory()).train(request(plan), COHORT, legs)  # type: ignore[arg-type]
    assert dict(made.rejected) == {"refused": 10}
    assert "encoded-reply" in made.detail


def test_an_empty_cohort_releases_nothing() -> None:
    for how in ("plain", "secure"):
        plan = plan_of(f"aggregation={how}")
        made: Any = EncodedAggregation(plan)
        if how == "secure":
            made = SecureAggregation(plan, LocalDirectory())
        result = made.train(request(plan), [], FakeLegs(lambda *_: None))
        assert (result.accepted, dict(result.rejected)) == (0, {})
