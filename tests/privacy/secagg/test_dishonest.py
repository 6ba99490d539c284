"""Dishonest and colluding clients against the real server and clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from attacking import SIZE, ends_well
from masking import Session, altered, forged

from tacit.privacy.errors import ConfigError, MessageError, RoundError, TacitError
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import shamir
from tacit.privacy.secagg.cohort import Rules
from tacit.privacy.secagg.keys import KeyPair, open_
from tacit.privacy.secagg.messages import (
    pack_members,
)
from tacit.privacy.secagg.secrets import (
    TAG_BYTES,
    channel_key,
    channel_root,
    pair_mask,
    self_mask,
)
from tacit.privacy.secagg.words import Words

# Dishonest clients


def test_a_tampered_ciphertext_costs_one_share() -> None:
    session = Session(SIZE).until("share")
    made = {k: c.share(session.roster, SystemSource()) for k, c in session.clients.items()}
    made[3] = session.signed(made[3], ciphertexts=altered(made[3].ciphertexts, 40))
    session._taken("share", made, [], session.server.shared)
    session.members = session.server.close_shares()
    session.mask()
    session.confirm()
    session.reveal()
    # Client 0, the first of 3's neighbours, has nothing of it to reveal; the others do.
    holders = [h for h, p in session.server._pieces.items() if 3 in p.of]
    assert holders == [1, 2, 4, 5, 6, 7]
    session.finish()


def test_a_server_that_tampers_on_the_way_learns_nothing_more() -> None:
    session = Session(SIZE).until("reveal")
    size = shamir.packed_size(session.server.cohort.words) + TAG_BYTES
    ask = session.requests[0]
    answer = session.clients[0].reveal(
        dataclasses.replace(ask, ciphertexts=altered(ask.ciphertexts, size))
    )
    piece = len(answer.shares) // 7
    assert [answer.shares[i * piece] for i in range(7)] == [1, 0, 1, 1, 1, 1, 1]
    assert answer.shares[piece : 2 * piece] == bytes(piece)
    assert session.server.revealed(answer) == 0
    session.reveal({0})
    session.finish()


def test_a_holder_that_reveals_other_shares_is_counted_and_left_out() -> None:
    session = Session(SIZE).until("reveal")
    answers = {k: session.clients[k].reveal(r) for k, r in session.requests.items()}
    piece = len(answers[2].shares) // 7
    wrong = bytearray(answers[2].shares)
    for dealer in (0, 3):
        wrong[dealer * piece + 5] ^= 1
    answers[2] = session.signed(answers[2], shares=bytes(wrong))
    for k, answer in answers.items():
        assert session.server.revealed(answer) == (2 if k == 2 else 0)
    session.finish()


def test_two_shares_of_two_dealers_swapped_are_noticed() -> None:
    session = Session(SIZE).until("reveal")
    answer = session.clients[2].reveal(session.requests[2])
    piece = len(answer.shares) // 7
    parts = [answer.shares[i * piece : (i + 1) * piece] for i in range(7)]
    parts[0], parts[1] = parts[1], parts[0]
    assert session.server.revealed(session.signed(answer, shares=b"".join(parts))) == 2
    session.reveal({2})
    session.finish()


def test_another_holders_shares_are_noticed() -> None:
    session = Session(SIZE).until("reveal")
    made = {k: session.clients[k].reveal(session.requests[k]) for k in (6, 7)}
    stolen = session.signed(made[6], shares=made[7].shares)
    assert session.server.revealed(stolen) == 7
    session.reveal({6})
    session.finish()


def dealt(session: Session, dealer: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dealer whose shares of one piece are of two polynomials, committed to as they are."""
    honest = shamir.share

    def crooked(secrets: Any, threshold: int, points: Any, key: bytes) -> Any:
        made = honest(secrets, threshold, points, key)
        at = session.server.cohort.pieces[piece]
        other = np.roll(secrets, 3)
        made[::2, at] = honest(other, threshold, points, key[::-1])[::2, at]
        return made

    made = {}
    for k, c in session.clients.items():
        monkeypatch.setattr(shamir, "share", crooked if k == dealer else honest)
        made[k] = c.share(session.roster, SystemSource())
    session._taken("share", made, [], session.server.shared)
    session.members = session.server.close_shares()


def test_a_dealer_of_an_inconsistent_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(SIZE).until("share")
    dealt(session, 3, 0, monkeypatch)
    session.mask({3})
    session.confirm()
    session.reveal()
    before = session.server._sum.copy()
    with pytest.raises(RoundError, match="client 3 dealt shares that don't belong together"):
        session.server.total()
    assert (session.server._sum == before).all()


def test_a_key_dealt_badly_matters_only_if_its_dealer_drops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session(SIZE).until("share")
    dealt(session, 3, 0, monkeypatch)
    ends_well(session)


def test_a_self_mask_dealt_badly_leaves_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing tells a false self-mask from a true one: such a client spoils the sum, as it
    # could by sending a vector of rubbish. It learns nothing and shows nothing.
    session = Session(SIZE, length=64).until("share")
    dealt(session, 3, 1, monkeypatch)
    session.mask()
    session.confirm()
    session.reveal()
    total, _, _ = session.server.total()
    assert np.abs(total - session.plain()).max() > 1000


