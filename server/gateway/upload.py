"""One answer that arrives in parts: in order, without gaps, no longer than it said."""

from __future__ import annotations

import math

from tacit.privacy.secagg.keys import SIGNATURE_BYTES
from tacit.protocol import edge_pb2 as pb
from tacit.server.gateway.desk import Assignment
from tacit.server.gateway.refused import RefusedError
from tacit.server.gateway.settings import Limits

# An answer of secure aggregation has less than 1 KiB for each peer, of whom the request has
# 132 bytes or more; a vector has at most 4 bytes for each of at most twice the request's numbers,
# which have 2 or more each. Twice that at least, and room for what is of one size.
_RATIO, _LEAST = 64, 1 << 20
_VECTOR = 8


def most(task: Assignment, limit: int) -> int:
    """Bytes that an answer to a task may have: no more than its request can lead to."""
    ratio = _VECTOR if task.kind in ("train", "evaluate") else _RATIO
    return min(limit, _LEAST + ratio * task.size)


class Upload:
    """Puts an answer together.

    Args:
        task: that it answers.
        total: its bytes, as the first part says.
        most: that it may have.

    Raises:
        RefusedError: it says that it is empty, or longer than it may be.
    """

    def __init__(self, task: Assignment, total: int, most: int) -> None:
        if not 0 < total <= most:
            raise RefusedError("TOO_LARGE", f"an answer has 1 to {most} bytes, not {total}")
        self.task, self.total = task, total
        self._parts: list[bytes] = []
        self._size = 0
        self._began, self._grace, self._rate, self._end = 0.0, 0.0, 1.0, math.inf

    def begin(self, now: float, limits: Limits) -> None:
        """It has its room; from ``now`` on it must get on, the faster the more it has taken."""
        self._began, self._grace, self._end = now, limits.grace, now + limits.answer
        self._rate = max(limits.rate, self.total / limits.answer)

    @property
    def until(self) -> float:
        """By when the next part must come, in seconds of the event loop's clock."""
        return min(self._end, self._began + self._grace + self._size / self._rate)

    def add(self, part: pb.AnswerPart) -> tuple[bytes, bytes] | None:
        """Adds a part; returns answer and signature once it is whole.

        Raises:
            RefusedError: the part is out of order, too long, unsigned where it ends the
                answer, or signed where it doesn't.
        """
        if part.total != self.total:
            raise RefusedError("ORDER", "the parts of an answer differ in its total")
        if part.offset != self._size:
            raise RefusedError("ORDER", f"a part at {part.offset} where {self._size} was due")
        if not part.data or self._size + len(part.data) > self.total:
            raise RefusedError("ORDER", "an empty part, or more than the answer's total")
        self._size += len(part.data)
        self._parts.append(part.data)
        whole = self._size == self.total
        if len(part.signature) != (SIGNATURE_BYTES if whole else 0):
            raise RefusedError("SIGNATURE", "the last part, and no other, is signed")
        return (b"".join(self._parts), part.signature) if whole else None
