"""Dishonest coordinators against real clients; each attack is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacking import SIZE, confirmations, ends_well, request, survivors_of
from masking import RULES, Session, altered

from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import recovery, shamir
from tacit.privacy.secagg.cohort import Cohort, Rules
from tacit.privacy.secagg.keys import KeyPair, open_
from tacit.privacy.secagg.messages import (
    Entry,
    Reveal,
    Roster,
    Survivors,
    advertised,
    agreement,
    pack_members,
    pack_roster,
    pack_signed,
    unpack_roster,
)
from tacit.privacy.secagg.secrets import (
    TAG_BYTES,
    channel_key,
    channel_root,
)

# Two kinds of share of one peer: its self-mask and its mask key


def kinds_held(session: Session, answers: list[Any], peer: int) -> set[int]:
    """Which kinds of a peer's share the answers have, found by its dealer's commitments."""
    server, found = session.server, set()
    for answer in answers:
        for dropped in ([], [peer]):
            count = len(server.members)
            kinds = [server.cohort.revealed(i, len(dropped), count) for i in (False, True)]
            left = frozenset(server.members) - set(dropped)
            wanted = recovery.Wanted(left, (kinds[0], kinds[1]))
            try:
                pieces = recovery.Pieces.parse(
                    answer, server.cohort, wanted, server._peers(answer.client)
                )
            except MessageError:
                continue
            pieces.verify(server.cohort, wanted, server._shares)
            found |= set(wanted.of(peer)) if peer in pieces.of else set()
    return found


def both_kinds(session: Session, holder: int, peer: int, between: Callable[[], None]) -> list[Any]:
    """Asks one holder for a peer's self-mask, and then for its key as if it had dropped."""
    everybody = session.server.members
    others = [k for k in everybody if k != peer]
    client = session.clients[holder]
    got = [client.reveal(session.requests[holder])]
    between()
    client = session.clients[holder]
    for attempt in (
        lambda: client.confirm(survivors_of(session, others)),
        lambda: client.reveal(
            dataclasses.replace(
                session.requests[holder], confirmations=confirmations(session, others, others)
            )
        ),
        lambda: client.mask(session.id, session.members, session.words.zeros(8), session.words),
        lambda: client.share(session.roster, SystemSource()),
        lambda: client.advertise(session.invitation),
    ):
        with pytest.raises(RoundError):
            attempt()
    got.append(client.reveal(session.requests[holder]))
    return got


@pytest.mark.parametrize("again", ["no", "restarted", "reopened twice"])
def test_both_kinds_of_share_in_two_requests(tmp_path: Path, again: str) -> None:
    session = Session(SIZE, folder=tmp_path).until("reveal")

    def between() -> None:
        for _ in range(["no", "restarted", "reopened twice"].index(again)):
            session.restart(0)

    got = both_kinds(session, 0, 5, between)
    assert kinds_held(session, got, 5) == {1, 2}, "self-mask and a seed of noise, no key"
    assert got[0].shares == got[1].shares
    ends_well(session)


def test_both_kinds_of_share_in_one_request() -> None:
    # The set is signed, not the kinds: a set with the peer twice, or in both roles, isn't one.
    session = Session(SIZE).until("confirm")
    twice = np.array([0, 1, 2, 3, 4, 5, 5, 6, 7], dtype="<u4").tobytes()
    with pytest.raises(MessageError, match="ascending"):
        session.clients[0].confirm(dataclasses.replace(session.survivors, members=twice))
    session.confirm()
    honest = session.requests[0]
    size = shamir.packed_size(session.server.cohort.words) + TAG_BYTES
    peer = honest.ciphertexts[4 * size : 5 * size]
    with pytest.raises(MessageError, match="one for each neighbour"):
        session.clients[0].reveal(
            dataclasses.replace(honest, ciphertexts=honest.ciphertexts + peer)
        )
    # A peer's ciphertext in another's place opens for nobody: its key has its sender in it.
    moved = honest.ciphertexts[:size] + peer + honest.ciphertexts[2 * size :]
    answer = session.clients[0].reveal(dataclasses.replace(honest, ciphertexts=moved))
    assert kinds_held(session, [answer], 2) == set()
    ends_well(session)


