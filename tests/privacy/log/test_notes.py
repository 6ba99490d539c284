"""Notes, keys and checkpoints: published examples, and everything that isn't quite one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.privacy.errors import MessageError
from tacit.privacy.log import notes
from tacit.privacy.log.merkle import EMPTY_ROOT
from tacit.privacy.log.notes import Checkpoint, SignerKey, VerifierKey, open_note, sign_note

# The example of https://pkg.go.dev/golang.org/x/mod/sumdb/note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
BY_PETER = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng"
    "otpRZb6KE6RyyBwJnAM=\n"
)
BY_ENOCH = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWL"
    "ox33WWd1RvMc+QQ=\n"
)
# The example of https://c2sp.org/tlog-checkpoint.
CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Z", "C"], exclude_characters="+"),
    min_size=1,
    max_size=20,
)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\n"), max_size=80
).map(lambda t: f"{t}\n")
MINE = SignerKey("example.org/log", bytes(range(32)))
OTHER = SignerKey("example.org/other", bytes(range(1, 33)))


def as_key(raw: bytes, name: str = "n", public: bytes | None = None) -> str:
    """A key's text with the id that its bytes would have."""
    hashed = hashlib.sha256(name.encode() + b"\n" + (raw if public is None else public))
    return f"{name}+{hashed.hexdigest()[:8]}+{base64.b64encode(raw).decode()}"


# Published examples


def test_the_published_note() -> None:
    peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)
    signer = SignerKey.parse(PETERS_SECRET)
    assert peter.name == signer.name == "PeterNeumann"
    assert peter.id.hex() == "c74f20a3"
    assert (str(peter), str(enoch), signer.text()) == (PETER, ENOCH, PETERS_SECRET)
    assert signer.verifier == peter
    assert sign_note(TEXT, signer) == f"{TEXT}\n{BY_PETER}"
    assert open_note(f"{TEXT}\n{BY_PETER}", peter) == TEXT
    both = f"{TEXT}\n{BY_PETER}{BY_ENOCH}"
    for known in ((peter,), (enoch,), (peter, enoch), (enoch, peter, peter)):
        assert open_note(both, *known) == TEXT


def test_the_published_checkpoint() -> None:
    found = Checkpoint.parse(CHECKPOINT)
    assert found.origin == "example.com/behind-the-sofa"
    assert found.size == 20852163
    assert found.root.hex()[:8] == "0ac5186a"
    assert found.extensions == ()
    assert found.text() == CHECKPOINT


# Keys


@given(name=NAMES, seed=st.binary(min_size=32, max_size=32), data=st.binary(max_size=50))
def test_keys_have_one_text(name: str, seed: bytes, data: bytes) -> None:
    signer = SignerKey(name, seed)
    again, public = SignerKey.parse(signer.text()), VerifierKey.parse(str(signer.verifier))
    assert public == signer.verifier == again.verifier
    assert hash(public) == hash(signer.verifier)
    assert again.text() == signer.text()
    signature = again.sign(data)
    assert len(signature) == 64
    assert public.verify(signature, data)
    assert not public.verify(signature, data + b"\x00")
    assert not public.verify(bytes([signature[0] ^ 1]) + signature[1:], data)
    assert not public.verify(signature[:-1], data)
    assert not public.verify(signature + b"\x00", data)


def test_new_keys_differ_and_keep_their_secret() -> None:
    made = [SignerKey.generate("example.org/log") for _ in range(4)]
    assert len({key.verifier.public for key in made}) == 4
    for key in made:
        secret = key.text().split("+", 4)[4]
        assert key.name == "example.org/log"
        assert str(key.verifier) in repr(key)
        for shown in (repr(key), str(key), str(key.verifier), repr(key.verifier)):
            assert secret not in shown
            assert "PRIVATE" not in shown
            assert base64.b64decode(secret)[1:].hex() not in shown


def test_the_key_id_is_of_name_and_key() -> None:
    ids = {VerifierKey(n, bytes([k]) * 32).id for n in ("a", "b") for k in (1, 2)}
    assert len(ids) == 4
    assert all(len(i) == 4 for i in ids)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a+b", "a\n", "\ta", "a\u00a0b", "a\u2003", "a\u3000", "a\x00", "\x1b", "\ud800"],
)
def test_names_that_a_line_cannot_hold_are_refused(name: str) -> None:
    for make in (
        lambda: VerifierKey(name, bytes(32)),
        lambda: SignerKey(name, bytes(32)),
        lambda: SignerKey.generate(name),
    ):
        with pytest.raises(MessageError):
            make()


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_of_another_size_are_refused(size: int) -> None:
    for make in (VerifierKey, SignerKey):
        with pytest.raises(MessageError, match="32"):
            make("n", bytes(size))
    with pytest.raises(MessageError, match="32 bytes"):
        VerifierKey.parse(as_key(b"\x01" + bytes(size)))
    with pytest.raises(MessageError, match="32 bytes"):
        SignerKey.parse(f"PRIVATE+KEY+{as_key(bytes([1]) + bytes(size))}")


