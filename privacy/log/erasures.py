"""What the log says of clients that withdrew.

Part of the verifier (`tacit.privacy.log.trail`). Guarantees of ERASURE leaves: a case is opened
once, closed at most once and after that, of the same population, with a choice when it is closed.

They name no client, version or round: the case file is there as a commitment, which
`tacit.privacy.erasure` opens with what a report has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tacit.privacy.errors import MessageError

Leaf = Mapping[str, Any]
CHOICES = ("retrain", "keep")
_CASE = re.compile(r"[0-9a-f]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Erasures:
    """Follows the cases of a log.

    Attributes:
        opened: of each case its population.
        closed: the cases that are.
    """

    def __init__(self) -> None:
        self.opened: dict[str, str] = {}
        self.closed: set[str] = set()

    def take(self, body: Leaf) -> Iterator[str]:
        """What is wrong with the next ERASURE leaf."""
        case, population, stage = body["case"], body["population"], body["stage"]
        if not _CASE.fullmatch(case) or not _DIGEST.fullmatch(body["file"]):
            raise MessageError("case or file isn't hexadecimal")
        if not isinstance(population, str) or not population:
            raise MessageError("population isn't text")
        if stage == "opened":
            if case in self.opened:
                yield f"case={case} is opened twice"
            if body["choice"] is not None:
                yield f"case={case} is opened with a choice"
            self.opened.setdefault(case, population)
        elif stage == "closed":
            if self.opened.get(case) != population:
                yield f"case={case} of {population} is closed, and wasn't opened"
            if case in self.closed:
                yield f"case={case} is closed twice"
            if body["choice"] not in CHOICES:
                yield f"case={case} is closed with choice={body['choice']!r:.40}"
            self.closed.add(case)
        else:
            raise MessageError(f"stage={stage!r:.40} is unknown")
