"""Which node is which client: asked of the nodes, and believed where it is signed.

Flower's node ids differ from run to run, and may differ when a node is started again. With a
directory a node is a client's if it has that client's key, and what else it says costs itself
its place and nobody else's. Without one (in a simulation) it is taken at its word.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from tacit.configs import wire
from tacit.privacy.errors import MessageError, RoundError
from tacit.privacy.secagg.directory import Directory
from tacit.protocol.statements import NONCE_BYTES
from tacit.server import telemetry

log = logging.getLogger("tacit.legs")

KIND = "query"
# Seconds between two looks, and after which a node that said nothing is asked again.
_POLL, _AGAIN = 0.5, 30.0


@dataclass(slots=True)
class _Question:
    """A question that is under way."""

    node: int
    nonce: bytes | None


class Census:
    """Asks nodes which client they are.

    Args:
        grid: where they are.
        directory: of the clients' keys; None believes what is said.
        clients: numbers from there on are nobody's; None leaves that to the directory.

    Attributes:
        nodes: node id of each client that was found.
        problem: of the first node that couldn't say.
    """

    def __init__(
        self, grid: Grid, directory: Directory | None = None, clients: int | None = None
    ) -> None:
        self._grid, self._directory, self._clients = grid, directory, clients
        self.nodes: dict[int, int] = {}
        self.problem = ""
        self._asked: dict[int, float] = {}
        self._waiting: dict[str, _Question] = {}

    @property
    def waiting(self) -> Collection[str]:
        """Ids of the questions that are under way, for `Grid.pull_messages`."""
        return self._waiting.keys()

    @property
    def seen(self) -> int:
        """How many nodes were asked."""
        return len(self._asked)

    def look(self, known: Collection[int] = ()) -> None:
        """Asks the nodes that are there, but for those that are known or were asked just now.

        Args:
            known: nodes whose client is known.
        """
        now = time.monotonic()
        new = [
            node
            for node in self._grid.get_node_ids()
            if node not in known and now - self._asked.get(node, -_AGAIN) >= _AGAIN
        ]
        if not new:
            return
        questions, messages = [], []
        for node in new:
            nonce = os.urandom(NONCE_BYTES) if self._directory is not None else None
            questions.append(_Question(node, nonce))
            messages.append(Message(wire.ask_who(nonce), dst_node_id=node, message_type=KIND))
        self._asked.update(dict.fromkeys(new, now))
        ids = list(self._grid.push_messages(messages))
        # A Grid may leave out what it doesn't take; those are asked again later.
        if len(ids) == len(questions):
            self._waiting.update((i, q) for i, q in zip(ids, questions, strict=True) if i)

    def take(self, messages: Iterable[Message]) -> bool:
        """Takes answers; others are left alone.

        Returns:
            Whether there was one.

        Raises:
            RoundError: two nodes say that they are one client, and nothing is signed.
        """
        came = False
        for message in messages:
            question = self._waiting.pop(message.metadata.reply_to_message_id, None)
            if question is not None:
                came = True
                self._take(message, question)
        return came

    def _take(self, message: Message, question: _Question) -> None:
        if message.has_error():
            self.problem = self.problem or f"; one said: {message.error.reason}"
            return
        try:
            client = wire.who(message)
            if self._clients is not None and client >= self._clients:
                raise MessageError("a node says it is a client that there isn't")
            if self._directory is not None:
                public = self._directory.public(client)
                if public is None:
                    raise MessageError("a node says it is a client that isn't in the directory")
                wire.check_who(message, (question.nonce or b"", KIND), client, public)
        except MessageError as error:
            telemetry.reply(KIND, "forged" if self._directory is not None else "malformed")
            log.warning("census: an answer was refused: %s", error.message)
            self.problem = self.problem or f"; one was refused: {error.message}"
            return
        if self.nodes.setdefault(client, question.node) != question.node:
            if self._directory is None:
                raise RoundError(f"two nodes say they are client {client}", "check partition-id")
            # Both have its key, so it is the client's own doing; the last one is alive.
            log.warning("census: two nodes have one client's key")
            self.nodes[client] = question.node


def census(
    grid: Grid,
    clients: int,
    wait: float = 120.0,
    directory: Directory | None = None,
    fewest: int | None = None,
) -> dict[int, int]:
    """Asks every node which client it is.

    Args:
        grid: where they are.
        clients: how many there are.
        wait: seconds for all of them to be found.
        directory: of their keys; where it is given, only what is signed counts.
        fewest: how many will do after that time; None needs all.

    Returns:
        The node id of each client that was found, of numbers below ``clients``.

    Raises:
        RoundError: fewer than ``fewest`` were found, or, without a directory, a client is
            claimed twice.
    """
    end = time.monotonic() + wait
    found = Census(grid, directory, clients)
    while True:
        found.look(found.nodes.values())
        came = found.take(grid.pull_messages(list(found.waiting))) if found.waiting else False
        if len(found.nodes) >= clients and (directory is not None or not found.waiting):
            break
        if time.monotonic() > end:
            break
        if not came:
            time.sleep(_POLL)
    if len(found.nodes) < (clients if fewest is None else fewest):
        raise RoundError(
            f"clients={clients} but {len(found.nodes)} of {found.seen} nodes answered"
            f"{found.problem}",
            "start more nodes (--federation-config num-supernodes=) or lower clients=",
        )
    if len(found.nodes) < clients:
        log.warning("census: %d of %d clients are there", len(found.nodes), clients)
    return found.nodes
