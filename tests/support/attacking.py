"""What attacks on a session have in common."""

from __future__ import annotations

import dataclasses

from masking import Session

from tacit.privacy.secagg.messages import (
    Reveal,
    Survivors,
    agreement,
    pack_members,
    pack_signed,
)

SIZE = 8


def survivors_of(session: Session, clients: list[int]) -> Survivors:
    """What a coordinator may say, true or not."""
    return dataclasses.replace(session.survivors, members=pack_members(clients))


def confirmations(session: Session, survivors: list[int], signers: list[int]) -> bytes:
    """Signatures that colluding clients give on any set; keys are those of the directory."""
    statement = agreement(
        session.id, session.server.cohort.digest, session.members, pack_members(survivors)
    )
    return pack_signed([(k, session.directory.identity(k).sign(statement)) for k in signers])


def request(session: Session, holder: int, signed: bytes) -> Reveal:
    return dataclasses.replace(
        session.server.close_confirmed()[holder]
        if session.server._phase == "confirm"
        else session.requests[holder],
        confirmations=signed,
    )


def ends_well(session: Session) -> None:
    """The rest of the session as if nothing had been tried."""
    order = ["advertise", "share", "mask", "confirm", "reveal"]
    start = order.index(session.server._phase)
    for name in order[start:]:
        getattr(session, name)()
    session.finish()
