"""A folder of device graphs: what `tacit models export --device` writes, and how it is checked.

Files: ``step.onnx``, ``evaluation.onnx`` where the run has a federated evaluation,
``manifest.json``, canonical JSON (RFC 8785) of both manifests and the digest of what isn't
trained, and ``signature``, in hex: Ed25519 by the coordinator's key over
`statements.manifest` of ``manifest.json``.

Guarantees of what `check` passes: the key's holder signed this manifest, and the graphs are
its. Needs no torch and no onnx. Doesn't guarantee that graphs were checked beside Opacus:
that is what the signer says by signing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785

from tacit.privacy.errors import ConfigError, MessageError, StorageError
from tacit.privacy.secagg.keys import Identity, verify
from tacit.protocol import statements
from tacit.protocol.manifest import KINDS, LARGEST_GRAPH, DeviceGraph, Manifest, from_fields

VERSION = 1
_LARGEST_TEXT = 2**20


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a manifest file says.

    Attributes:
        step: manifest of the graph that trains.
        evaluation: of the graph that scores, or None.
        frozen: digest of what isn't trained, in hex.
    """

    step: Manifest
    evaluation: Manifest | None
    frozen: str

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785), UTF-8."""
        made: dict[str, Any] = {
            "version": VERSION,
            "step": self.step.fields(),
            "evaluation": self.evaluation.fields() if self.evaluation else None,
            "frozen": self.frozen,
        }
        return rfc8785.dumps(made)


def files(
    step: DeviceGraph, evaluation: DeviceGraph | None, frozen: str, coordinator: Identity
) -> dict[str, bytes]:
    """The files of a folder, by name; the same bytes each time.

    Args:
        step: the graph that trains.
        evaluation: the graph that scores, or None.
        frozen: digest of what isn't trained, in hex.
        coordinator: who signs.
    """
    said = evaluation.manifest if evaluation else None
    text = Contents(step=step.manifest, evaluation=said, frozen=frozen).to_json()
    made = {"step.onnx": step.graph}
    if evaluation is not None:
        made["evaluation.onnx"] = evaluation.graph
    signature = coordinator.sign(statements.manifest(text)).hex() + "\n"
    return {**made, "manifest.json": text, "signature": signature.encode()}


def check(folder: Path, coordinator: bytes) -> Contents:
    """What a folder holds, after checking signature, sizes and digests.

    Args:
        folder: with the files of `files`.
        coordinator: Ed25519 key, 32 bytes, known from elsewhere.

    Raises:
        StorageError: a file can't be read.
        MessageError: the manifest isn't one, or isn't signed by this key.
        ModelError: a graph isn't the manifest's.
    """
    text = _read(folder / "manifest.json", _LARGEST_TEXT)
    try:
        signature = bytes.fromhex(_read(folder / "signature", 1024).decode("ascii").strip())
    except ValueError as error:
        raise MessageError(f"{folder / 'signature'} isn't a signature in hex") from error
    if not verify(coordinator, signature, statements.manifest(text)):
        raise MessageError(
            f"{folder} isn't signed by key={coordinator.hex()[:16]}...",
            "is it the coordinator's, as `tacit models export --device` printed it?",
        )
    held = _contents(text)
    for kind, manifest in (("step", held.step), ("evaluation", held.evaluation)):
        if manifest is not None:
            manifest.check(_read(folder / f"{kind}.onnx", LARGEST_GRAPH))
    return held


def _contents(text: bytes) -> Contents:
    try:
        held = json.loads(text)
        if not isinstance(held, Mapping) or set(held) != {"version", "frozen", *KINDS}:
            raise ConfigError("fields are too many or missing")
        scores, frozen = held["evaluation"], held["frozen"]
        if not isinstance(frozen, str):
            raise ConfigError("frozen must be a digest")
        made = Contents(
            step=from_fields(held["step"]),
            evaluation=None if scores is None else from_fields(scores),
            frozen=frozen,
        )
        kinds = (made.step.kind, made.evaluation.kind if made.evaluation else "evaluation")
        whole = made.to_json() == text and kinds == ("step", "evaluation")
    except (ValueError, RecursionError, ConfigError) as error:
        raise MessageError(f"manifest.json can't be read: {error}") from error
    if not whole:
        raise MessageError("manifest.json isn't canonical JSON of a step and an evaluation")
    return made


def _read(path: Path, most: int) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror or error}") from error
    if len(data) > most:
        raise StorageError(f"{path} has more than {most} bytes")
    return data
