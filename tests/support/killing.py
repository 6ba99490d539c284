"""A client of secure aggregation whose process is killed, with SIGKILL, wherever it hurts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from masking import RULES, Session

from tacit.privacy.errors import RoundError
from tacit.privacy.messages import TrainRequest
from tacit.privacy.noise import SystemSource
from tacit.privacy.secagg import messages as m
from tacit.privacy.secagg.client import MaskingClient
from tacit.privacy.secagg.vault import Vault
from tacit.privacy.secagg.words import Words

KINDS: dict[str, Any] = {
    "advertise": m.Invitation,
    "share": m.Roster,
    "confirm": m.Survivors,
    "reveal": m.Reveal,
}


class Killed:
    """Client 0 of a session, in processes that are killed after each answer, or before it.

    Args:
        session: whose client 0 it is.
        folder: of its vault.
    """

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.path = session, folder / "0.vault"

    def ask(self, say: str, data: bytes, at: str = "", again: bool = True) -> bytes:
        """The answer; raises what the process that was asked raised.

        Args:
            say: which exchange.
            data: the request; the members alone where vectors are masked.
            at: where it is killed instead: "computed", with the answer made and nothing
                written, or "written", with nothing said.
            again: whether what was said before is looked up, as clients do.
        """
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            self._child(say, data, (at, again), writing)
        os.close(writing)
        with open(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert said != b"failed"
        if said.startswith(b"refused "):
            raise RoundError(said.decode())
        return said

    def _child(self, say: str, data: bytes, how: tuple[str, bool], writing: int) -> NoReturn:
        answer = b"failed"
        try:
            answer = self._answer(say, data, *how)
        except RoundError as error:
            answer = b"refused " + error.message.encode()
        finally:
            os.write(writing, answer)
            os.kill(os.getpid(), signal.SIGKILL)

    def _answer(self, say: str, data: bytes, at: str, again: bool) -> bytes:
        session, directory, vault = self.session, self.session.directory, Vault(self.path)
        client = MaskingClient(0, directory.identity(0), directory, RULES, vault)
        request = self.task(data) if say == "mask" else KINDS[say].decode(data)
        if again:
            kind = "train" if say == "mask" else f"query.{say}"
            said = client.answered(session.id, kind, request.encode())
            if said is not None:
                return said
        dying(vault, at)
        words = Words(16)
        asks: dict[str, Callable[[], m.Answer]] = {
            "advertise": lambda: client.advertise(request),
            "share": lambda: client.share(request, SystemSource()),
            "mask": lambda: client.mask(
                session.id, data, words.from_integers(np.arange(8)), words, request
            ),
            "confirm": lambda: client.confirm(request),
            "reveal": lambda: client.reveal(request),
        }
        return asks[say]().encode()

    def task(self, members: bytes) -> Any:
        """The request that a vector answers."""
        said = self.session.invitation
        place = (said.run, said.round, said.attempt)
        return TrainRequest(*place, "p", "f", 1.0, 0, members, np.zeros(8, np.float32))


def dying(vault: Vault, at: str) -> None:
    """Makes a vault kill its process when it is told to write, or when it has written."""
    honest = vault._writing

    @contextlib.contextmanager
    def deadly() -> Iterator[Any]:
        if at == "computed":
            os.kill(os.getpid(), signal.SIGKILL)
        with honest() as db:
            yield db
        os.kill(os.getpid(), signal.SIGKILL)

    if at:
        vault._writing = deadly  # type: ignore[method-assign]
