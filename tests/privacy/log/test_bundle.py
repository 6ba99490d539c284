"""A bundle is found whole, or a byte of it is found changed, with nothing else of tacit there."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tampering import ME, Body, bodies_of, lines_of, note_of, owned, rehashed, texts_of
from tiny import TINY

from tacit.privacy.errors import MessageError, StorageError
from tacit.privacy.log import bundle, command, merkle, proofs
from tacit.privacy.log.bundle import Bundle

pytestmark = pytest.mark.usefixtures("remembered")
KEY = str(ME.verifier)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes]]:
    """A real run's leaves under this test's key, and its models."""
    home = tmp_path_factory.mktemp("bundle") / "home"
    bodies: list[Body] = bodies_of(home, "evaluation=federated", *TINY)
    models = {p.stem: p.read_bytes() for p in home.glob("artifacts/*/*")}
    assert len(models) == 3
    return texts_of(owned(bodies, ME)), models


@pytest.fixture
def path(made: tuple[list[str], dict[str, bytes]], tmp_path: Path) -> Path:
    texts, models = made
    file = BytesIO()
    name = bundle.write(file, note_of(texts, ME), texts, models.items())
    data = file.getvalue()
    assert hashlib.sha256(data[: data.rindex(b"\n", 0, -1) + 1]).hexdigest() == name
    found = tmp_path / "ledger.bundle"
    found.write_bytes(data)
    return found


def holds(path: Path, **more: Any) -> bool:
    """Whether the bundle holds; what isn't explained escapes, and fails the test."""
    try:
        return command.verify(path, **more).holds
    except (MessageError, StorageError):
        return False


def test_a_bundle_is_read_as_it_was_written(
    path: Path, made: tuple[list[str], dict[str, bytes]]
) -> None:
    texts, models = made
    found = Bundle(path)
    assert list(found.leaves()) == texts
    assert dict(found.artifacts()) == models
    assert found.checkpoint == note_of(texts, ME)
    assert command.verify(path, [found.checkpoint], [KEY]).findings == []


def test_a_bit_anywhere_is_found(path: Path) -> None:
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for position in [0, 1, len(data) - 1, *rng.integers(len(data), size=500)]:
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(changed))
        with pytest.raises(MessageError):
            command.verify(path)


def test_a_bit_anywhere_is_found_with_the_hash_made_right(path: Path) -> None:
    """Then the signature, the leaves' hashes or the models' digests find it."""
    lines, rng = lines_of(path), np.random.default_rng(1)
    data = b"".join(lines)
    harmless = 0
    for position in rng.integers(len(data), size=200):
        changed = bytearray(data)
        changed[position] ^= 1 << int(rng.integers(8))
        rehashed(path, [bytes(changed)])
        if holds(path):
            # JSON around what counts: it reads as the same bundle.
            assert read(path) == read(rehashed(path, lines))
            harmless += 1
    assert harmless < 10


def read(path: Path) -> Any:
    found = Bundle(path)
    return found.checkpoint, list(found.leaves()), list(found.artifacts())


def test_a_cut_anywhere_is_found(path: Path) -> None:
    data, rng = path.read_bytes(), np.random.default_rng(2)
    for size in [0, 1, len(data) - 1, len(data) - 2, *rng.integers(len(data), size=100)]:
        path.write_bytes(data[:size])
        with pytest.raises(MessageError):
            command.verify(path)
    path.write_bytes(data + b"\n")
    assert not holds(path)
    path.write_bytes(data + data)
    assert not holds(path)


@pytest.mark.parametrize("seed", range(3))
def test_lines_twice_gone_or_swapped_are_found(path: Path, seed: int) -> None:
    lines, rng = lines_of(path), np.random.default_rng(seed)
    leaves = len(list(Bundle(path).leaves()))
    for _ in range(12):
        i, j = sorted(int(x) for x in rng.choice(np.arange(1, leaves + 1), 2, replace=False))
        swapped = list(lines)
        swapped[i], swapped[j] = lines[j], lines[i]
        for changed in (
            [*lines[:i], lines[i], *lines[i:]],
            [*lines[:i], *lines[i + 1 :]],
            swapped,
            [*lines[:i], b"{}\n", *lines[i:]],
            lines[: i + 1],
        ):
            assert not holds(rehashed(path, changed))
    # Models may be left out, and in any order; what isn't a model may not be put in.
    assert holds(rehashed(path, lines[: leaves + 1]))
    assert holds(rehashed(path, [*lines[: leaves + 1], *lines[:leaves:-1]]))
    for junk in (b"\n", b"[]\n", b"{}\n", b'{"artifact":"x","data":"\xc3\xa4"}\n', b"\xff\n"):
        assert not holds(rehashed(path, [*lines, junk]))


