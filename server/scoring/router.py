"""Rendezvous: the champion answers in time, others run beside it, nothing waits for them.

Guarantees, for requests that `Router.score` takes: what is answered was computed by a version that
an alias named, or falls back to, and its receipt is durable. An answer comes within the budget, or
`BusyError` does. A version that fails or takes more than half of the time that is left is passed
over for the last good one. Shadow and challenger get the same records after the answer is
computed, on a thread each, and only if they keep up: what they don't get is counted. A swap of
the champion takes nothing from requests under way, which end with the version they began with.

The budget is this process's: from the request's parsing to the receipt's commit. Runs of one
session share the machine with runs beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import onnxruntime

from tacit.privacy import receipts as signed
from tacit.privacy.errors import ConfigError, ModelError, TacitError
from tacit.server.access.records import Recorder
from tacit.server.lifecycle import CHAMPION, Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.scoring import receipts
from tacit.server.scoring.errors import BusyError
from tacit.server.scoring.model import Loader, Served
from tacit.server.scoring.receipts import Place, Scribe
from tacit.server.scoring.settings import Settings
from tacit.server.scoring.stands import CHALLENGER, SHADOW, Stand, Stands
from tacit.server.scoring.traffic import Beside, Decoy
from tacit.server.store import Store
from tacit.tasks.scoring import Array


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets.

    Attributes:
        served: the version that answered.
        place: as what.
        outputs: what the model gives, a row a record.
        receipt: signed and durable.
        key: of the receipt's commitments; kept nowhere.
        problem: why another than the alias's version answers; "" if none does.
    """

    served: Served
    place: Place
    outputs: Array
    receipt: dict[str, Any]
    key: bytes
    problem: str

    def to_json(self) -> dict[str, Any]:
        """As a caller gets it."""
        return {
            "request": self.receipt["request"],
            "model": self.served.model,
            "alias": self.place.alias,
            "version": self.served.number,
            "artifact": self.served.artifact,
            "role": self.place.role,
            "outputs": self.outputs.tolist(),
            "labels": labels(self.outputs),
            "problem": self.problem,
            "receipt": signed.Envelope(self.receipt).to_json(),
            "key": self.key.hex(),
        }


def labels(outputs: Array) -> list[Any] | None:
    """Where the largest of each record's outputs is; None if there is one output or none."""
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        return None
    found: list[Any] = outputs.argmax(-1).tolist()
    return found


