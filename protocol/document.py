"""The run document: all that a device trains by, under the coordinator's signature.

``encode`` makes b"TCD1", a 64-byte Ed25519 signature over `statements.document` of what
follows, and canonical JSON (RFC 8785). Guarantees of what ``decode`` returns: the holder of
the coordinator's key signed these very bytes; every field is there, none is unknown, each is
of its type and in range; plan, manifests and one another fit; and where shares of noise
protect records, training at this learning rate keeps to what the plan says that a record can
do. Two documents with equal content have equal bytes, so that a digest names one.

Doesn't guarantee that a plan is one that the device agrees to: its floors and caps say that.
Nor freshness: a document is for one run of one population, and a device takes a task's run
and plan digest only if they are the document's.

What a plan has already isn't repeated: with ``plan.record`` its clip, steps, sampling rate and
denominator are those of training; only without it does the document say steps and rate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import rfc8785

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.secagg.keys import SIGNATURE_BYTES, Identity, verify
from tacit.protocol import statements
from tacit.protocol.manifest import Manifest, from_fields

MAGIC = b"TCD1"
VERSION = 1
# Names and shapes of a model's tensors are most of it.
LARGEST = 2**20
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a device trains beyond what the privacy plan says.

    Attributes:
        learning_rate: of SGD.
        proximal: FedProx's mu, 0 for none.
        steps: of one participation; None with ``plan.record``, which has them.
        sampling_rate: with which a record is in a step's batch; None likewise.
    """

    learning_rate: float
    proximal: float
    steps: int | None = None
    sampling_rate: float | None = None

    def __post_init__(self) -> None:
        held = {"learning_rate": self.learning_rate, "proximal": self.proximal}
        if self.sampling_rate is not None:
            held["sampling_rate"] = self.sampling_rate
        for name, value in held.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"training.{name}={value!r} must be a number")
        validate.positive("training.learning_rate", self.learning_rate)
        validate.nonnegative("training.proximal", self.proximal)
        if (self.steps is None) != (self.sampling_rate is None):
            raise ConfigError("training.steps and training.sampling_rate are said together")
        if self.steps is not None:
            validate.at_least("training.steps", self.steps, 1)
        if self.sampling_rate is not None:
            validate.rate("training.sampling_rate", self.sampling_rate)


