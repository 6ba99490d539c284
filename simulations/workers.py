"""Worker processes for a simulation's clients: forked, so that they share model and data.

A worker has everything the simulation has at the moment it is forked, the task's data
included, as the same pages of memory; only messages are copied. Groups of clients are handed
out in order and their replies come back in order, so a run's result doesn't depend on how many
workers there are. A worker that dies, of whatever, ends the run with an error that says so; one
whose parent dies ends too.

Only clients that keep nothing between messages may be called so: secure aggregation's full
protocol is not.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

import torch
from flwr.app import Message

from tacit.privacy import validate
from tacit.privacy.errors import EngineError, TacitError
from tacit.simulations.grid import InProcessGrid, groups

# Groups that may be done before their turn, for each worker; more would hold more memory.
_AHEAD = 3
# Shorter groups are cheaper called than sent.
_WORTH = 0.02
# Bytes of a worker's desk: address space, of which only what is written to takes memory.
_DESK = 64 * 2**20

Tell = Callable[[Any], None]
Work = Callable[[Any, Tell], Any]


def available() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Pool:
    """Processes that do one kind of work.

    Args:
        work: called in a worker, with an item that can be pickled, as its result must be,
            and a function that tells this process something meanwhile.
        count: of workers.
        told: is called here with what they tell.
    """

    def __init__(self, work: Work, count: int, told: Tell | None = None) -> None:
        validate.at_least("workers", count, 1)
        self._told = told
        self._said: set[str] = set()
        context = multiprocessing.get_context("fork")
        self._workers: list[tuple[ForkProcess, Connection]] = []
        self._desks: dict[Connection, _Desk] = {}
        for _ in range(count):
            mine, theirs = context.Pipe()
            others = [connection for _, connection in self._workers]
            desk = _Desk()
            process = context.Process(
                target=_serve, args=(work, (theirs, desk), [mine, *others]), daemon=True
            )
            process.start()
            theirs.close()
            self._workers.append((process, mine))
            self._desks[mine] = desk

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """The results of items, in their order.

        Raises:
            TacitError: what a worker raised.
            EngineError: anything else did, with its traceback; or a worker is dead.
        """
        if self.closed:
            raise RuntimeError("the workers have ended")
        whole = False
        try:
            yield from self._mapped(items)
            whole = True
        finally:
            # Results of what nobody waits for any more would be taken for the next items'.
            if not whole:
                self.close()

    def _mapped(self, items: Iterable[Any]) -> Iterator[Any]:
        todo = enumerate(items)
        idle = list(self._workers)
        busy: dict[Connection, tuple[ForkProcess, int]] = {}
        done: dict[int, Any] = {}
        due, more = 0, True
        while True:
            while idle and more and len(done) < _AHEAD * len(self._workers):
                place, item = next(todo, (-1, None))
                if place < 0:
                    more = False
                    break
                process, connection = idle.pop()
                self._send(process, connection, item)
                busy[connection] = process, place
            if due in done:
                yield done.pop(due)
                due += 1
                continue
            if not busy:
                return
            for connection in self._awaited(busy):
                process, place = busy[connection]
                kind, value = self._received(process, connection)
                if kind == "log":
                    self._logged(value)
                    continue
                if kind == "told":
                    if self._told is not None:
                        self._told(value)
                    continue
                del busy[connection]
                done[place] = value
                idle.append((process, connection))

    def _awaited(self, busy: Mapping[Connection, object]) -> list[Connection]:
        """Those that have something to say; waits for the first."""
        ready = wait(list(busy))
        return [c for _, c in self._workers if c in busy and c in ready]

    def _send(self, process: ForkProcess, connection: Connection, item: Any) -> None:
        try:
            connection.send(item)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._dead(process) from error

    def _received(self, process: ForkProcess, connection: Connection) -> tuple[str, Any]:
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._dead(process) from error
        if kind == "desk":
            return "result", self._desks[connection].take()
        if kind in ("result", "told", "log"):
            return kind, value
        self.close()
        if kind == "raised":
            raise value
        raise EngineError(f"a worker failed:\n{value}", "this is a bug in tacit, or in the task")

    def _dead(self, process: ForkProcess) -> EngineError:
        process.join(5.0)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"
        self.close()
        return EngineError(
            f"a worker process died ({how}); the round's charge stands",
            "is memory short? try fewer --workers; go on with tacit simulate --resume last",
        )

    def _logged(self, record: logging.LogRecord) -> None:
        """Passes a worker's record on; what several say alike once."""
        if record.getMessage() not in self._said:
            self._said.add(record.getMessage())
            logging.getLogger(record.name).handle(record)

    @property
    def closed(self) -> bool:
        """Whether the workers have ended."""
        return not self._workers

    def close(self) -> None:
        """Ends the workers."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join(5.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for desk in self._desks.values():
            desk.close()
        self._workers, self._desks = [], {}


class _Desk:
    """Where a worker leaves its results: memory that it shares with its parent.

    Nobody waits there for a pipe to be emptied, and the next item only comes once a result was
    taken.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _DESK)
        self._small = False

    def lay(self, value: Any) -> bool:
        """Pickles a result; False if there isn't room, and then never again."""
        self._memory.seek(0)
        if not self._small:
            pickle.dump(value, self, protocol=pickle.HIGHEST_PROTOCOL)
        return not self._small

    def write(self, data: Any) -> int:
        """Takes the pickle's next bytes, and loses them once there is no room."""
        size = memoryview(data).nbytes
        self._small = self._small or self._memory.tell() + size > _DESK
        return size if self._small else self._memory.write(data)

    def take(self) -> Any:
        """The result that lies there."""
        self._memory.seek(0)
        return pickle.load(self._memory)  # noqa: S301 - a worker's

    def close(self) -> None:
        """Gives the memory back."""
        self._memory.close()


