"""The same request gets the same answer, whatever was killed in between, and no other gets one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import Killed
from masking import Session

from tacit.privacy.errors import RoundError
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import messages as m
from tacit.privacy.secagg.messages import pack_members

SIZE = 5
Ask = Callable[[str, bytes], bytes]


def play(session: Session, ask: Ask) -> None:
    """A session to its end, with client 0 asked through ``ask``; checks the sum."""
    server, others = session.server, [k for k in session.clients if k]
    server.advertised(m.Advertisement.decode(ask("advertise", session.invitation.encode())))
    for k in others:
        server.advertised(session.clients[k].advertise(session.invitation))
    session.roster = server.roster()
    server.shared(m.Shares.decode(ask("share", session.roster.encode())))
    for k in others:
        server.shared(session.clients[k].share(session.roster, SystemSource()))
    session.members = server.close_shares()
    server.masked(m.Masked.decode(ask("mask", session.members)))
    for k in others:
        server.masked(session.masked(k))
    session.survivors = server.close_masked()
    server.confirmed(m.Confirmation.decode(ask("confirm", session.survivors.encode())))
    for k in others:
        server.confirmed(session.clients[k].confirm(session.survivors))
    requests = server.close_confirmed()
    server.revealed(m.Revealed.decode(ask("reveal", requests[0].encode())))
    for k in others:
        server.revealed(session.clients[k].reveal(requests[k]))
    total, _, _ = server.total()
    assert (total == session.plain(others) + range(8)).all()


@pytest.mark.parametrize("at", ["", "computed", "written"])
def test_killed_at_every_leg_and_asked_again(tmp_path: Path, at: str) -> None:
    session = Session(SIZE)
    killed = Killed(session, tmp_path)
    given: list[bytes] = []

    def ask(say: str, data: bytes) -> bytes:
        first = killed.ask(say, data, at)
        assert (first == b"") == bool(at)
        again = [killed.ask(say, data) for _ in range(2)]
        # Where nothing was written the second process's answer is the first one that leaves.
        assert again[0] == again[1]
        assert first in (b"", again[0])
        given.append(again[0])
        return again[0]

    play(session, ask)
    assert len(set(given)) == 5


def test_two_vectors_never_leave_under_the_same_masks(tmp_path: Path) -> None:
    """A vector that was computed and not written is lost with its process: nobody saw it."""
    session = Session(SIZE)
    killed = Killed(session, tmp_path)
    left: list[bytes] = []

    def ask(say: str, data: bytes) -> bytes:
        if say == "mask":
            left.extend(killed.ask(say, data, at) for at in ("computed", "written", "written", ""))
        return killed.ask(say, data)

    play(session, ask)
    # After the first that was written there is one answer, and the file has it.
    assert left[:2] == [b"", b""]
    assert len({said for said in left if said}) == 1


ALTERED: dict[str, Callable[[Session, Any], Any]] = {
    "advertise": lambda s, r: dataclasses.replace(r, task="another"),
    "share": lambda s, r: dataclasses.replace(
        r, entries=m.pack_roster(m.unpack_roster(r.entries)[:-1])
    ),
    "confirm": lambda s, r: dataclasses.replace(r, members=pack_members(range(SIZE - 1))),
    "reveal": lambda s, r: dataclasses.replace(
        r, confirmations=m.pack_signed(m.unpack_signed(r.confirmations)[:-2])
    ),
}


@pytest.mark.parametrize("leg", ["advertise", "share", "mask", "confirm", "reveal"])
def test_another_request_than_the_first_is_refused(tmp_path: Path, leg: str) -> None:
    session = Session(SIZE)
    killed = Killed(session, tmp_path)

    def ask(say: str, data: bytes) -> bytes:
        said = killed.ask(say, data, "written" if say == leg else "")
        if say == leg:
            if say == "mask":
                other = pack_members(range(SIZE - 1))
            else:
                kind = {"advertise": m.Invitation, "share": m.Roster}.get(say)
                kind = kind or {"confirm": m.Survivors, "reveal": m.Reveal}[say]
                other = ALTERED[say](session, kind.decode(data)).encode()
            with pytest.raises(RoundError):
                killed.ask(say, other)
            said = killed.ask(say, data)
        return said

    play(session, ask)


def test_a_leg_that_is_over_gets_no_answer_any_more(tmp_path: Path) -> None:
    session = Session(SIZE)
    killed = Killed(session, tmp_path)
    asked: list[tuple[str, bytes]] = []

    def ask(say: str, data: bytes) -> bytes:
        said = killed.ask(say, data)
        for before, request in asked:
            # Confirmations and shares are the same whenever they are asked for.
            if before not in ("confirm", "reveal"):
                with pytest.raises(RoundError):
                    killed.ask(before, request)
        asked.append((say, data))
        return said

    play(session, ask)


def test_a_client_without_a_vault_on_disk_answers_once() -> None:
    session = Session(SIZE)
    client = session.clients[0]
    client.advertise(session.invitation)
    request = session.invitation.encode()
    assert client.answered(session.id, "query.advertise", request) is None
    with pytest.raises(RoundError, match="seen before"):
        client.advertise(session.invitation)
