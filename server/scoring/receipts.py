"""Receipts of answers: made, written down in groups, and waited for.

Guarantees: a future of `Scribe.write` has a result only once its receipt is durable
(`tacit.server.access.records.Recorder`): an answer that waits for it can be asked for again by its
request id, whatever crashed. What waits while a commit is under way shares the next one. One
request's failure isn't another's.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

import numpy as np
import sqlalchemy as sa

from tacit.privacy import receipts
from tacit.privacy.errors import ConflictError, MissingError, StorageError, TacitError
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.receipts import Part
from tacit.server import exports
from tacit.server.access.records import Recorder
from tacit.server.scoring.model import Served
from tacit.server.store import Store
from tacit.tasks.scoring import Array

# Receipts of one commit at most.
_MOST = 512
# What a recorder raises; the thread must outlive it.
_FAILED = (TacitError, sa.exc.SQLAlchemyError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class Place:
    """For whom and as what a version answered.

    Attributes:
        actor: who asked, as they are known.
        alias: that was asked; "" if the version was named by its number.
        leaf: the DEPLOY or ROLLBACK that was in force for it; None for no alias.
        role: "champion" and other aliases by their name; "canary"; "fallback", a version before
            the one that the alias names, which failed or was late; "batch".
    """

    actor: str
    alias: str
    leaf: int | None
    role: str


def made(
    signer: SignerKey, served: Served, place: Place, request: str, inputs: Array, outputs: Array
) -> tuple[dict[str, Any], bytes]:
    """A receipt, and the key that opens its commitments: the caller's alone."""
    key = secrets.token_bytes(receipts.KEY_BYTES)
    body = {
        "request": request,
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "actor": place.actor,
        "model": served.model,
        "alias": place.alias,
        "number": served.number,
        "artifact": served.artifact,
        "release": served.release,
        "graph": served.graph.digest,
        "leaf": place.leaf,
        "role": place.role,
        "count": len(inputs),
        "root": receipts.root(key, pairs(inputs, outputs)),
    }
    return receipts.sign(body, signer), key


def pairs(inputs: Array, outputs: Array) -> Iterator[tuple[Part, Part]]:
    """Each record with its answer, as a receipt commits to them."""
    return zip(_parts(inputs), _parts(outputs), strict=True)


def _parts(array: Array) -> Iterator[Part]:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    for row in little:
        yield Part(array.dtype.name, tuple(row.shape), row.tobytes())


def envelope(store: Store, recorder: Recorder, request: str) -> dict[str, Any]:
    """The receipt of a request, with the proofs that there are by now.

    Raises:
        MissingError: no such request was scored here.
    """
    row = recorder.find(request)
    if row is None or row["kind"] != "score":
        raise MissingError(f"request={request[:80]!r} wasn't scored here")
    receipt = receipts.of_row(row["body"])
    if row["leaf"] is None:
        return receipts.Envelope(receipt).to_json()
    inclusion, proof = recorder.inclusion(request), exports.prove(store, row["leaf"])
    return receipts.Envelope(receipt, inclusion, proof).to_json()


class Scribe:
    """One thread that writes receipts down.

    Args:
        recorder: of the home.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._queue: SimpleQueue[tuple[Mapping[str, Any], Future[None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tacit-scribe", daemon=True)
        self._thread.start()

    def write(self, receipt: Mapping[str, Any]) -> Future[None]:
        """Has a receipt written; the future is done when it is durable.

        It fails with `ConflictError` if the request was used before, `StorageError` if the
        receipt can't be written.
        """
        done: Future[None] = Future()
        self._queue.put((receipt, done))
        return done

    def stop(self) -> None:
        """Writes what waits, and ends."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            waiting = [self._queue.get()]
            while len(waiting) < _MOST and not self._queue.empty():
                waiting.append(self._queue.get())
            going = None not in waiting
            self._write([each for each in waiting if each is not None])

    def _write(self, group: list[tuple[Mapping[str, Any], Future[None]]]) -> None:
        if not group:
            return
        try:
            self._recorder.score([receipt for receipt, _ in group])
        except _FAILED as error:
            if len(group) > 1:
                # One that can't be written mustn't take the others with it.
                for each in group:
                    self._write([each])
                return
            failure = self._explained(group[0][0], error)
            _settle(group[0][1], lambda future: future.set_exception(failure))
            return
        for _, done in group:
            _settle(done, lambda future: future.set_result(None))

    def _explained(self, receipt: Mapping[str, Any], error: Exception) -> Exception:
        try:
            used = self._recorder.find(receipt["request"]) is not None
        except StorageError:
            used = False
        if not used:
            return error
        return ConflictError(
            f"request={receipt['request']} was used before", "each request needs an id of its own"
        )


def _settle(done: Future[None], how: Callable[[Future[None]], None]) -> None:
    # Whoever waited may have gone: its time was up.
    with suppress(InvalidStateError):
        how(done)
