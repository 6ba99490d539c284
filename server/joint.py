"""One Grid over several: a federation whose clients are reached in different ways.

Silos on SuperNodes, devices behind the gateway and clients in this process are parts with
nodes of their own; the coordinator sees one Grid and one table of nodes. Guarantees: a client
and a node belong to one part, a message goes to the part of its node, and a reply is that to
the message it was pushed as, even where two parts give out the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

from tacit.privacy.errors import ConfigError
from tacit.server import grids, outside
from tacit.server.grids import OwnGrid


class JointGrid(OwnGrid):
    """Several Grids as one.

    Args:
        parts: each Grid, and the node id of each client that it reaches.
        growing: one of these Grids, whose other nodes are known too, as a SuperLink's have to
            be: a client may come up on a node of another id. The others' aren't.

    Attributes:
        nodes: the node id of each client.

    Raises:
        ConfigError: there is no part, or two have a client or a node in common.
    """

    def __init__(self, *parts: tuple[Grid, Mapping[int, int]], growing: Grid | None = None) -> None:
        if not parts:
            raise ConfigError("a joint grid needs parts")
        super().__init__()
        self._parts, self._growing = [grid for grid, _ in parts], growing
        self._part: dict[int, int] = {}
        self.nodes: dict[int, int] = {}
        for place, (_, nodes) in enumerate(parts):
            for client, node in nodes.items():
                if client in self.nodes:
                    raise ConfigError(f"client={client} is in two parts of the federation")
                if node in self._part:
                    raise ConfigError(f"node={node} is two clients'")
                self.nodes[client], self._part[node] = node, place

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of all parts that are there now, and are clients' or may be."""
        found = []
        for place, grid in enumerate(self._parts):
            for node in grid.get_node_ids():
                if grid is self._growing:
                    self._part.setdefault(node, place)
                if self._part.get(node) == place:
                    found.append(node)
        return found

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pushes each message to the part of its node; an unknown node's isn't accepted."""
        messages = list(messages)
        made = [""] * len(messages)
        for place, grid in enumerate(self._parts):
            mine = [k for k, m in enumerate(messages) if self._place(m) == place]
            ids = grids.pushed(grid, [messages[k] for k in mine])
            for k, identifier in zip(mine, ids, strict=True):
                made[k] = f"{place}:{identifier}" if identifier else ""
        return made

    def _place(self, message: Message) -> int | None:
        return self._part.get(message.metadata.dst_node_id)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields the replies of all parts as they come; parts that are slow hold up none."""
        asked: dict[int, list[str]] = {}
        for identifier in message_ids:
            part, _, own = identifier.partition(":")
            asked.setdefault(int(part), []).append(own)
        for place, mine in asked.items():
            for reply in self._parts[place].pull_messages(mine):
                outside.answers(reply, f"{place}:{reply.metadata.reply_to_message_id}")
                yield reply