def test_a_word_outside_the_range_of_secrets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(SIZE).until("share")
    honest = shamir.share

    def beyond(secrets: Any, threshold: int, points: Any, key: bytes) -> Any:
        made = honest(secrets, threshold, points, key).astype(np.int64)
        at = session.server.cohort.pieces[1].start
        # The constant of the polynomial becomes 65536, which no secret has.
        return ((made + (np.arange(made.shape[1]) == at) * (65536 - int(secrets[at])))
                % shamir.PRIME).astype(np.uint32)  # fmt: skip

    made = {}
    for k, c in session.clients.items():
        monkeypatch.setattr(shamir, "share", beyond if k == 3 else honest)
        made[k] = c.share(session.roster, SystemSource())
    session._taken("share", made, [], session.server.shared)
    session.members = session.server.close_shares()
    session.mask()
    session.confirm()
    session.reveal()
    with pytest.raises(RoundError, match="client 3 dealt shares"):
        session.server.total()


# What a server refuses, at each of its doors


DOORS = [
    ("advertise", "advertised"),
    ("share", "shared"),
    ("mask", "masked"),
    ("confirm", "confirmed"),
    ("reveal", "revealed"),
]


def answers_at(session: Session, phase: str) -> dict[int, Any]:
    """Everybody's answers in a phase, which the server hasn't seen."""
    asks: dict[str, Callable[[int], Any]] = {
        "advertise": lambda k: session.clients[k].advertise(session.invitation),
        "share": lambda k: session.clients[k].share(session.roster, SystemSource()),
        "mask": session.masked,
        "confirm": lambda k: session.clients[k].confirm(session.survivors),
        "reveal": lambda k: session.clients[k].reveal(session.requests[k]),
    }
    return {k: asks[phase](k) for k in range(SIZE)}


def resume(session: Session, phase: str) -> None:
    """Closes a phase whose answers are in, and runs the rest."""
    server = session.server
    if phase == "advertise":
        session.roster = server.roster()
        session.share()
    if phase == "share":
        session.members = server.close_shares()
    if phase in ("advertise", "share"):
        session.mask()
    if phase == "mask":
        session.survivors = server.close_masked()
    if phase in ("advertise", "share", "mask"):
        session.confirm()
    if phase == "confirm":
        session.requests = server.close_confirmed()
    if phase != "reveal":
        session.reveal()
    session.finish()


@pytest.mark.parametrize("bits", [16, 20, 32])
@pytest.mark.parametrize(("phase", "door"), DOORS)
def test_what_is_refused_at_each_door(phase: str, door: str, bits: int) -> None:
    session = Session(SIZE, bits=bits, length=7).until(phase)
    made = answers_at(session, phase)
    take = getattr(session.server, door)
    good = made[2]
    stranger = {"client": 99}
    wrong = [
        forged(good),
        dataclasses.replace(good, signature=b""),
        dataclasses.replace(good, signature=bytes(63)),
        dataclasses.replace(good, client=3),
        session.signed(good, **stranger),
        session.signed(good, run="other"),
        session.signed(good, round=2),
        session.signed(good, attempt=1),
        session.signed(good, session="0" * 64),
    ]
    bulk = {
        "advertise": ["channel", "mask"],
        "share": ["ciphertexts", "commitments"],
        "mask": ["words"],
        "confirm": ["agreed"],
        "reveal": ["shares"],
    }[phase]
    for field in bulk:
        data = getattr(good, field)
        lengths = (b"", data[:-1], data + b"\x00", data[1:], data + data)
        wrong += [session.signed(good, **{field: other}) for other in lengths]
        # Changed without a new signature.
        wrong.append(dataclasses.replace(good, **{field: altered(data)}))
    held = session.server._sum.copy()
    for answer in wrong:
        with pytest.raises(MessageError):
            take(answer)
    assert (session.server._sum == held).all()
    for answer in made.values():
        assert take(answer) in (None, 0)
    held = session.server._sum.copy()
    for answer in made.values():
        with pytest.raises(MessageError, match="has no place here, or has answered"):
            take(answer)
    assert (session.server._sum == held).all()
    resume(session, phase)
    for _, other in DOORS:
        with pytest.raises(RoundError, match="in phase 'done'"):
            getattr(session.server, other)(good)


@pytest.mark.parametrize("at", range(5))
def test_answers_out_of_their_phase(at: int) -> None:
    session = Session(SIZE)
    source = Session(SIZE, earlier=session)
    source.vaults = Session(SIZE).vaults
    source.clients = {k: source.client(k) for k in range(SIZE)}
    source.until("reveal").reveal()
    session.until(DOORS[at][0])
    for other, (phase, door) in enumerate(DOORS):
        if other != at:
            with pytest.raises(RoundError, match="came in phase"):
                getattr(session.server, door)(source.answers[phase][0])
    closers = ["roster", "close_shares", "close_masked", "close_confirmed", "total"]
    for other, close in enumerate(closers):
        if other != at:
            with pytest.raises(RoundError, match="the session is in phase"):
                getattr(session.server, close)()
    ends_well(session)


