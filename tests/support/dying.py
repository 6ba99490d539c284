"""An agent that is killed at one point of one leg: ``python dying.py HOME KIND WHEN``.

WHEN is "before" anything is done, "written" once the answer is on disk and before it is sent,
or "sent" once it is.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from tacit.client.edge import command, link, member


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(home: str, kind: str, when: str) -> None:
    answer, send = member.Member.answer, link.Link.answer
    doomed = False

    def answering(self: Any, asked: str, *rest: Any) -> bytes:
        nonlocal doomed
        if asked == kind and when == "before":
            killed()
        made = answer(self, asked, *rest)
        if asked == kind and when == "written":
            killed()
        doomed = asked == kind
        return made

    async def sending(self: Any, what: Any) -> None:
        await send(self, what)
        if doomed:
            killed()

    member.Member.answer = answering  # type: ignore[method-assign]
    link.Link.answer = sending  # type: ignore[method-assign]
    command.run(["run", "--home", home])


if __name__ == "__main__":
    main(*sys.argv[1:])