@pytest.mark.parametrize("algorithm", [0, 2, 4, 255])
def test_other_algorithms_are_refused(algorithm: int) -> None:
    with pytest.raises(MessageError, match="Ed25519"):
        VerifierKey.parse(as_key(bytes([algorithm]) + MINE.verifier.public))


@pytest.mark.parametrize("text", [PETER, PETERS_SECRET], ids=["public", "secret"])
def test_every_character_of_a_key_counts(text: str) -> None:
    parse: Callable[[str], object] = (
        SignerKey.parse if text.startswith("PRIVATE") else VerifierKey.parse
    )
    wrong = [text[:i] + text[i + 1 :] for i in range(len(text))]
    wrong += [
        text[:i] + c + text[i + 1 :]
        for i in range(len(text))
        for c in "+ =\nAa0/\u00e9"
        if c != text[i]
    ]
    wrong += [text[:i] + c + text[i:] for i in range(len(text) + 1) for c in " +=\nA"]
    wrong += [text.upper(), text.lower(), text + "AA==", text.replace("c74f20a3", "0xc74f20")]
    for other in wrong:
        with pytest.raises(MessageError) as refused:
            parse(other)
        if text == PETERS_SECRET:
            assert "AYEKFALVFG" not in str(refused.value)


@given(st.text() | st.text("PRIVATEKY+=Ac74f20a3n/").map(lambda t: f"PRIVATE+KEY+{t}"))
def test_other_texts_are_no_keys(text: str) -> None:
    for parse in (VerifierKey.parse, SignerKey.parse):
        with pytest.raises(MessageError):
            parse(text)


# Notes


@given(text=TEXTS, name=NAMES)
def test_a_note_opens_to_its_text(text: str, name: str) -> None:
    signer = SignerKey(name, bytes(32))
    note = sign_note(text, signer, MINE)
    assert note.startswith(f"{text}\n\u2014 {name} ")
    assert open_note(note, signer.verifier) == text
    assert open_note(note, MINE.verifier, OTHER.verifier) == text
    with pytest.raises(MessageError, match="isn't signed by a known key"):
        open_note(note, OTHER.verifier)
    with pytest.raises(MessageError, match="known: none"):
        open_note(note)


@pytest.mark.parametrize("text", [TEXT, "\n", "a\n\n", "\n\na\n\n\u2014 b c\n"])
def test_every_byte_of_a_note_counts(text: str) -> None:
    note = sign_note(text, MINE).encode()
    for i in range(len(note)):
        for mask in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            other = note[:i] + bytes([note[i] ^ mask]) + note[i + 1 :]
            with pytest.raises(MessageError):
                open_note(other.decode(errors="surrogateescape"), MINE.verifier)
        for other in (note[:i], note[:i] + note[i + 1 :], note[:i] + b"\n" + note[i:]):
            with pytest.raises(MessageError):
                open_note(other.decode(errors="surrogateescape"), MINE.verifier)
    for more in ("\n", " ", "x", "\n\n", "\r\n", "\u2014 ", "\u2014 x\n"):
        with pytest.raises(MessageError):
            open_note(note.decode() + more, MINE.verifier)


def test_a_text_that_looks_signed_is_not() -> None:
    # The signatures are those after the last empty line.
    inner = sign_note("inner\n", MINE)
    with pytest.raises(MessageError, match="isn't signed by a known key"):
        open_note(sign_note(inner, OTHER), MINE.verifier)
    assert open_note(sign_note(inner, OTHER), OTHER.verifier) == inner


def test_unknown_signatures_are_ignored_and_known_ones_must_hold() -> None:
    note = sign_note(TEXT, MINE)
    stranger = sign_note("something else\n", OTHER).rpartition("\n\n")[2]
    assert open_note(note + stranger, MINE.verifier) == TEXT
    assert open_note(note.replace("\n\n", f"\n\n{stranger}"), MINE.verifier) == TEXT
    for known in ((MINE.verifier, OTHER.verifier), (OTHER.verifier, MINE.verifier)):
        with pytest.raises(MessageError, match=f"by {OTHER.name}.* is wrong"):
            open_note(note + stranger, *known)
    # A second signature by the same key is looked at too.
    own = sign_note("something else\n", MINE).rpartition("\n\n")[2]
    for wrong in (note + own, note.replace("\n\n", f"\n\n{own}")):
        with pytest.raises(MessageError, match="is wrong"):
            open_note(wrong, MINE.verifier)
    assert open_note(note + note.rpartition("\n\n")[2], MINE.verifier) == TEXT