@dataclass(frozen=True, kw_only=True)
class RunDocument:
    """A run, as a device knows it.

    Attributes:
        run: the run's identifier, as messages of its rounds carry it.
        population: whose clients it is for.
        plan: the privacy plan; its digest is in every message.
        training: what else local training takes.
        frozen: SHA-256 of what the model holds beside trained parameters
            (`tacit.tasks.vector.frozen_digest`), in hex; messages carry it too.
        step: manifest of the graph that trains.
        evaluation: of the graph that scores; there if ``plan.evaluation`` is.
    """

    run: str
    population: str
    plan: PrivacyPlan
    training: Training
    frozen: str
    step: Manifest
    evaluation: Manifest | None = None

    def __post_init__(self) -> None:
        for name in ("run", "population"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise ConfigError(f"{name}={value!r} must be a name of 1 to 200 characters")
        if not isinstance(self.frozen, str) or not _DIGEST.fullmatch(self.frozen):
            raise ConfigError(f"frozen={self.frozen} must be a SHA-256 in hex")
        if (self.plan.record is None) != (self.training.steps is not None):
            raise ConfigError(
                f"training.steps={self.training.steps} must be said if and only if the plan has "
                "no record-level unit"
            )
        lattice = self.plan.updates
        if lattice is not None and lattice.dimension != self.step.size:
            raise ConfigError(
                f"parameters={self.step.size} of the step aren't the plan's {lattice.dimension}"
            )
        if self.step.kind != "step":
            raise ConfigError(f"step.kind={self.step.kind} must be step")
        self._check_record()
        self._check_evaluation()

    def _check_record(self) -> None:
        """Where shares of noise protect records, none moves a vector by more than the plan says.

        The learning rate isn't the plan's, and what a record moves an update by grows with it.
        """
        unit, lattice, ball = self.plan.record, self.plan.updates, self.plan.projection
        if not self.plan.noised_by_shares() or unit is None or lattice is None or ball is None:
            return
        # Of the ball that updates are projected to, from one side to the other is the most. The
        # order is that of training: what overflows here does there.
        share = (self.training.learning_rate / unit.denominator) * (unit.clip / ball)
        most = lattice.record_norm / lattice.norm * (1 + 1e-9)
        if not (share <= most or most >= 2):
            raise ConfigError(
                f"training.learning_rate={self.training.learning_rate:g} lets a record move an "
                f"update by {share:g} of its bound, and the plan says {most:g}"
            )

    def _check_evaluation(self) -> None:
        if (self.evaluation is None) != (self.plan.evaluation is None):
            raise ConfigError("evaluation must be there if and only if the plan evaluates")
        if self.evaluation is None:
            return
        if self.evaluation.kind != "evaluation":
            raise ConfigError(f"evaluation.kind={self.evaluation.kind} must be evaluation")
        if self.evaluation.parameters != self.step.parameters:
            raise ConfigError("parameters of the evaluation aren't the step's")
        if _records(self.evaluation) != _records(self.step):
            raise ConfigError("records of the evaluation aren't the step's")

    @property
    def graphs(self) -> dict[str, int]:
        """SHA-256 and size of each graph that a device needs."""
        held = [self.step, *([self.evaluation] if self.evaluation else [])]
        return {manifest.graph: manifest.graph_bytes for manifest in held}

    def to_json(self) -> bytes:
        """Canonical JSON (RFC 8785), UTF-8: what is signed.

        Raises:
            ConfigError: it is longer than `LARGEST`.
        """
        text = rfc8785.dumps(
            {
                "version": VERSION,
                "run": self.run,
                "population": self.population,
                "plan": self.plan.to_json(),
                "training": asdict(self.training),
                "frozen": self.frozen,
                "step": self.step.fields(),
                "evaluation": self.evaluation.fields() if self.evaluation else None,
            }
        )
        if len(text) > LARGEST:
            raise ConfigError(f"run document of {len(text)} bytes must be at most {LARGEST}")
        return text

    def encode(self, coordinator: Identity) -> bytes:
        """The document with the coordinator's signature; the same bytes each time.

        Raises:
            ConfigError: it is longer than `LARGEST`.
        """
        text = self.to_json()
        return MAGIC + coordinator.sign(statements.document(text)) + text


def digest(data: bytes) -> str:
    """SHA-256 of an encoded document, in hex: the blob that tasks refer to."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, coordinator: bytes) -> RunDocument:
    """The document in signed bytes.

    Args:
        data: what `RunDocument.encode` made.
        coordinator: the pinned Ed25519 key, 32 bytes.

    Raises:
        MessageError: not a document, not signed by this key, or not one that can be.
    """
    start = len(MAGIC) + SIGNATURE_BYTES
    if not start < len(data) <= start + LARGEST or data[: len(MAGIC)] != MAGIC:
        raise MessageError("these bytes aren't a run document")
    signature, text = bytes(data[len(MAGIC) : start]), bytes(data[start:])
    if not verify(coordinator, signature, statements.document(text)):
        raise MessageError(
            "the run document isn't signed by the coordinator's key",
            "was this device enrolled with another coordinator?",
        )
    try:
        made = _from_fields(json.loads(text))
        whole = made.to_json() == text
    except (ValueError, RecursionError, ConfigError) as error:
        raise MessageError(f"the run document can't be read: {error}") from error
    if not whole:
        raise MessageError("the run document isn't canonical JSON (RFC 8785)")
    return made


def _from_fields(held: Any) -> RunDocument:
    known = {field.name for field in fields(RunDocument)} | {"version"}
    _same("document", held, known)
    if held["version"] != VERSION or isinstance(held["version"], bool):
        raise ConfigError(f"version={held['version']!r} must be {VERSION}")
    _same("training", held["training"], {field.name for field in fields(Training)})
    # JSON has one kind of number: 1.0 is written as 1.
    training: dict[str, Any] = {
        k: float(v) if type(v) is int and k != "steps" else v for k, v in held["training"].items()
    }
    evaluation = held["evaluation"]
    return RunDocument(
        run=held["run"],
        population=held["population"],
        plan=read(held["plan"]),
        training=Training(**training),
        frozen=held["frozen"],
        step=from_fields(held["step"]),
        evaluation=None if evaluation is None else from_fields(evaluation),
    )


def _records(manifest: Manifest) -> list[tuple[str, tuple[int, ...]]]:
    """Types and shapes of one record's input and target."""
    return [(tensor.dtype, tensor.shape[1:]) for tensor in manifest.inputs[1:3]]


def _same(what: str, held: Any, known: set[str]) -> None:
    if not isinstance(held, Mapping) or set(held) != known:
        odd = sorted(set(held) ^ known) if isinstance(held, Mapping) else "all"
        raise ConfigError(f"{what}: fields={odd} are too many or missing")