def test_a_vector_that_comes_late_is_refused() -> None:
    session = Session(SIZE).until("mask")
    session.mask({3})
    late = session.answers["mask"][3]
    with pytest.raises(RoundError, match="came in phase 'confirm'"):
        session.server.masked(late)
    session.confirm()
    with pytest.raises(RoundError, match="came in phase 'reveal'"):
        session.server.masked(late)
    session.reveal()
    session.finish()


def test_padding_outside_the_range_of_20_bits_is_refused() -> None:
    session = Session(SIZE, bits=20, length=7).until("mask")
    made = answers_at(session, "mask")
    data = made[2].words
    for bit in (0x10, 0x80):
        # Seven words: the last five bytes are one of them, and 20 bits that should be zero.
        wrong = data[:-1] + bytes([data[-1] | bit])
        with pytest.raises(MessageError, match="padding"):
            session.server.masked(session.signed(made[2], words=wrong))
    for answer in made.values():
        session.server.masked(answer)
    resume(session, "mask")


def test_words_of_another_kind_are_refused() -> None:
    session = Session(SIZE, bits=16).until("mask")
    good = session.masked(0)
    other = Words(32).pack(Words(32).zeros(8))
    with pytest.raises(MessageError, match="8 words of 16 bits"):
        session.server.masked(session.signed(good, words=other))


def test_who_was_not_asked_or_did_not_share_has_no_place() -> None:
    session = Session(SIZE)
    session.server._asked = set(range(7))
    made = answers_at(session, "advertise")
    with pytest.raises(MessageError, match="client 7 has no place"):
        session.server.advertised(made[7])
    session._taken("advertise", made, [7], session.server.advertised)
    session.roster = session.server.roster()
    session.share({6})
    with pytest.raises(MessageError, match="client 6 has no place"):
        session.server.masked(session.signed(session.masked(5), client=6))
    session.clients.pop(7)
    assert session.server.members == list(range(6))


def test_an_advertised_key_that_is_taken() -> None:
    session = Session(SIZE)
    made = answers_at(session, "advertise")
    session.server.advertised(made[0])
    for field, key in (
        ("channel", made[0].channel),
        ("channel", made[0].mask),
        ("mask", made[0].channel),
        ("mask", made[0].mask),
        ("mask", made[1].channel),
    ):
        with pytest.raises(MessageError, match="a key that is taken"):
            session.server.advertised(session.signed(made[1], **{field: key}))
    session._taken("advertise", made, [0], session.server.advertised)
    resume(session, "advertise")


# What colluding clients know


def test_colluders_and_the_server_lack_one_share_for_each_kind() -> None:
    # Two of eight collude: of a survivor's key they hold two shares, of five that are needed;
    # the honest reveal none.
    rules = Rules(7, 20, 0.0, 2)
    session = Session(SIZE, rules=rules).until("reveal")
    session.reveal()
    threshold = session.server.cohort.threshold
    assert threshold == 5
    size = shamir.packed_size(session.server.cohort.words) + TAG_BYTES
    rows, points = [], []
    for colluder in (6, 7):
        secrets = session.clients[colluder]._load(session.id)[1]
        roots = bytes.fromhex(secrets.roots)
        key = channel_key(roots[:32], 0, colluder)
        sealed = session.requests[colluder].ciphertexts[:size]
        rows.append(shamir.unpack_shares(open_(key, sealed, b""), session.server.cohort.words))
        points.append(session.server.cohort.point(colluder))
    assert len(rows) == 2
    assert len(rows) < threshold
    honest = [p.of[0] for p in session.server._pieces.values() if 0 in p.of]
    assert all(0 not in pieces for pieces in honest), "no honest client gave a share of the key"
    session.finish()


def test_keys_are_bound_to_their_place() -> None:
    # One secret, every other thing that a key is for changed: never the same key.
    pair, other = KeyPair.generate(), KeyPair.generate()
    masked = {
        pair_mask(pair, other.public, roster, members, clients)
        for roster in (b"roster", b"another")
        for members in (pack_members([1, 2]), pack_members([1, 2, 3]))
        for clients in ((1, 2), (1, 3), (2, 3), (12, 3))
    }
    assert len(masked) == 16
    assert pair_mask(pair, other.public, b"r", b"m", (1, 2)) == pair_mask(
        other, pair.public, b"r", b"m", (2, 1)
    )
    roots = {
        channel_root(pair, other.public, session, roster)
        for session in ("s", "t")
        for roster in (b"roster", b"another")
    }
    assert len(roots) == 4
    root = roots.pop()
    sealing = {channel_key(root, *clients) for clients in ((1, 2), (2, 1), (1, 22), (12, 2))}
    assert len(sealing) == 4
    own = {self_mask(seed, session) for seed in (bytes(32), root) for session in ("s", "t")}
    assert len(own) == 4
    assert len(masked | roots | sealing | own) == 16 + 3 + 4 + 4


def test_rules_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="collusion"):
        Rules(6, 10, 0.1, 2)
    assert issubclass(ConfigError, TacitError)