def test_a_name_or_an_id_alone_makes_no_known_key() -> None:
    namesake = SignerKey(MINE.name, bytes(32))
    note = sign_note(TEXT, namesake)
    with pytest.raises(MessageError, match="isn't signed by a known key"):
        open_note(note, MINE.verifier)
    assert open_note(note + sign_note(TEXT, MINE).rpartition("\n\n")[2], MINE.verifier) == TEXT
    # Another's name with this key's id, and a signature of the length of another algorithm.
    for line in (
        f"\u2014 {OTHER.name} {base64.b64encode(MINE.verifier.id + bytes(64)).decode()}\n",
        f"\u2014 {MINE.name} {base64.b64encode(bytes(4) + bytes(2420)).decode()}\n",
        f"\u2014 x {base64.b64encode(bytes(5)).decode()}\n",
    ):
        assert open_note(sign_note(TEXT, MINE) + line, MINE.verifier) == TEXT


def test_two_keys_of_one_name_and_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    note = sign_note(TEXT, MINE)
    assert open_note(note, MINE.verifier, MINE.verifier) == TEXT
    monkeypatch.setattr(VerifierKey, "id", MINE.verifier.id)
    with pytest.raises(MessageError, match="one name and id"):
        open_note(note, MINE.verifier, VerifierKey(MINE.name, bytes(32)))


@pytest.mark.parametrize(
    "line",
    [
        "- NAME SIG\n",
        "\u2014NAME SIG\n",
        "\u2014  NAME SIG\n",
        "\u2014 NAME  SIG\n",
        "\u2014 NAME SIG \n",
        " \u2014 NAME SIG\n",
        "\u2014 NAME SIG\r\n",
        "\u2014 NAME\u00a0SIG\n",
        "\u2014\u00a0NAME SIG\n",
        "\u2014 NAME SIG SIG\n",
        "\u2014 NAME\n",
        "\u2014 NAME \n",
        "\u2014  SIG\n",
        "\u2014 a+NAME SIG\n",
        "\u2014 NAME SIG",
        "\u2014 NAME\tSIG\n",
        "\u2014 NAME =SIG\n",
        "\u2014 NAME SIG=\n",
        "\u2014 NAME AAAA\n",
        "\u2014 NAME AAAAAA==\n",
        "\u2013 NAME SIG\n",
    ],
)
def test_lines_that_are_nearly_signatures_are_refused(line: str) -> None:
    encoded = base64.b64encode(MINE.verifier.id + MINE.sign(TEXT.encode())).decode()
    right = f"{TEXT}\n\u2014 {MINE.name} {encoded}\n"
    assert open_note(right, MINE.verifier) == TEXT
    wrong = line.replace("NAME", MINE.name).replace("SIG", encoded)
    for note in (f"{TEXT}\n{wrong}", right + wrong):
        with pytest.raises(MessageError):
            open_note(note, MINE.verifier)


def test_other_base64_of_the_same_bytes_is_refused() -> None:
    note = sign_note(TEXT, MINE)
    # 68 bytes end in one "=": the last digit before it has two bits that decoders drop.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    at = alphabet.index(note[-3])
    assert at % 4 == 0
    for spare in (1, 2, 3):
        other = f"{note[:-3]}{alphabet[at + spare]}=\n"
        assert base64.b64decode(other.split(" ")[-1]) == base64.b64decode(note.split(" ")[-1])
        with pytest.raises(MessageError, match="one base64"):
            open_note(other, MINE.verifier)
    for other in (note.replace("=\n", "\n"), note.replace("=\n", "%3D\n")):
        with pytest.raises(MessageError, match="base64"):
            open_note(other, MINE.verifier)


@pytest.mark.parametrize(
    "text", ["", "a", "a\nb", "a\r\n", "\x00\n", "a\tb\n", "\x1f\n", "\ud800\n"]
)
def test_texts_that_no_note_can_hold_are_not_signed(text: str) -> None:
    with pytest.raises(MessageError):
        sign_note(text, MINE)