class Router:
    """Answers requests for the models of one home.

    Args:
        store: of the home.
        registry: its versions.
        lifecycle: its aliases.
        recorder: of its accesses.
        settings: of the answers.
        loader: of versions; None makes one.
    """

    def __init__(
        self,
        store: Store,
        registry: ModelRegistry,
        lifecycle: Lifecycle,
        recorder: Recorder,
        settings: Settings | None = None,
        loader: Loader | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._store, self._pending = store, 0
        self.stands = Stands(
            store,
            registry,
            lifecycle,
            loader or Loader(store, registry, apart=True),
            self.settings.look,
        )
        self._scribe = Scribe(recorder)
        workers = self.settings.workers
        self._first = ThreadPoolExecutor(workers, "tacit-score")
        self._rest = ThreadPoolExecutor(workers, "tacit-fallback")
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._decoys: dict[tuple[str, str], Decoy] = {}

    def close(self) -> None:
        """Ends the threads; what is under way gets its receipts."""
        self.stands.stop()
        for pool in (self._first, self._rest):
            pool.shutdown(wait=True, cancel_futures=True)
        for lane in self._lanes.values():
            lane.stop()
        self._scribe.stop()

    async def score(
        self, actor: str, model: str, alias: str, given: Any, request: str | None = None
    ) -> Answer:
        """Answers one request.

        Args:
            actor: who asks, for the receipt.
            model: whose.
            alias: that names the version.
            given: records, `Served.records`.
            request: an id of the caller's choice, used once; None makes one.

        Raises:
            BusyError: not within the budget, or there are too many requests.
            MissingError: the alias names no version.
            ConfigError: the records or the id aren't fit.
            ConflictError: the id was used before.
            ModelError: no version could score these records.
        """
        began, records = time.monotonic(), len(given) if hasattr(given, "__len__") else 0
        outcome = "failed"
        try:
            with self._counted():
                async with asyncio.timeout(self.settings.budget):
                    answer = await self._answered(actor, model, alias, given, request, began)
            outcome = (
                answer.place.role if answer.place.role in ("canary", "fallback") else "answered"
            )
            return answer
        except TimeoutError:
            outcome = "late"
            raise BusyError(f"no answer within {self.settings.budget:g} s") from None
        except BusyError:
            outcome = "busy"
            raise
        except (ConfigError, ModelError):
            outcome = "refused"
            raise
        finally:
            if self.stands.now(model, alias) is not None:
                self._decoy(model, alias).note(outcome, records, time.monotonic() - began)

    def state(self, model: str) -> dict[str, Any]:
        """How a model's aliases stand, its traffic's shape, and what came of those beside."""
        stands = {
            alias: {
                "leaf": stand.leaf,
                "names": stand.number,
                "serves": stand.serving.number if stand.serving else None,
                "falls_back_to": stand.before.number if stand.before else None,
                "problem": stand.problem,
            }
            for alias, stand in sorted(self.stands.of(model).items())
        }
        shapes = {a: decoy.shape() for (m, a), decoy in self._decoys.items() if m == model}
        beside = {a: lane.seen.to_json() for (m, a), lane in self._lanes.items() if m == model}
        return {"aliases": stands, "traffic": shapes, "beside": beside}

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self.stands.ended:
            raise BusyError(self.stands.ended, 60)
        if self._pending >= self.settings.pending:
            raise BusyError(f"pending={self._pending} requests are under way")
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1

    async def _answered(
        self,
        actor: str,
        model: str,
        alias: str,
        given: Any,
        request: str | None,
        began: float,
    ) -> Answer:
        stand = self.stands.now(model, alias)
        if stand is None:
            # Loading takes longer than the budget; it goes on when this request has given up.
            stand = await asyncio.shield(asyncio.wrap_future(self.stands.ask(model, alias)))
        if stand.serving is None:
            raise BusyError(f"{model}@{alias} can't be served: its version couldn't be loaded", 10)
        turns = list(self._turns(actor, model, alias, stand))
        for at, (served, place) in enumerate(turns):
            last = at == len(turns) - 1
            left = self.settings.budget - (time.monotonic() - began)
            try:
                inputs = served.records(given)
                async with asyncio.timeout(None if last else left / 2):
                    outputs, receipt, key = await self._run(
                        served, place, inputs, request, self._rest if at else self._first
                    )
                break
            except (TimeoutError, ModelError) as error:
                if last:
                    if isinstance(error, TimeoutError):
                        raise
                    raise ModelError(f"{model}@{alias} can't score these records") from error
            except ConfigError:
                # What a canary can't take the champion may.
                if place.role != "canary":
                    raise
        written = self._scribe.write(receipt)
        self._offer(model, alias, served, given, outputs)
        await asyncio.wrap_future(written)
        return Answer(served, place, outputs, receipt, key, stand.problem)

    def _turns(
        self, actor: str, model: str, alias: str, stand: Stand
    ) -> Iterator[tuple[Served, Place]]:
        """Which versions are asked, in order."""
        assert stand.serving is not None
        if alias == CHAMPION and self.settings.canary > 0:
            other = self.stands.now(model, CHALLENGER)
            drawn = secrets.randbelow(1 << 30) < self.settings.canary * (1 << 30)
            if drawn and other is not None and other.serving is not None and not other.problem:
                yield other.serving, Place(actor, alias, other.leaf, "canary")
        role = "fallback" if stand.problem else alias
        yield stand.serving, Place(actor, alias, stand.leaf, role)
        if stand.before is not None:
            yield stand.before, Place(actor, alias, stand.leaf, "fallback")

    async def _run(
        self,
        served: Served,
        place: Place,
        inputs: Array,
        request: str | None,
        pool: ThreadPoolExecutor,
    ) -> tuple[Array, dict[str, Any], bytes]:
        """Outputs, and their receipt, which isn't written yet."""
        options = onnxruntime.RunOptions()

        def work() -> tuple[Array, dict[str, Any], bytes]:
            outputs = served.run(inputs, options)
            if not np.isfinite(outputs).all():
                raise ModelError(f"{served.model}@{served.number} gave numbers that aren't finite")
            asked = request or secrets.token_hex(16)
            return outputs, *receipts.made(
                self._store.signer, served, place, asked, inputs, outputs
            )

        future: Future[tuple[Array, dict[str, Any], bytes]] = pool.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # Its time is up: it needn't go on.
            options.terminate = True
            raise

    def _offer(self, model: str, alias: str, served: Served, given: Any, outputs: Array) -> None:
        """Gives the same records to those that run beside the champion."""
        if alias != CHAMPION:
            return
        for other in (SHADOW, CHALLENGER):
            stand = self.stands.now(model, other)
            if stand is None or stand.serving is None or stand.problem or stand.serving is served:
                continue
            lane = self._lanes.get((model, other))
            if lane is None:
                lane = self._lanes[model, other] = Lane(f"tacit-{other}", self.settings.lag)
            lane.offer(stand.serving, given, outputs)

    def _decoy(self, model: str, alias: str) -> Decoy:
        return self._decoys.setdefault((model, alias), Decoy())


class Lane:
    """One thread for a version beside the champion, and a queue that is never waited for.

    Attributes:
        seen: what came of it.

    Args:
        name: of the thread.
        size: of the queue.
    """

    def __init__(self, name: str, size: int) -> None:
        self.seen = Beside()
        self._queue: Queue[tuple[Served, Any, Array]] = Queue(size)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, served: Served, given: Any, outputs: Array) -> None:
        """Has records scored some time, if there is room; never waits."""
        try:
            self._queue.put_nowait((served, given, outputs))
        except Full:
            self.seen.dropped += 1

    def stop(self) -> None:
        """Ends after the run under way, if that ends soon; what waits isn't scored."""
        self._stopped.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                served, given, outputs = self._queue.get(timeout=0.25)
            except Empty:
                continue
            try:
                mine = served.run(served.records(given))
                same = mine.reshape(len(mine), -1).argmax(1) == outputs.reshape(
                    len(outputs), -1
                ).argmax(1)
            except (TacitError, ValueError):
                self.seen.failed += 1
                continue
            self.seen.agreed += int(same.sum())
            self.seen.differed += int((~same).sum())
