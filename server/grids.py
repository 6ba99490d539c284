"""What Grids of tacit's own share: Flower's record of a run, messages, waiting for replies.

`OwnGrid` is the base of those that reach clients themselves, `WrappingGrid` of those that
change what another Grid does; `Nodes` numbers clients, and `pushed` is how messages are pushed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from tacit.server import outside

_POLL = 0.02


class Nodes(Mapping[int, int]):
    """The node id of each client number below a population's size, worked out when asked for.

    Args:
        first: node id of client 0.
        clients: the size.
    """

    def __init__(self, first: int, clients: int) -> None:
        self._first, self._clients = first, range(clients)

    def __getitem__(self, client: int) -> int:
        if client not in self._clients:
            raise KeyError(client)
        return self._first + client

    def __iter__(self) -> Iterator[int]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


class OwnGrid(Grid):
    """A Grid that isn't one of Flower's: has nodes, pushes and pulls."""

    def __init__(self) -> None:
        self._run = outside.prepare()

    def set_run(self, run: Run) -> None:
        """Part of Flower's interface; nothing here depends on the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's record of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Pushes, and pulls until all have replied or time is up."""
        # In the order of the messages: in one process that is the order of the calls.
        waiting = dict.fromkeys(i for i in self.push_messages(messages) if i)
        end = None if timeout is None else time.monotonic() + timeout
        found: list[Message] = []
        while waiting:
            came = list(self.pull_messages(list(waiting)))
            for reply in came:
                waiting.pop(reply.metadata.reply_to_message_id, None)
            found += came
            if end is not None and time.monotonic() > end:
                break
            if waiting and not came:
                time.sleep(_POLL)
        return found


class WrappingGrid(Grid):
    """Another Grid, but for what a subclass changes.

    Args:
        grid: the other one.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """As the other Grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """As the other Grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As the other Grid."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As the other Grid."""
        return self._grid.get_node_ids()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As the other Grid."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def pushed(grid: Grid, messages: Sequence[Message]) -> list[str]:
    """Pushes messages; returns an id for each, empty where it wasn't accepted."""
    if not messages:
        return []
    ids = list(grid.push_messages(messages))
    if len(ids) != len(messages):
        # Too much at once, and nothing was taken.
        ids = [next(iter(grid.push_messages([m])), "") for m in messages]
    return ids