def test_a_dropped_peer_gives_its_key_and_never_its_self_mask() -> None:
    session = Session(SIZE).until("mask")
    session.mask({5})
    session.confirm()
    got = [session.clients[0].reveal(session.requests[0])]
    others = session.server.members
    with pytest.raises(RoundError, match="second set"):
        session.clients[0].confirm(survivors_of(session, others))
    with pytest.raises(RoundError, match="didn't sign"):
        session.clients[0].reveal(
            dataclasses.replace(
                session.requests[0], confirmations=confirmations(session, others, others)
            )
        )
    got.append(session.clients[0].reveal(session.requests[0]))
    assert kinds_held(session, got, 5) == {0}
    ends_well(session)


@pytest.mark.parametrize("phase", ["share", "mask", "confirm", "reveal"])
def test_the_vault_reopened_in_the_middle_of_every_phase(tmp_path: Path, phase: str) -> None:
    session = Session(SIZE, folder=tmp_path).until(phase)
    for k in range(SIZE):
        session.restart(k)
    client = session.clients[0]
    refused: list[Callable[[], Any]] = [lambda: client.advertise(session.invitation)]
    if phase != "share":
        refused.append(lambda: client.share(session.roster, SystemSource()))
    if phase in ("confirm", "reveal"):
        refused.append(
            lambda: client.mask(session.id, session.members, session.words.zeros(8), session.words)
        )
    if phase == "reveal":
        refused.append(lambda: client.confirm(survivors_of(session, list(range(7)))))
    for ask in refused:
        with pytest.raises(RoundError):
            ask()
    ends_well(session)


def test_no_phase_may_be_skipped() -> None:
    session = Session(SIZE)
    unknown = Reveal("r", 1, 0, session.id, b"", b"")
    with pytest.raises(RoundError, match="isn't one that client 0 is in"):
        session.clients[0].reveal(unknown)
    session.advertise()
    for ask in (
        lambda: session.clients[0].join(session.id, pack_members(range(8))),
        lambda: session.clients[0].confirm(Survivors("r", 1, 0, session.id, b"")),
        lambda: session.clients[0].reveal(unknown),
    ):
        with pytest.raises(RoundError, match="advertised"):
            ask()
    session.share()
    for ask in (
        lambda: session.clients[0].confirm(Survivors("r", 1, 0, session.id, b"")),
        lambda: session.clients[0].reveal(unknown),
    ):
        with pytest.raises(RoundError, match="shared"):
            ask()
    session.mask()
    with pytest.raises(RoundError, match="masked"):
        session.clients[0].reveal(unknown)
    ends_well(session)


# Survivors


def test_two_sets_of_survivors_never_both_have_their_signatures() -> None:
    # One half hears of one set, the rest of another; the colluding client signs both.
    session = Session(SIZE).until("confirm")
    sets = [list(range(8)), list(range(7))]
    honest = [[0, 1, 2], [3, 4, 5, 6]]
    for said, hear in zip(sets, honest, strict=True):
        for k in hear:
            session.clients[k].confirm(survivors_of(session, said))
    quorum = RULES.quorum(SIZE)
    for said, hear in zip(sets, honest, strict=True):
        signers = sorted({*hear, 7} & set(said))
        assert len(signers) < quorum
        for k in hear:
            ask = Reveal("r", 1, 0, session.id, confirmations(session, said, signers), b"")
            with pytest.raises(RoundError, match=f"signed the survivors; {quorum} have to"):
                session.clients[k].reveal(ask)


def test_arithmetic_of_the_quorum() -> None:
    # Two sets need 2q signatures; a colluding client gives two, anybody else one.
    for size in range(4, 400):
        collusion = (size - 1) // 3
        assert 2 * Rules(size, size, 0.0, collusion).quorum(size) > size + collusion


@pytest.mark.parametrize("signers", [[], [0], list(range(5))])
def test_too_few_signatures(signers: list[int]) -> None:
    session = Session(SIZE).until("reveal")
    ask = request(session, 0, confirmations(session, list(range(8)), signers))
    with pytest.raises(RoundError, match=f"{len(signers)} clients signed the survivors; 6"):
        session.clients[0].reveal(ask)
    ends_well(session)


