"""What a device answers and what it refuses, leg by leg, without a network."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import devices
import numpy as np
import pytest
from devices import Coordinator, Fleet

from tacit.client.edge.declining import Declined
from tacit.client.edge.peers import Peers
from tacit.client.floors import Floors
from tacit.privacy.errors import DataError
from tacit.privacy.messages import (
    EncodedReply,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)
from tacit.privacy.secagg.keys import Identity
from tacit.privacy.secagg.messages import Masked, Survivors, pack_members

# Hardly any noise, so that a sum can be told from noise.
QUIET = ("privacy.client.noise_multiplier=0.001", "privacy.record.noise_multiplier=0.001")
PLAIN = ("mechanism=central", "aggregation=plain")


def declined(work: Callable[[], Any], reason: str, match: str | None = None) -> str:
    with pytest.raises(Declined, match=match) as caught:
        work()
    assert caught.value.reason == reason
    assert len(caught.value.message.encode()) <= 200
    return caught.value.message


# Answers


def test_a_session_of_devices_gives_the_sum_of_their_updates() -> None:
    fleet = Fleet(*QUIET)
    session = Coordinator(fleet)
    kept: list[Any] = []
    for k, member in fleet.members.items():
        trainer = member._is.trainer
        real = trainer.train

        def train(document: Any, parameters: Any, real: Any = real) -> Any:
            made = real(document, parameters)
            kept.append(made[0])
            return made

        trainer.train = train  # type: ignore[method-assign]
        assert k in fleet.identities
    total = session.run()
    clip = session.request.clip
    bounded = [u * min(1.0, clip / np.linalg.norm(u)) for u in kept]
    assert len(kept) == 6
    assert np.linalg.norm(total - np.sum(bounded, axis=0)) < 0.05 * clip


def test_a_federated_evaluation_of_devices_counts() -> None:
    fleet = Fleet(*QUIET, "evaluation=federated", "evaluation.noise_multiplier=0.001")
    total = Coordinator(fleet, "evaluate").run()
    how = fleet.document.plan.evaluation
    assert how is not None
    # Six devices of six records each.
    assert total[1] * how.cap == pytest.approx(36, abs=1.5)
    assert 0 <= total[0] * how.cap <= 37.5


def test_a_device_that_drops_out_is_missed_by_nobody() -> None:
    fleet = Fleet(*QUIET)
    session = Coordinator(fleet)
    for kind in session.legs:
        session.leg(kind, gone={2} if kind in ("train", "query.confirm", "query.reveal") else ())
    assert session.server.survivors == [0, 1, 3, 4, 5]
    assert np.isfinite(session.total()).all()


@pytest.mark.parametrize("kind", ["plain", "shares"])
def test_vectors_that_are_seen_are_bounded(kind: str) -> None:
    more = PLAIN if kind == "plain" else ("aggregation=plain",)
    fleet = Fleet(*QUIET, *more)
    request = fleet.request(clients=0 if kind == "plain" else 6)
    body = fleet.ask(0, "train", request.encode())
    if kind == "plain":
        update = TrainReply.decode(body).update
        assert 0 < np.linalg.norm(update) <= request.clip * (1 + 1e-6)
    else:
        assert len(EncodedReply.decode(body).words) > 0
    assert fleet.members[0]._is.ledger.spent().participations == 1


def test_counts_that_are_seen_bear_noise() -> None:
    fleet = Fleet(*PLAIN, "evaluation=federated")
    body = fleet.request(EvaluateRequest).encode()
    found = [EvaluateReply.decode(fleet.ask(k, "evaluate", body)).counts for k in range(6)]
    assert len({tuple(f) for f in found}) == 6


# The same answer again


def test_every_leg_is_answered_again_with_the_same_bytes(tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path)
    session = Coordinator(fleet)
    for kind in session.legs:
        session.leg(kind)
        for k in fleet.members:
            body, answer = session.said[kind][k]
            assert fleet.ask(k, kind, body) == answer
            # Also by a process that began since, and was given worse conditions.
            fleet.members[k] = fleet.member(k)
            assert fleet.ask(k, kind, body, eligible=False) == answer
    assert fleet.members[0]._is.ledger.spent().participations == 1


def test_a_plain_request_is_answered_again_and_no_other_of_its_round(tmp_path: Path) -> None:
    fleet = Fleet(*PLAIN, folder=tmp_path)
    request = fleet.request()
    answer = fleet.ask(0, "train", request.encode())
    fleet.members[0] = fleet.member(0)
    assert fleet.ask(0, "train", request.encode()) == answer
    for changes in ({"clients": 3}, {"parameters": request.parameters + 1}):
        other = dataclasses.replace(request, **changes).encode()
        declined(lambda other=other: fleet.ask(0, "train", other), "PROTOCOL")
    later = dataclasses.replace(request, round=2).encode()
    assert fleet.ask(0, "train", later) != answer
    declined(lambda: fleet.ask(0, "train", request.encode()), "PROTOCOL")


def test_a_vector_is_charged_before_it_is_made(tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path)
    session = Coordinator(fleet)
    for kind in ("query.advertise", "query.share"):
        session.leg(kind)
    member = fleet.members[0]

    def broken(*_: Any) -> Any:
        assert member._is.ledger.spent().participations == 1
        raise SystemExit("power cut")

    member._is.trainer.train = broken  # type: ignore[method-assign]
    bodies = session._bodies("train")
    with pytest.raises(SystemExit):
        fleet.ask(0, "train", bodies[0])
    # Nothing left: it may be made now, for the one charge.
    fleet.members[0] = fleet.member(0)
    assert Masked.decode(fleet.ask(0, "train", bodies[0])).client == 0
    assert fleet.members[0]._is.ledger.spent().participations == 1


# Refusals


def test_documents_of_others_are_refused() -> None:
    fleet = Fleet()
    body = Coordinator(fleet).invitation.encode()
    asked = fleet.members[0].answer
    for signed in (b"", fleet.signed[:-1], fleet.document.encode(Identity.generate())):
        declined(lambda s=signed: asked("query.advertise", body, s), "UNSIGNED")
    other = dataclasses.replace(fleet.document, population="others").encode(fleet.coordinator)
    declined(lambda: asked("query.advertise", body, other), "PLAN", "another population")
    other = dataclasses.replace(fleet.document, run="run-2").encode(fleet.coordinator)
    declined(lambda: asked("query.advertise", body, other), "PLAN", "another run")


def test_a_run_keeps_the_plan_that_was_first_seen(tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path)
    fleet.members[0].document(fleet.signed)
    plan = dataclasses.replace(fleet.document.plan, rounds=99)
    other = dataclasses.replace(fleet.document, plan=plan).encode(fleet.coordinator)
    declined(lambda: fleet.member(0).document(other), "PLAN", "another plan")


def test_requests_that_are_not_the_documents_are_refused() -> None:
    fleet = Fleet(*PLAIN)
    declined(lambda: fleet.ask(0, "train", b"TCT1"), "MALFORMED")
    declined(lambda: fleet.ask(0, "query", b""), "UNSUPPORTED", "'query'")
    for changes, reason in (
        ({"plan": "0" * 64}, "PLAN"),
        ({"frozen": "0" * 64}, "PLAN"),
        ({"clip": 1e6}, "PLAN"),
        ({"clip": float(np.float64("1e-300"))}, "PLAN"),
    ):
        body = fleet.request(**changes).encode()
        declined(lambda body=body: fleet.ask(0, "train", body), reason)
    short = fleet.request(parameters=np.zeros(3, dtype=np.float32)).encode()
    declined(lambda: fleet.ask(0, "train", short), "PLAN", "parameters=3")
    declined(lambda: fleet.ask(0, "evaluate", fleet.request(EvaluateRequest).encode()),
        "UNSUPPORTED", "no evaluation")  # fmt: skip
    assert fleet.members[0]._is.ledger.spent().participations == 0


@pytest.mark.parametrize(
    ("more", "floors", "reason"),
    [
        (PLAIN, Floors(secure=True), "FLOOR"),
        ((), Floors(survivors=5), "FLOOR"),
        ((), Floors(noise_multiplier=2.0), "FLOOR"),
        ((), Floors(record_noise_multiplier=2.0), "FLOOR"),
        ((), Floors(clip=0.01), "FLOOR"),
        (("seed=1",), Floors(seeded=False), "FLOOR"),
        ((), Floors(rounds=0), "ROUNDS"),
        ((), Floors(epsilon=0.1, delta=1e-5), "EPSILON"),
        ((), Floors(record_epsilon=0.1, record_delta=1e-5), "EPSILON"),
        (("privacy.record=none",), Floors(), "UNSUPPORTED"),
    ],
)
def test_the_owners_limits_are_kept(more: tuple[str, ...], floors: Floors, reason: str) -> None:
    fleet = Fleet(*more, floors=floors)
    if fleet.document.plan.aggregation == "plain":
        kind, body = "train", fleet.request().encode()
    else:
        kind, body = "query.advertise", Coordinator(fleet).invitation.encode()
    declined(lambda: fleet.ask(0, kind, body), reason)
    spent = fleet.members[0]._is.ledger.spent()
    assert spent.participations == 0
    assert sum(spent.refused.values()) == (reason in ("ROUNDS", "EPSILON"))


def test_a_device_takes_its_time_between_rounds(tmp_path: Path) -> None:
    fleet = Fleet(*PLAIN, folder=tmp_path, floors=Floors(separation=3600.0))
    fleet.ask(0, "train", fleet.request().encode())
    later = fleet.request(round=2).encode()
    declined(lambda: fleet.ask(0, "train", later), "SEPARATION")


def test_a_device_that_is_not_ready_begins_nothing_and_ends_what_it_began() -> None:
    fleet = Fleet()
    session = Coordinator(fleet)
    body = session.invitation.encode()
    text = declined(lambda: fleet.ask(0, "query.advertise", body, eligible=False), "INELIGIBLE")
    assert "charging" not in text
    for kind in session.legs:
        if kind == "train":
            asked = session._bodies
            bodies = asked(kind)
            declined(lambda b=bodies: fleet.ask(0, "train", b[0], eligible=False), "INELIGIBLE")
            session._bodies = lambda _, b=bodies: b  # type: ignore[method-assign]
            session.leg(kind)
            session._bodies = asked  # type: ignore[method-assign]
            continue
        begins = kind == "query.advertise"
        session.leg(
            kind,
            ask=lambda kind, bodies, begins=begins: {
                k: fleet.ask(k, kind, b, eligible=begins) for k, b in bodies.items()
            },
        )


def test_records_are_no_matter_of_the_coordinators() -> None:
    fleet = Fleet()
    body = Coordinator(fleet).invitation.encode()

    def unread() -> Any:
        raise DataError("/home/somebody/heart_rate.npz can't be read")

    fleet.members[0]._is.trainer._data = unread  # type: ignore[attr-defined]
    text = declined(lambda: fleet.ask(0, "query.advertise", body), "UNSUPPORTED")
    assert "heart" not in text
    fleet = Fleet()
    body = Coordinator(fleet).invitation.encode()
    fleet.vault(0).close()
    text = declined(lambda: fleet.ask(0, "query.advertise", body), "FAILED")
    assert text == "the device failed"


def test_peers_are_met_before_shares() -> None:
    fleet = Fleet()
    session = Coordinator(fleet)
    session.leg("query.advertise")
    stranger = fleet.member(
        0, peers=Peers(None, devices.POPULATION, fleet.authority.public), vault=fleet.vault(0)
    )
    bodies = session._bodies("query.share")
    assert stranger.unknown("query.share", bodies[0]) == [0, 1, 2, 3, 4, 5]
    assert stranger.unknown("query.confirm", b"") == []
    declined(lambda: stranger.unknown("query.share", b"x"), "MALFORMED")
    document = fleet.signed
    said = "isn't in the directory"
    declined(lambda: stranger.answer("query.share", bodies[0], document), "PROTOCOL", said)
    forged = dataclasses.replace(fleet.entry(3), signature=bytes(64))
    declined(lambda: stranger.meet([forged]), "PROTOCOL", "isn't the authority's word")
    stranger.meet(fleet.entry(k) for k in range(6))
    declined(lambda: stranger.meet([fleet.entry(3, Identity.generate())]), "PROTOCOL", "another")
    assert stranger.unknown("query.share", bodies[0]) == []
    assert stranger.answer("query.share", bodies[0], document)


def test_replays_and_second_survivors_are_refused(tmp_path: Path) -> None:
    fleet = Fleet(folder=tmp_path)
    session = Coordinator(fleet)
    for kind in session.legs[:4]:
        session.leg(kind)
    body, _ = session.said["query.confirm"][0]
    fewer = Survivors.decode(body)
    fewer = dataclasses.replace(fewer, members=pack_members([0, 1, 2, 3, 4]))
    fleet.members[0] = fleet.member(0)
    declined(lambda: fleet.ask(0, "query.confirm", fewer.encode()), "PROTOCOL", "second set")
    body, _ = session.said["query.advertise"][0]
    declined(lambda: fleet.ask(0, "query.advertise", body), "PROTOCOL")
    session.leg("query.reveal")
    assert session.total() is not None


@pytest.mark.parametrize("leg", range(5))
def test_altered_legs_are_answered_or_refused(leg: int) -> None:
    generator = random.Random(leg)
    fleet = Fleet()
    session = Coordinator(fleet)
    for kind in session.legs[:leg]:
        session.leg(kind)
    kind = session.legs[leg]
    body = session._bodies(kind)[0]
    reasons = set()
    for _ in range(300):
        changed = bytearray(body)
        for _ in range(generator.choice((1, 1, 3))):
            changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
        cut = generator.choice((len(changed), len(changed), generator.randrange(len(changed))))
        try:
            fleet.ask(0, kind, bytes(changed[:cut]))
        except Declined as no:
            reasons.add(no.reason)
    assert "MALFORMED" in reasons


def test_a_session_is_not_another_runs_with_a_weaker_plan() -> None:
    fleet = Fleet()
    session = Coordinator(fleet)
    for kind in session.legs[:3]:
        session.leg(kind)
    _, weaker, _ = devices.exported("secure.collusion=0", "secure.dropout=0.3", run="run-2")
    signed = weaker.encode(fleet.coordinator)
    body = session._bodies("query.confirm")[0]
    moved = dataclasses.replace(Survivors.decode(body), run="run-2").encode()
    asked = fleet.members[0].answer
    declined(lambda: asked("query.confirm", moved, signed), "PROTOCOL", "other rules")
    assert asked("query.confirm", body, fleet.signed)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_failure_after_the_charge_is_answered_with_noise(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(*PLAIN, "evaluation=federated", "privacy.record.noise_multiplier=2")
    body = fleet.request(TrainRequest if kind == "train" else EvaluateRequest).encode()

    def broken(*_: Any) -> Any:
        raise OSError("/home/me/records.npz: 7")

    for k in (0, 1):
        setattr(fleet.members[k]._is.trainer, "train" if kind == "train" else "counts", broken)
    answers = [fleet.ask(k, kind, body) for k in (0, 1)]
    of = TrainReply if kind == "train" else EvaluateReply
    held = [of.decode(a) for a in answers]
    found = [h.update if isinstance(h, TrainReply) else h.counts for h in held]
    assert not np.array_equal(*found), "noise"
    assert np.linalg.norm(found[0]) > 0
    assert fleet.members[0]._is.ledger.spent().participations == 1
    said = [getattr(r, "fields", {}) for r in caplog.records]
    assert {"cause": "OSError"} in said
    assert "records.npz" not in str(said)


def test_a_plan_of_too_many_steps_is_refused_uncharged() -> None:
    fleet = Fleet(*PLAIN)
    record = fleet.document.plan.record
    assert record is not None
    plan = dataclasses.replace(fleet.document.plan, record=dataclasses.replace(record, steps=10**6))
    about = dataclasses.replace(fleet.document, plan=plan)
    declined(lambda: fleet.members[0]._agree(about, plan.digest()), "UNSUPPORTED", "steps=1000000")


def test_the_log_has_no_path_and_no_number_of_a_client() -> None:
    def cause(work: Callable[[], Any]) -> str:
        with pytest.raises(Declined) as found:
            work()
        return found.value.cause

    fleet = Fleet()
    session = Coordinator(fleet)
    session.leg("query.advertise")
    roster = session._bodies("query.share")[0]
    # One whom nobody vouches for.
    fleet.members[0]._is.peers.__class__ = _Unknown
    assert cause(lambda: fleet.ask(0, "query.share", roster)) == "RoundError"
    fleet = Fleet(*PLAIN)

    def broken(*_: Any) -> Any:
        raise DataError("/home/me/records.npz can't be read")

    fleet.members[0]._is.trainer.fits = broken  # type: ignore[method-assign]
    assert cause(lambda: fleet.ask(0, "train", fleet.request().encode())) == "DataError"


class _Unknown(Peers):
    def public(self, client: int) -> bytes | None:
        return None