def _serve(work: Work, ways: tuple[Connection, _Desk], others: Sequence[Connection]) -> None:
    """A worker's life: until the other end of its pipe is closed."""
    connection, desk = ways
    for other in others:
        other.close()
    # The terminal's interrupt is the parent's to handle, and its log handlers may hold locks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # OpenMP's threads aren't forked: a library that waits for them would wait for ever.
    torch.set_num_threads(1)
    # As may whatever draws the parent's progress.
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    logging.getLogger().handlers.clear()
    logger = logging.getLogger("tacit")
    logger.handlers, logger.propagate = [_Sending(connection)], False
    while True:
        try:
            item = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        try:
            _send(connection, _answer(work, item, connection), desk)
        except (BrokenPipeError, ConnectionResetError):
            break
    # Nothing of the parent's is to be closed or flushed from here.
    os._exit(0)


class _Sending(QueueHandler):
    """Sends a worker's log records to its parent."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)  # type: ignore[arg-type]  # only `enqueue` uses it

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sends one."""
        self.queue.send(("log", record))  # type: ignore[attr-defined]


def _send(connection: Connection, answer: tuple[str, Any], desk: _Desk) -> None:
    """Sends an answer; one that can't be pickled, or not be read again, as a failure."""
    kind, value = answer
    try:
        if kind == "raised":
            pickle.loads(pickle.dumps(value))  # noqa: S301 - what was dumped here
        if kind == "result" and desk.lay(value):
            answer = "desk", None
        connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception:  # noqa: BLE001
        # Whatever a value's own pickling raises.
        why = traceback.format_exc() if kind != "raised" else f"{type(value).__name__}: {value}"
        connection.send(("failed", why))


def _answer(work: Work, item: Any, connection: Connection) -> tuple[str, Any]:
    try:
        return "result", work(item, lambda note: connection.send(("told", note)))
    except TacitError as error:
        return "raised", error
    except Exception:  # noqa: BLE001
        return "failed", traceback.format_exc()


class PooledGrid(InProcessGrid):
    """An `InProcessGrid` whose clients train and evaluate in worker processes.

    Args:
        args: as for `InProcessGrid`.
        workers: how many; None takes one a core, and only once the clients turn out slow
            enough for it to pay.
        options: as for `InProcessGrid`.
    """

    def __init__(self, *args: Any, workers: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        if workers is not None:
            validate.at_least("workers", workers, 1)
        self._wanted = workers
        self._pool: Pool | None = None

    def close(self) -> None:
        """Ends the workers."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields replies in order."""
        ids = [i for i in message_ids if i in self._pending]
        kinds = {self._pending[i].metadata.message_type for i in ids}
        count = available() if self._wanted is None else self._wanted
        if count == 1 or not kinds <= {"train", "evaluate"}:
            yield from super().pull_messages(ids)
            return
        if self._pool is not None and self._pool.closed:
            self._pool = None
        todo = list(groups(ids))
        while todo and self._pool is None:
            if self._wanted is not None:
                self._pool = Pool(self._answers, count)
                break
            began = time.perf_counter()
            group = [self._pending.pop(i) for i in todo.pop(0)]
            self.prepare(group)
            replies = [self._call(message) for message in group]
            if time.perf_counter() - began > _WORTH and len(todo) > 1:
                self._pool = Pool(self._answers, count)
            yield from replies
        if self._pool is None:
            return
        messages = [[self._pending.pop(i) for i in group] for group in todo]
        for replies in self._pool.map(messages):
            yield from replies

    def _answers(self, messages: list[Message], tell: Tell) -> list[Message]:
        """A group's replies; called in a worker."""
        self.prepare(messages)
        return [self._call(message) for message in messages]