def test_limits_are_the_same_for_signing_and_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    signers = [SignerKey(f"n{i}", bytes([i]) * 32) for i in range(101)]
    note = sign_note(TEXT, *signers[:100])
    assert open_note(note, signers[0].verifier, signers[99].verifier) == TEXT
    for wrong in ([], signers, [MINE, MINE]):
        with pytest.raises(MessageError, match="signe"):
            sign_note(TEXT, *wrong)
    with pytest.raises(MessageError, match="101 signatures, above 100"):
        open_note(note + note.splitlines(keepends=True)[-1], signers[0].verifier)
    whole = sign_note(TEXT, MINE)
    monkeypatch.setattr(notes, "MAX_NOTE_BYTES", len(whole.encode()))
    assert open_note(sign_note(TEXT, MINE), MINE.verifier) == TEXT
    for longer in (f"x{TEXT}", f"\u00e9{TEXT[1:]}"):
        with pytest.raises(MessageError, match="bytes, above"):
            sign_note(longer, MINE)
    with pytest.raises(MessageError, match="bytes, above"):
        open_note(f"x{whole}", MINE.verifier)


@given(
    st.text()
    | st.binary().map(lambda b: b.decode(errors="surrogateescape"))
    | st.lists(st.sampled_from(["a", "\n", "\n\n", "\u2014 ", " ", "A", "=", "+", MINE.name])).map(
        "".join
    )
)
def test_other_texts_are_no_notes(note: str) -> None:
    for other in (note, f"{note}\n\n{BY_PETER}", f"{TEXT}\n{note}"):
        with pytest.raises(MessageError):
            open_note(other, MINE.verifier, VerifierKey.parse(PETER))


# Checkpoints

LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=30)


@given(
    origin=LINES,
    size=st.integers(0, notes.MAX_SIZE),
    root=st.binary(min_size=32, max_size=32),
    extensions=st.lists(LINES, max_size=3),
)
def test_checkpoints_have_one_text(
    origin: str, size: int, root: bytes, extensions: list[str]
) -> None:
    made = Checkpoint(origin, size, root, tuple(extensions))
    assert Checkpoint.parse(made.text()) == made
    assert made.text().split("\n")[1] == str(size)
    assert open_note(sign_note(made.text(), MINE), MINE.verifier) == made.text()


def test_values_that_no_checkpoint_can_have_are_refused() -> None:
    right: dict[str, object] = {"origin": "o", "size": 1, "root": EMPTY_ROOT, "extensions": ("e",)}
    Checkpoint(**right)  # type: ignore[arg-type]
    wrong: list[tuple[str, object]] = [
        *(("origin", o) for o in ("", "a\nb", "\n", "a\x00", "a\t", "\udfff")),
        *(("size", s) for s in (-1, 2**63, 10**30)),
        *(("root", r) for r in (b"", bytes(31), bytes(33))),
        *(("extensions", e) for e in (("",), ("a", ""), ("a\nb",), ("\r",))),
    ]
    for name, value in wrong:
        with pytest.raises(MessageError):
            Checkpoint(**{**right, name: value})  # type: ignore[arg-type]


ROOT = base64.b64encode(EMPTY_ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "\n\n\n",
        "o\n1\n",
        f"o\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"o\n\n{ROOT}\n",
        "o\n1\n\n",
        f"o\n1\n{ROOT}\n\n",
        f"o\n1\n{ROOT}\ne\n\nf\n",
        f"o\n1\n{ROOT}\ne",
        f"o\r\n1\r\n{ROOT}\r\n",
        f"o\n1\n {ROOT}\n",
        f"o\n1\n{ROOT} \n",
        f"o\n1\n{ROOT[:-1]}\n",
        f"o\n1\n{ROOT[:-2]}V=\n",
        f"o\n1\n{ROOT[:-2]}W=\n",
        f"o\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"o\n1\n{base64.b64encode(bytes(33)).decode()}\n",
        f"o\n1\n{base64.urlsafe_b64encode(bytes([255]) * 32).decode()}\n",
        f"o\n1\n{EMPTY_ROOT.hex()}\n",
        *(
            f"o\n{size}\n{ROOT}\n"
            for size in (
                *(
                    "01",
                    "00",
                    "-1",
                    "+1",
                    "1.0",
                    "1e3",
                    "0x1",
                    " 1",
                    "1 ",
                    "1_0",
                    "\u0661",
                    "\u00b2",
                ),
                *("9223372036854775808", "1" * 20, "9" * 5000),
            )
        ),
    ],
)
def test_texts_that_are_nearly_checkpoints_are_refused(text: str) -> None:
    assert Checkpoint.parse(f"o\n1\n{ROOT}\n").root == EMPTY_ROOT
    with pytest.raises(MessageError):
        Checkpoint.parse(text)


@given(
    st.text()
    | st.lists(st.sampled_from(["o", "\n", "1", "0", ROOT, "\ud800", "\r", " "])).map("".join)
)
def test_a_text_is_a_checkpoints_or_refused(text: str) -> None:
    try:
        found = Checkpoint.parse(text)
    except MessageError:
        return
    assert found.text() == text