def test_signatures_that_do_not_count() -> None:
    session = Session(SIZE).until("mask")
    session.mask({7})
    session.confirm()
    honest = session.requests[0]
    alive = list(range(7))
    good = confirmations(session, alive, alive)
    statement = agreement(
        session.id, session.server.cohort.digest, session.members, pack_members(alive)
    )
    stranger = session.directory.identity(4242).sign(statement)
    dead = session.directory.identity(7).sign(statement)
    first = good[4:68]
    bad = {
        "a bit": altered(good, 10),
        "another's": pack_signed([(0, first), *[(k, first) for k in range(1, 6)]]),
        "of a stranger": good + pack_signed([(4242, stranger)]),
        "of who dropped": good + pack_signed([(7, dead)]),
        "of another set": confirmations(session, list(range(8)), alive),
        "one among good": good[:-64] + bytes(64),
    }
    for what, signed in bad.items():
        with pytest.raises(RoundError, match="didn't sign this set"):
            session.clients[0].reveal(dataclasses.replace(honest, confirmations=signed))
        assert what
    row = good[:68]
    for signed in (row * 6, good + row, good[68:] + row, good[:-1]):
        with pytest.raises(MessageError):
            session.clients[0].reveal(dataclasses.replace(honest, confirmations=signed))
    ends_well(session)


def test_survivors_that_a_client_refuses_to_sign() -> None:
    session = Session(SIZE).until("share")
    session.share({7})
    session.mask({6})
    client = session.clients[0]
    for said, match in (
        ([1, 2, 3, 4, 5], "this client isn't among"),
        ([0, 1, 2, 3, 4, 5, 7], "aren't members"),
        ([0, 1, 2, 3, 4, 5, 99], "aren't members"),
        ([0, 1, 2, 3, 4], "carry less noise"),
        ([0], "carry less noise"),
        ([], "isn't among"),
    ):
        with pytest.raises(RoundError, match=match):
            client.confirm(survivors_of(session, said))
    with pytest.raises(MessageError):
        client.confirm(dataclasses.replace(session.survivors, members=b"\x00" * 5))
    ends_well(session)


def test_fewer_survivors_than_the_minimum_are_not_signed() -> None:
    session = Session(SIZE, rules=Rules(7, 20, 0.3, 0)).until("confirm")
    with pytest.raises(RoundError, match="at least 7 are needed"):
        session.clients[0].confirm(survivors_of(session, list(range(6))))
    ends_well(session)


# The roster


def entries(session: Session) -> dict[int, Entry]:
    return {e.client: e for e in unpack_roster(session.roster.entries)}


def answer_to(session: Session, rows: list[Entry], client: int = 0) -> Any:
    made = Roster("r", 1, 0, session.id, pack_roster(rows))
    return session.clients[client].share(made, SystemSource())


def signed_entry(session: Session, client: int, channel: bytes, mask: bytes) -> Entry:
    statement = advertised(session.id, client, channel, mask)
    return Entry(client, channel, mask, session.directory.identity(client).sign(statement))


def test_a_substituted_key() -> None:
    session = Session(SIZE).until("share")
    known, pair = entries(session), KeyPair.generate()
    for field in ("channel", "mask"):
        rows = {**known, 3: dataclasses.replace(known[3], **{field: pair.public})}
        with pytest.raises(RoundError, match="keys of client 3 aren't signed"):
            answer_to(session, list(rows.values()))
    swapped = dataclasses.replace(known[3], channel=known[3].mask, mask=known[3].channel)
    with pytest.raises(RoundError, match="keys of client 3 aren't signed"):
        answer_to(session, list({**known, 3: swapped}.values()))
    other = signed_entry(session, 4, pair.public, KeyPair.generate().public)
    rows = {**known, 3: dataclasses.replace(other, client=3)}
    with pytest.raises(RoundError, match="keys of client 3 aren't signed"):
        answer_to(session, list(rows.values()))
    ends_well(session)


