"""Keys: the RFCs' vectors, and what is refused."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.secagg import keys
from tacit.privacy.secagg.keys import Identity, KeyPair, agree, derive, open_, seal, verify

# RFC 8032, section 7.1: seed, public key, message, signature.
ED25519 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
# RFC 7748, section 6.1.
SCALARS = (
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
)
PUBLICS = (
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
)
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
# The points of order 1, 2, 4 and 8 on the curve and its twist, and encodings beyond the prime.
LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]
KEY = bytes(range(32))


def reference_hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, section 2."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    out = block = b""
    for i in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


# Signatures


@pytest.mark.parametrize(("seed", "public", "message", "signature"), ED25519)
def test_vectors_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    identity = Identity.from_bytes(bytes.fromhex(seed))
    assert identity.public.hex() == public
    assert identity.private.hex() == seed
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    assert verify(identity.public, bytes.fromhex(signature), bytes.fromhex(message))


def test_a_signature_is_of_one_statement_by_one_identity() -> None:
    mine, other = Identity.from_bytes(KEY), Identity.generate()
    signature = mine.sign(b"statement")
    assert verify(mine.public, signature, b"statement")
    assert not verify(mine.public, signature, b"statemenu")
    assert not verify(other.public, signature, b"statement")
    for i in range(64):
        altered = bytes(x ^ (1 << i % 8) if i == j else x for j, x in enumerate(signature))
        assert not verify(mine.public, altered, b"statement")


@pytest.mark.parametrize("size", [0, 1, 31, 33, 63, 64, 65, 128])
def test_wrong_lengths_do_not_verify(size: int) -> None:
    mine = Identity.from_bytes(KEY)
    if size != 64:
        assert not verify(mine.public, bytes(size), b"x")
        assert not verify(mine.public, (mine.sign(b"x") * 2)[:size], b"x")
    assert not verify(bytes(size), mine.sign(b"x"), b"x")


def test_a_public_key_that_is_no_point_does_not_verify() -> None:
    signature = Identity.from_bytes(KEY).sign(b"x")
    answers = {verify(bytes([i]) + b"\xff" * 31, signature, b"x") for i in range(256)}
    assert answers == {False}


def test_verifying_is_remembered_by_value() -> None:
    mine = Identity.from_bytes(KEY)
    verify.cache_clear()
    for _ in range(3):
        assert verify(mine.public, mine.sign(b"a"), b"a")
        assert not verify(mine.public, mine.sign(b"a"), b"b")
    assert verify.cache_info().misses == 2
    assert verify.cache_info().maxsize == 65536


def test_identities_are_fresh_and_keep_their_secret_from_print() -> None:
    made = [Identity.generate() for _ in range(5)]
    assert len({i.public for i in made}) == 5
    assert Identity.from_bytes(made[0].private).public == made[0].public
    for thing in (made[0], KeyPair.generate()):
        assert thing.public.hex() in repr(thing)
        assert thing.private.hex() not in repr(thing)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_secrets_of_another_size_are_refused(size: int) -> None:
    for make in (Identity.from_bytes, KeyPair.from_bytes):
        with pytest.raises(ConfigError, match=f"{size} bytes"):
            make(bytes(size))
    with pytest.raises(ConfigError, match=f"{size} bytes"):
        seal(bytes(size), b"", b"")
    with pytest.raises(ConfigError, match=f"{size} bytes"):
        open_(bytes(size), bytes(16), b"")


# Agreement


def test_vectors_of_rfc_7748() -> None:
    pairs = [KeyPair.from_bytes(bytes.fromhex(s)) for s in SCALARS]
    assert tuple(p.public.hex() for p in pairs) == PUBLICS
    assert tuple(p.private.hex() for p in pairs) == SCALARS
    for mine, other in (pairs, pairs[::-1]):
        assert mine.exchange(other.public).hex() == SHARED


def test_vectors_of_rfc_5869() -> None:
    # Appendix A.1 holds the reference; A.3, without salt and info, holds the module too.
    first = reference_hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert first.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    third = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert reference_hkdf(b"\x0b" * 22, b"", b"", 42).hex() == third + "9d201395faa4b61a96c8"
    assert keys._hkdf(b"\x0b" * 22, b"").hex() == third


@given(info=st.binary(max_size=80))
def test_agreement_is_x25519_and_hkdf(info: bytes) -> None:
    alice, bob = (KeyPair.from_bytes(bytes.fromhex(s)) for s in SCALARS)
    key = agree(alice, bob.public, info)
    assert key == agree(bob, alice.public, info)
    assert key == reference_hkdf(bytes.fromhex(SHARED), b"", info, 32)


def test_agreed_keys_differ_by_purpose_and_by_party() -> None:
    alice, bob, carol = (KeyPair.generate() for _ in range(3))
    found = {
        agree(alice, bob.public, b"1"),
        agree(alice, bob.public, b"2"),
        agree(alice, carol.public, b"1"),
        agree(bob, carol.public, b"1"),
    }
    assert len(found) == 4
    assert all(len(key) == 32 for key in found)


@pytest.mark.parametrize("public", LOW_ORDER)
def test_points_of_low_order_are_refused(public: str) -> None:
    with pytest.raises(MessageError, match="low order"):
        agree(KeyPair.generate(), bytes.fromhex(public), b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_public_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(MessageError, match=f"{size} bytes"):
        agree(KeyPair.generate(), b"\x09" * size, b"")


# Sealing


def test_vectors_of_gcm() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 and 14.
    assert seal(bytes(32), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert seal(bytes(32), bytes(16), b"").hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )


@given(plaintext=st.binary(max_size=60), associated=st.binary(max_size=20))
def test_what_is_sealed_opens(plaintext: bytes, associated: bytes) -> None:
    sealed = seal(KEY, plaintext, associated)
    assert len(sealed) == len(plaintext) + keys.TAG_BYTES
    assert open_(KEY, sealed, associated) == plaintext


def test_what_was_altered_does_not_open() -> None:
    sealed = seal(KEY, b"plaintext", b"from 1 to 2")
    wrong = [sealed[:-1], sealed + b"\x00", b"", bytes(15), sealed[:16]]
    wrong += [bytes(x ^ (i == j) for j, x in enumerate(sealed)) for i in range(len(sealed))]
    for altered in wrong:
        with pytest.raises(MessageError, match="doesn't open"):
            open_(KEY, altered, b"from 1 to 2")
    for key, associated in ((bytes(32), b"from 1 to 2"), (KEY, b"from 2 to 1"), (KEY, b"")):
        with pytest.raises(MessageError, match="doesn't open"):
            open_(key, sealed, associated)


# Hashing


def test_derive_is_sha256_of_the_encoding() -> None:
    encoded = bytes(7) + b"\x01t" + bytes(7) + b"\x01a" + bytes(7) + b"\x02bc"
    assert derive("t", b"a", b"bc") == hashlib.sha256(encoded).digest()
    assert derive("t", b"a", b"bc").hex() == (
        "0e5b52e418dd795d7647ee6b0c5c43b5b56cec665fe4a6cb9ea16b5391d93bec"
    )


parts = st.tuples(st.text(max_size=3), st.lists(st.binary(max_size=4), max_size=4))


@given(first=parts, second=parts)
def test_derive_tells_inputs_apart(
    first: tuple[str, list[bytes]], second: tuple[str, list[bytes]]
) -> None:
    same = derive(first[0], *first[1]) == derive(second[0], *second[1])
    assert same == (first == second)


def test_derive_tells_cuts_apart() -> None:
    cuts = [("ab", b"c"), ("a", b"bc"), ("abc",), ("abc", b""), ("", b"abc"), ("a", b"b", b"c")]
    assert len({derive(tag, *rest) for tag, *rest in cuts}) == len(cuts)
