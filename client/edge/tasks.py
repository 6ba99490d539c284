"""The tasks of a device: one is worked on at a time, and each gets its one answer.

Guarantees: an answer goes out on the stream that brought the task, and again on a later one
that brings it again, until the gateway says that it was received or its time is over; what is
late isn't sent. At most `MOST` tasks wait. Nothing is answered that the member didn't, and a
refusal is one that it gave.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from tacit.client.edge import link as links
from tacit.client.edge.declining import Declined
from tacit.client.edge.journal import say
from tacit.client.edge.link import Answer, Link, LinkError
from tacit.client.edge.member import Member
from tacit.client.edge.wiring import Line, Setup
from tacit.privacy.errors import MessageError, TacitError
from tacit.protocol import edge_pb2 as pb
from tacit.protocol import statements
from tacit.protocol.document import LARGEST

T = TypeVar("T")

# A gateway that sends more at once breaks the protocol.
MOST = 16
# What a leg carries beside the model: a roster, shares for a cohort.
_MOST_BODY = 16 * 1024**2
_MOST_DOCUMENT = LARGEST + 1024
_BEGINNING = ("query.advertise", "train", "evaluate")


@dataclass(slots=True, eq=False)
class _Job:
    """A task, and its answer once there is one: body or None, reason, text."""

    task: pb.Task
    link: Link
    until: float
    answer: tuple[bytes | None, int, str] | None = None
    dropped: bool = False


class Tasks:
    """What the gateway asked of one device.

    Args:
        setup: of the agent.
        line: to the gateway.
    """

    def __init__(self, setup: Setup, line: Line) -> None:
        self._is, self._line = setup, line
        self._member: Member | None = None
        self._jobs: dict[str, _Job] = {}
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()

    def add(self, task: pb.Task, link: Link) -> None:
        """Takes a task, or one that the gateway sends again.

        Raises:
            LinkError: there are too many.
        """
        now = time.monotonic()
        for old in [k for k, job in self._jobs.items() if job.until <= now]:
            self.drop(old, "too late")
        until = now + task.deadline_ms / 1000
        known = self._jobs.get(task.id)
        if known is not None:
            # Signed for the nonce, and sent to the stream, that asked last.
            known.task, known.link, known.until = task, link, until
            if known.answer is not None:
                self._queue.put_nowait(known)
            return
        if len(self._jobs) >= MOST:
            raise LinkError(f"the gateway sent more than {MOST} tasks at once")
        job = _Job(task, link, until)
        self._jobs[task.id] = job
        self._queue.put_nowait(job)
        say("task", kind=task.kind, task=task.id)

    def drop(self, task: str, why: str) -> None:
        """A task is over without an answer."""
        job = self._jobs.pop(task, None)
        if job is not None:
            job.dropped = True
            say("dropped", task=task, why=why[:200])

    def received(self, received: pb.Received) -> None:
        """The gateway has an answer, or won't have it."""
        job = self._jobs.pop(received.task, None)
        if job is not None:
            job.dropped = True
            why = received.why[:200]
            say("received", task=received.task, accepted=received.accepted, why=why)

    async def work(self) -> None:
        """Answers tasks, one after the other, for ever."""
        while True:
            job = await self._queue.get()
            if job.dropped:
                continue
            left = job.until - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left)):
                    if job.answer is None:
                        await self._answer(job)
                    await self._send(job)
            except TimeoutError:
                self.drop(job.task.id, "too late")

    async def _answer(self, job: _Job) -> None:
        began, kind = time.monotonic(), job.task.kind
        try:
            job.answer = (await self._made(job.task), 0, "")
            took = round(time.monotonic() - began, 3)
            say("answered", kind=kind, task=job.task.id, seconds=took)
        except Declined as no:
            job.answer = (None, pb.Refusal.Reason.Value(no.reason), no.message)
            say("refused", kind=kind, task=job.task.id, reason=no.reason, cause=no.cause)
        except TacitError as error:
            # This device's own: its disk, its files.
            job.answer = (None, pb.Refusal.Reason.FAILED, "the device failed")
            # Its text may hold a path.
            cause = type(error).__name__
            say("failed", logging.ERROR, kind=kind, task=job.task.id, cause=cause)

    async def _send(self, job: _Job) -> None:
        """Sends a job's answer; a broken stream leaves it for the next one that asks."""
        if job.answer is None or job.dropped or job.link is not self._line.link:
            return
        body, reason, text = job.answer
        task, who = job.task, self._is.client
        if body is None:
            said = statements.refusal(task.nonce, task.kind, who, reason, text)
        else:
            said = statements.reply(task.nonce, task.kind, who, body)
        signature = self._is.identity.sign(said)
        answer = Answer(task=task.id, body=body, signature=signature, reason=reason, text=text)
        try:
            await job.link.answer(answer)
        except LinkError as error:
            say("not sent", logging.WARNING, task=task.id, why=error.message)

    async def _made(self, task: pb.Task) -> bytes:
        """The answer to a task, once all that it needs is here.

        Raises:
            Declined: with the reason.
        """
        if not task.HasField("run"):
            raise Declined("UNSIGNED", "the task has no run document")
        document = await self._blob(task.run, _MOST_DOCUMENT)
        about = await self._does(lambda member: member.document(document))
        if task.kind in _BEGINNING:
            for sha256, size in about.graphs.items():
                await self._fetched(pb.BlobRef(sha256=bytes.fromhex(sha256), size=size))
        inline = task.body.WhichOneof("where") == "inline"
        most = _MOST_BODY + 4 * about.step.size
        body = task.body.inline if inline else await self._blob(task.body.ref, most)
        unknown = await self._does(lambda member: member.unknown(task.kind, body))
        if unknown:
            await self._meet(unknown)
        eligible = await self._is.eligibility.met()
        made = await self._does(lambda member: member.answer(task.kind, body, document, eligible))
        if not inline:
            self._is.blobs.drop(task.body.ref.sha256)
        return made

    async def _meet(self, unknown: list[int]) -> None:
        """Asks who some peers are; whom the authority doesn't know is missed by the member."""
        entries = None
        while entries is None:
            await self._line.online.wait()
            try:
                link = self._line.link
                entries = await link.lookup(unknown) if link is not None else None
            except LinkError:
                await asyncio.sleep(0.1)
        found = entries
        await self._does(lambda member: member.meet(found))

    async def _blob(self, ref: pb.BlobRef, most: int) -> bytes:
        """A blob, which memory has to hold."""
        if ref.size > most:
            raise Declined("MALFORMED", f"a blob of {ref.size} bytes where {most} are the most")
        await self._fetched(ref)
        try:
            return self._is.blobs.read(ref.sha256)
        except MessageError as error:
            raise Declined("FAILED", "a download was changed on the device") from error

    async def _fetched(self, ref: pb.BlobRef) -> None:
        """Sees to it that a blob is here, over as many connections as it takes."""
        failures = 0
        while True:
            await self._line.online.wait()
            try:
                await self._is.blobs.fetch(ref.sha256, ref.size, self._from(ref.sha256))
            except LinkError as error:
                failures += 1
                say("download broke", logging.WARNING, why=error.message)
                await asyncio.sleep(min(5.0, self._is.backoff.after(failures)))
            except MessageError as error:
                raise Declined("MALFORMED", error.message) from error
            else:
                return

    def _from(self, digest: bytes) -> Callable[[int], AsyncIterator[bytes]]:
        """Downloads from an offset on."""

        async def chunks(offset: int) -> AsyncIterator[bytes]:
            stub = self._line.stub
            if stub is None:
                raise LinkError("not connected")
            call = stub.Download(pb.DownloadRequest(sha256=digest, offset=offset))
            try:
                while True:
                    with links.calling("a download broke"):
                        chunk = await call.read()
                    if not isinstance(chunk, pb.Chunk):
                        return
                    yield chunk.data
            finally:
                # Also where nobody waits for it any more.
                call.cancel()

        return chunks

    async def _does(self, work: Callable[[Member], T]) -> T:
        """Work of the member's, in its thread."""

        def there() -> T:
            if self._member is None:
                self._member = self._is.member()
            return work(self._member)

        if self._is.executor is None:
            return there()
        loop = asyncio.get_running_loop()
        working = loop.run_in_executor(self._is.executor, there)
        working.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded: what was begun is finished, and is answered when it is asked for again.
        return await asyncio.shield(working)
