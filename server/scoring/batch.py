"""Scoring many records at once, with a receipt for each batch of them.

Guarantees: a batch's scores are handed over after its receipt is durable. A receipt commits to
each of its records (`tacit.privacy.receipts`); with the batch's key and the records, `reveal` shows
any one of them. There is no deadline and no fallback: what can't be loaded or scored is an error.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tacit.privacy import receipts as signed
from tacit.privacy import validate
from tacit.privacy.errors import DataError, ModelError, StorageError
from tacit.server import actors
from tacit.server.access.records import Recorder
from tacit.server.lifecycle import CHAMPION, Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring import receipts
from tacit.server.scoring.model import Loader, Served
from tacit.server.scoring.receipts import Place
from tacit.server.store import Store
from tacit.tasks.scoring import Array


@dataclass(frozen=True, slots=True)
class Batch:
    """Scores of some records.

    Attributes:
        first: index of the first of them.
        outputs: what the model gives, a row a record.
        receipt: durable.
        key: of its commitments; kept nowhere.
    """

    first: int
    outputs: Array
    receipt: dict[str, Any]
    key: bytes

    def to_json(self) -> dict[str, Any]:
        """A line of a file of receipts: whoever has it can show any record."""
        return {"receipt": self.receipt, "first": self.first, "key": self.key.hex()}


class Scorer:
    """Scores with one version of a home.

    Attributes:
        served: the version.
        place: as what it answers.

    Args:
        store: of the home.
        reference: NAME, whose champion it is; NAME@ALIAS; NAME@NUMBER.

    Raises:
        MissingError: there is no such version.
        StorageError, ModelError: it can't be loaded, as of `Loader.load`.
    """

    def __init__(self, store: Store, reference: str) -> None:
        self._store, self._recorder = store, Recorder(store)
        registry = ModelRegistry(store.home, store)
        name, _, which = reference.partition("@")
        which = which or CHAMPION
        alias = "" if which.removeprefix("v").isdigit() else which
        move = Lifecycle(store).current(name, alias) if alias else None
        number = str(move.number) if move is not None else which
        row = registry.find(f"{name}@{number}")
        self.served: Served = Loader(store, registry).load(row)
        self.place = Place(actors.current(), alias, move.leaf if move else None, "batch")

    def score(self, inputs: Array, batch: int, request: str | None = None) -> Iterator[Batch]:
        """Scores records, batch by batch.

        Args:
            inputs: `Served.records`.
            batch: records of a receipt.
            request: with which the batches' ids begin; None makes one.

        Raises:
            ModelError: the version can't score them.
            ConfigError, ConflictError, StorageError: the receipt can't be written.
        """
        validate.at_least("batch", batch, 1)
        request = request or secrets.token_hex(12)
        for place, first in enumerate(range(0, len(inputs), batch)):
            some = inputs[first : first + batch]
            outputs = self.served.run(some)
            receipt, key = receipts.made(
                self._store.signer, self.served, self.place, f"{request}-{place}", some, outputs
            )
            self._recorder.score([receipt])
            yield Batch(first, outputs, receipt, key)

    def seal(self) -> None:
        """Has an ACCESS leaf cover the receipts: after a command nobody else would."""
        self._recorder.seal()


def reveal(store: Store, kept: Path, inputs: Path, row: int) -> dict[str, Any]:
    """An envelope that shows one record of a scored file, its answer, and no other.

    Args:
        store: of the home that scored it.
        kept: the file of receipts that scoring wrote.
        inputs: the file that was scored.
        row: of it.

    Raises:
        DataError: no receipt is of that row, or the file isn't the one that was scored.
        StorageError: a file can't be read.
        ModelError: the version doesn't give today what it gave then.
    """
    from tacit.server.scoring import files

    line = _line(kept, row)
    receipt, first = line["receipt"], line["first"]
    scorer = Scorer(store, f"{receipt['model']}@{receipt['number']}")
    if scorer.served.graph.digest != receipt["graph"]:
        raise ModelError("this tacit makes another graph of the version than the one that scored")
    some = files.read(inputs, scorer.served)[first : first + receipt["count"]]
    outputs = scorer.served.run(some)
    pairs = list(receipts.pairs(some, outputs))
    if signed.root(bytes.fromhex(line["key"]), iter(pairs)) != receipt["root"]:
        raise DataError(f"{inputs} isn't what request={receipt['request']} scored")
    shown = signed.reveal(bytes.fromhex(line["key"]), pairs, row - first)
    found = receipts.envelope(store, Recorder(store), receipt["request"])
    return {**found, "shown": [shown]}


def _line(kept: Path, row: int) -> Mapping[str, Any]:
    try:
        lines = [json.loads(line) for line in kept.read_text("utf-8").splitlines()]
        for line in lines:
            if line["first"] <= row < line["first"] + line["receipt"]["count"]:
                return dict(line)
    except OSError as error:
        raise StorageError(f"{kept} can't be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{kept} isn't a file of receipts: {error}") from error
    raise DataError(f"row={row} is of no receipt in {kept}")