def test_own_keys_substituted_or_left_out() -> None:
    session = Session(SIZE).until("share")
    known, pair = entries(session), KeyPair.generate()
    without = [e for k, e in known.items() if k]
    mine = signed_entry(session, 0, pair.public, known[0].mask)
    for rows in (without, [mine, *without]):
        with pytest.raises(RoundError, match="doesn't have client 0 with its own keys"):
            answer_to(session, rows)
    ends_well(session)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "another model"},
        {"plan": "weaker"},
        {"run": "other"},
        {"purpose": "evaluate"},
        {"attempt": 1},
    ],
)
def test_adverts_for_another_session(changes: dict[str, Any]) -> None:
    # A coordinator that shows one client another model is in two sessions at once.
    session = Session(SIZE).until("share")
    other = Session(SIZE, **changes)
    other.directory = session.directory
    other.clients = {k: other.client(k) for k in range(SIZE)}
    strange = [c.advertise(other.invitation) for c in other.clients.values()]
    known = entries(session)
    for k in (3, 7):
        row = Entry(k, strange[k].channel, strange[k].mask, strange[k].signature)
        with pytest.raises(RoundError, match=f"keys of client {k} aren't signed by it for this"):
            answer_to(session, list({**known, k: row}.values()))
    assert other.id != session.id
    with pytest.raises(RoundError, match="isn't one that client 0 is in"):
        session.clients[0].share(
            dataclasses.replace(session.roster, session=other.id), SystemSource()
        )
    ends_well(session)


def test_a_stale_roster() -> None:
    first = Session(SIZE).until("share")
    later = Session(SIZE, earlier=first, round=2).until("share")
    known, stale = entries(later), entries(first)
    with pytest.raises(RoundError, match="own keys"):
        answer_to(later, list(stale.values()))
    with pytest.raises(RoundError, match="a stale roster") as caught:
        answer_to(later, list({**stale, 0: known[0]}.values()))
    assert "aren't signed by it for this session" in caught.value.message
    with pytest.raises(RoundError, match="isn't one that client 0 is in"):
        first.clients[0].share(first.roster, SystemSource())
    ends_well(later)


def test_sizes_of_a_roster() -> None:
    session = Session(SIZE, rules=Rules(6, 8, 0.25, 1)).until("share")
    rows = list(entries(session).values())
    pair = (KeyPair.generate().public, KeyPair.generate().public)
    more = [*rows, signed_entry(session, 8, *pair)]
    for wrong in (rows[:5], rows[:2], rows[:1], [], more):
        with pytest.raises(RoundError, match=f"a roster of {len(wrong)} clients isn't between"):
            answer_to(session, wrong)
    ends_well(session)


def test_a_roster_too_large_ends_the_session() -> None:
    session = Session(9, rules=Rules(6, 8, 0.25, 1))
    with pytest.raises(RoundError, match="a roster of 9 clients"):
        session.advertise()
    for close in (session.server.roster, session.server.close_shares, session.server.total):
        with pytest.raises(RoundError, match="in phase 'done'"):
            close()


def test_sybils() -> None:
    session = Session(SIZE).until("share")
    known = entries(session)
    rows = list(known.values())
    # An identity that nobody pinned.
    session.directory.public = (  # type: ignore[method-assign]
        lambda k: session.directory.identity(k).public if k < SIZE else None
    )
    pair = (KeyPair.generate().public, KeyPair.generate().public)
    with pytest.raises(RoundError, match="client 99, who isn't in the directory"):
        answer_to(session, [*rows, signed_entry(session, 99, *pair)])
    # One key twice, in any of the four places.
    for channel, mask in (
        (known[1].channel, pair[1]),
        (known[1].mask, pair[1]),
        (pair[0], known[1].mask),
        (pair[0], known[1].channel),
        (pair[0], pair[0]),
    ):
        rows = list({**known, 3: signed_entry(session, 3, channel, mask)}.values())
        with pytest.raises(RoundError, match="one key twice"):
            answer_to(session, rows)
    # One client twice, or out of order.
    data = session.roster.entries
    for wrong in (data[:132] + data, data[132:] + data[:132], data[:-1], data + b"\x00"):
        with pytest.raises(MessageError):
            session.clients[0].share(
                dataclasses.replace(session.roster, entries=wrong), SystemSource()
            )
    ends_well(session)