def test_models_are_those_released(path: Path, tmp_path: Path) -> None:
    lines, models = lines_of(path), dict(Bundle(path).artifacts())
    (first, one), (second, two), *_ = models.items()

    def line(digest: str, data: bytes) -> bytes:
        said = {"artifact": digest, "data": base64.b64encode(data).decode()}
        return json.dumps(said).encode() + b"\n"

    start = len(lines) - len(models)
    assert not holds(rehashed(path, [*lines[:start], line(first, two), line(second, one)]))
    stranger = hashlib.sha256(b"x").hexdigest()
    assert not holds(rehashed(path, [*lines, line(stranger, b"x")]))
    rehashed(path, lines[:start])
    folder = tmp_path / "models"
    with pytest.raises(StorageError, match="isn't a folder"):
        command.verify(path, artifacts=folder)
    (folder / first[:2]).mkdir(parents=True)
    (folder / first[:2] / f"{first}.safetensors").write_bytes(one)
    report = command.verify(path, artifacts=folder)
    assert report.holds
    assert report.notes == [f"2 of 3 models aren't in {folder}"]
    (folder / f"{first}.safetensors").write_bytes(one[:-1])
    assert not holds(path, artifacts=folder)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"tacit": "proof"},
        {"checkpoint": None},
        {"checkpoint": "x"},
        {"checkpoint": "a\n-1\n\n"},
        {"more": 1},
    ],
)
def test_another_header_is_refused(path: Path, change: dict[str, Any]) -> None:
    first, *rest = lines_of(path)
    header = json.dumps(json.loads(first) | change).encode() + b"\n"
    with pytest.raises(MessageError):
        command.verify(rehashed(path, [header, *rest]))


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for data in (b"", b"\n", b"x", b"{}\n{}\n", b"\xff" * 100, b"[" * 10**6, b"{}" + b"\n" * 9):
        path.write_bytes(data)
        with pytest.raises(MessageError):
            command.verify(path)
    for unreadable in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError):
            command.verify(unreadable)


# The command


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = command.run([str(a) for a in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_says_what_holds(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.write_text(Bundle(path).checkpoint, "utf-8")
    status, out, _ = ran(capsys, path, "--checkpoint", kept, "--key", KEY)
    assert status == 0
    assert out.endswith("all holds\n")
    assert "client" in out
    status, out, _ = ran(capsys, path, "--json")
    report = json.loads(out)
    assert (status, report["holds"], report["keys"]) == (0, True, [KEY])
    assert report["runs"][0]["rows"]


def test_the_command_says_what_does_not_hold(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = ran(capsys, path, "--key", "other+0+x")
    assert (status, "DOES NOT HOLD" in out, "WRONG" in out) == (1, True, True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"kind"', b'"kinf"', 1))
    status, out, err = ran(capsys, path)
    assert (status, out) == (1, "")
    assert "was changed or cut" in err
    status, out, _ = ran(capsys, path, "--json")
    assert (status, json.loads(out)["holds"]) == (1, False)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for arguments in (["nowhere"], [tmp_path], [path, "--checkpoint", "nowhere"]):
        assert ran(capsys, *arguments)[0] == 2
    path.write_bytes(data)
    assert ran(capsys, path, "--checkpoint", binary)[0] == 2
    for arguments in ([], [path, "--what"]):
        with pytest.raises(SystemExit) as ended:
            command.run([str(a) for a in arguments])
        assert ended.value.code == 2


def test_what_a_leaf_says_moves_no_cursor(
    made: tuple[list[str], dict[str, bytes]], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = [json.loads(text) for text in made[0]]
    bodies[1]["name"] = "tiny\nall holds\x1b[2K"
    texts = texts_of(bodies)
    with path.open("wb") as file:
        bundle.write(file, note_of(texts, ME), texts, [])
    status, out, _ = ran(capsys, path)
    assert status == 1
    assert "\x1b" not in out
    assert "all holds" not in out.splitlines()


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "flwr", "sqlalchemy", "opacus", "typer", "alembic"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from tacit.privacy.log.command import main
main()
"""


def test_it_needs_nothing_else_of_tacit(
    path: Path, made: tuple[list[str], dict[str, bytes]], tmp_path: Path
) -> None:
    texts, _ = made
    tree = merkle.Tree()
    for text in texts:
        tree.append(merkle.leaf_hash(text.encode()))
    proof = tmp_path / "proof.json"
    proof.write_text(json.dumps(proofs.make(texts[3], 3, note_of(texts, ME), tree.node)))

    def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
        command_ = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
        return subprocess.run(command_, capture_output=True, text=True, timeout=120)

    done = alone(path, "--json", "--key", KEY)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["holds"]
    done = alone(proof, "--key", KEY)
    assert (done.returncode, "the proof holds" in done.stdout) == (0, True)
    path.write_bytes(path.read_bytes()[:-1])
    assert alone(path).returncode == 1
    assert alone(tmp_path / "nowhere").returncode == 2