def test_a_key_of_low_order_costs_its_sender_its_place() -> None:
    session = Session(SIZE)
    made = {k: c.advertise(session.invitation) for k, c in session.clients.items()}
    weak = (bytes(32), bytes([1]) + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f"))
    for key in weak:
        for field in ("channel", "mask"):
            with pytest.raises(MessageError, match="low order"):
                session.server.advertised(session.signed(made[3], **{field: key}))
    session._taken("advertise", made, [3], session.server.advertised)
    session.roster = session.server.roster()
    ends_well(session)


def test_the_same_key_in_another_encoding_opens_nothing() -> None:
    # X25519 ignores the top bit, so a peer's key can be advertised again in other bytes; whose
    # message it is, is in the key all the same.
    session = Session(SIZE).until("share")
    known = entries(session)
    twin = known[5].channel[:31] + bytes([known[5].channel[31] ^ 0x80])
    rows = {**known, 3: signed_entry(session, 3, twin, known[3].mask)}
    answer = answer_to(session, list(rows.values()))
    size = shamir.packed_size(session.server.cohort.words) + TAG_BYTES
    # Client 0's peers are 1, 2, ...: sent to 3, and sent to 5.
    sent = [answer.ciphertexts[at * size : (at + 1) * size] for at in (2, 4)]
    assert sent[0] != sent[1]
    digest = Cohort(pack_roster(rows.values()), RULES).digest
    held = session.clients[5]._load(session.id)[1].channel_pair
    root = channel_root(held, known[0].channel, session.id, digest)
    share = open_(channel_key(root, 0, 5), sent[1], b"")
    assert len(share) == size - TAG_BYTES
    with pytest.raises(MessageError, match="doesn't open"):
        open_(channel_key(root, 0, 5), sent[0], b"")


# Replay


def test_a_session_is_entered_once_and_never_an_older_one() -> None:
    session = Session(SIZE, round=5, attempt=2).until("share")
    client = session.clients[0]
    for changes in (
        {},
        {"task": "another"},
        {"plan": "another"},
        {"attempt": 1},
        {"attempt": 0},
        {"round": 4},
        {"round": 4, "attempt": 9},
        {"round": 1},
    ):
        with pytest.raises(RoundError, match="was seen before"):
            client.advertise(dataclasses.replace(session.invitation, **changes))
    ends_well(session)
    for changes in ({"attempt": 3}, {"round": 6, "attempt": 0}):
        client.advertise(dataclasses.replace(session.invitation, **changes))
    with pytest.raises(RoundError, match="isn't one that client 0 is in"):
        client.reveal(session.requests[0])


def test_a_new_session_ends_the_old_one_in_every_phase() -> None:
    for phase in ("share", "mask", "confirm", "reveal"):
        session = Session(SIZE).until(phase)
        client = session.clients[0]
        client.advertise(dataclasses.replace(session.invitation, attempt=1))
        with pytest.raises(RoundError, match="isn't one that client 0 is in"):
            {
                "share": lambda: client.share(session.roster, SystemSource()),  # noqa: B023
                "mask": lambda: session.masked(0),  # noqa: B023
                "confirm": lambda: client.confirm(session.survivors),  # noqa: B023
                "reveal": lambda: client.reveal(session.requests[0]),  # noqa: B023
            }[phase]()


def test_answers_of_one_session_do_not_fit_another() -> None:
    first = Session(SIZE).until("reveal")
    first.reveal()
    later = Session(SIZE, earlier=first, round=2)
    order = ["advertise", "share", "mask", "confirm", "reveal"]
    takes = ["advertised", "shared", "masked", "confirmed", "revealed"]
    for name, take in zip(order, takes, strict=True):
        old = first.answers[name][0]
        place = {"round": 2, "session": later.id}
        for wrong in (old, dataclasses.replace(old, **place)):
            with pytest.raises(MessageError):
                getattr(later.server, take)(wrong)
        getattr(later, name)()
    later.finish()


# The threshold and the members


def test_the_threshold_is_the_clients_own() -> None:
    # No message has a threshold: t is floor(2k/3) + 1, so that t shares can't be had of both
    # kinds from k holders with a third of them colluding.
    names = {f.name for kind in (Roster, Survivors, Reveal) for f in dataclasses.fields(kind)}
    assert names == {"run", "round", "attempt", "session", "entries", "members",
                     "confirmations", "ciphertexts"}  # fmt: skip
    for size in range(4, 60):
        made = Rules(4, 100, 0.2, 1).choice(size)
        assert made.degree == size - 1
        assert 2 * made.threshold > made.degree + (size - 1) // 3


def test_members_that_a_client_refuses() -> None:
    session = Session(SIZE).until("mask")
    client = session.clients[0]
    for said, match in (
        ([0, 1, 2, 3], "members are too few"),
        ([0], "members are too few"),
        ([1, 2, 3, 4, 5, 6, 7], "this client isn't among them"),
        ([0, 1, 2, 3, 4, 5, 6, 99], "aren't this roster's"),
        (list(range(9)), "aren't this roster's"),
        ([], "this client isn't among them"),
    ):
        packed = pack_members(said)
        with pytest.raises(RoundError, match=match):
            client.join(session.id, packed)
        with pytest.raises(RoundError, match=match):
            client.mask(session.id, packed, session.words.zeros(8), session.words)
    for packed in (b"\x00", pack_members([0, 1, 2, 3, 4, 5])[::-1], session.members + bytes(4)):
        with pytest.raises(MessageError):
            client.join(session.id, packed)
    ends_well(session)


def test_a_lie_about_the_members_has_no_signatures() -> None:
    # One client is told of eight members, the others of seven: more members would make its
    # share of the noise smaller. Its masks cancel with nobody's, and nobody signs for it.
    session = Session(SIZE, noisy=True).until("share")
    session.share({7})
    lied = pack_members(range(8))
    told = session.clients[0].join(session.id, lied)
    assert told.clients == 8
    truth, session.members = session.members, lied
    lone = session.masked(0)
    session.members = truth
    made = {k: session.masked(k) for k in range(1, 7)}
    session._taken("mask", made, [], session.server.masked)
    # An honest coordinator leaves it out; this one doesn't.
    with pytest.raises(MessageError, match="told of other members"):
        session.server.masked(lone)
    session.words.add_into(session.server._sum, session.words.unpack(lone.words, 8))
    session.server._in_sum.add(0)
    session.survivors = session.server.close_masked()
    # Masks are bound to the members: what is added up isn't a sum, and its signature differs.
    said = session.clients[0].confirm(session.survivors)
    with pytest.raises(MessageError, match="signed another set"):
        session.server.confirmed(said)
    others = {k: session.clients[k].confirm(session.survivors) for k in range(1, 7)}
    session._taken("confirm", others, [], session.server.confirmed)
    session.requests = session.server.close_confirmed()
    with pytest.raises(RoundError, match="client 1 didn't sign this set"):
        session.clients[0].reveal(
            Reveal("r", 1, 0, session.id, session.requests[1].confirmations, b"")
        )
    session.reveal()
    # The coordinator goes on without it, and has noise: pairwise masks of client 0 stay on.
    total, first, seeds = session.server.total()
    surplus = session.shares(session.noise[1]).surplus(first, seeds)
    left = session.words.centred(session.words.from_integers(total - surplus)) - session.plain()
    assert np.abs(left).max() > 300, "words of 16 bits, all but uniform"


def test_half_told_of_other_members_neither_half_has_a_quorum() -> None:
    session = Session(SIZE).until("share")
    session.share({7})
    truth, lied = session.members, pack_members(range(8))
    for k in range(7):
        session.members = truth if k < 3 else lied
        session.masked(k)
    alive = list(range(7))
    said = Survivors("r", 1, 0, session.id, pack_members(alive))
    signed = {k: session.clients[k].confirm(said) for k in range(7)}
    assert len({s.agreed for s in signed.values()}) == 2
    for group in ([0, 1, 2], [3, 4, 5, 6]):
        rows = pack_signed([(k, signed[k].signature) for k in group])
        for k in group:
            with pytest.raises(RoundError, match=f"{len(group)} clients signed"):
                session.clients[k].reveal(Reveal("r", 1, 0, session.id, rows, b""))


# A session under the rules of another plan


@pytest.mark.parametrize("phase", ["share", "mask", "confirm", "reveal"])
def test_a_session_keeps_the_rules_under_which_it_was_entered(phase: str, tmp_path: Path) -> None:
    session = Session(SIZE, folder=tmp_path).until(phase)
    session.rules = dataclasses.replace(RULES, collusion=0)
    session.restart(0)
    lenient = session.clients[0]
    legs: dict[str, Callable[[], Any]] = {
        "share": lambda: lenient.share(session.roster, SystemSource()),
        "mask": lambda: lenient.join(session.id, session.members),
        "confirm": lambda: lenient.confirm(session.survivors),
        "reveal": lambda: lenient.reveal(session.requests[0]),
    }
    with pytest.raises(RoundError, match="other rules"):
        legs[phase]()
    session.rules = RULES
    session.restart(0)
    ends_well(session)
