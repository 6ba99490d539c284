"""A Flower `Grid` in one process: clients are called directly.

No Ray, no serialisation, no threads. A client is called when its reply is pulled, so a
coordinator that adds up replies as they come never holds more than one. Clients that are to
train may be prepared for in groups (`Ahead`), and groups may be called in worker processes
(`tacit.simulations.workers`). What flwr 1.41 keeps private is in `tacit.server.outside`.
"""

from __future__ import annotations

import itertools
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from tacit.privacy.errors import MessageError, RoundError, TacitError
from tacit.server import outside
from tacit.server.grids import Nodes, OwnGrid

_FIRST_NODE = 1000
# Clients that are prepared for together: enough to share a pass, few enough for several
# workers and for the cache. Measured.
_TOGETHER = 16

Ahead = Callable[[Sequence[Message], Sequence[int]], None]


class InProcessGrid(OwnGrid):
    """Calls a ClientApp for each of ``clients`` nodes.

    An exception in a client becomes an error reply, as on Flower's engines, a refusal
    (`RoundError`, `MessageError`) too. Another `TacitError` is the user's to mend and ends
    the simulation.

    Args:
        app: the clients'.
        clients: how many; contexts are made when a client is first called.
        run_config: what the clients find in their context.
        ahead: is shown messages of type ``train``, and the numbers of their clients, before
            these are called.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        run_config: Mapping[str, Any],
        ahead: Ahead | None = None,
    ) -> None:
        super().__init__()
        self._app, self._clients, self._config = app, clients, dict(run_config)
        self._ahead = ahead
        # Each waiting client's group, which is empty once it is prepared for.
        self._groups: dict[str, list[str]] = {}
        self._ids = itertools.count(1)
        self._pending: dict[str, Message] = {}
        self._states: dict[int, RecordDict] = {}

    @property
    def nodes(self) -> Mapping[int, int]:
        """Node id of each client number."""
        return Nodes(_FIRST_NODE, self._clients)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return range(_FIRST_NODE, _FIRST_NODE + self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Takes messages; their clients are called when replies are pulled."""
        pushed = []
        for message in messages:
            identifier = f"m{next(self._ids)}"
            outside.name(message, identifier)
            self._pending[identifier] = message
            pushed.append(identifier)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yields replies one by one, calling each client as its turn comes."""
        for identifier in message_ids:
            if identifier in self._pending:
                self._prepare(identifier)
                yield self._call(self._pending.pop(identifier))

    def _prepare(self, identifier: str) -> None:
        """Prepares for a client that is about to train, and for the others of its group."""
        if self._ahead is None or self._pending[identifier].metadata.message_type != "train":
            return
        if identifier not in self._groups:
            waiting = [i for i, m in self._pending.items() if m.metadata.message_type == "train"]
            for group in groups([i for i in waiting if i not in self._groups]):
                self._groups.update(dict.fromkeys(group, group))
        group = self._groups.pop(identifier)
        if group:
            self.prepare([self._pending[i] for i in group if i in self._pending])
            group.clear()

    def prepare(self, messages: Sequence[Message]) -> None:
        """Shows messages of type ``train`` to ``ahead``."""
        messages = [m for m in messages if m.metadata.message_type == "train"]
        if self._ahead is not None and messages:
            self._ahead(messages, [m.metadata.dst_node_id - _FIRST_NODE for m in messages])

    def _call(self, message: Message) -> Message:
        """One client's reply."""
        node = message.metadata.dst_node_id
        context = Context(
            run_id=1,
            node_id=node,
            node_config={"partition-id": node - _FIRST_NODE, "num-partitions": self._clients},
            state=self._states.get(node, RecordDict()),
            run_config=dict(self._config),
        )
        # The client gets its own record: it may change what it is handed.
        own = RecordDict(dict(message.content))
        asked = Message(own, node, message.metadata.message_type)
        asked.metadata.__dict__.update(message.metadata.__dict__)
        try:
            reply = self._app(asked, context)
        except (RoundError, MessageError) as error:
            # A client that refuses to go on, as it might on any engine.
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=str(error)), reply_to=message)
        except TacitError:
            raise
        except Exception as error:  # noqa: BLE001
            # What Flower's engines do: one client's failure is a reply, not the run's end.
            reason = "".join(traceback.format_exception(error))
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=reason), reply_to=message)
        if len(context.state) > 0:
            self._states[node] = context.state
        return reply


def groups(items: Sequence[str]) -> Iterator[list[str]]:
    """Splits a cohort into groups of nearly one size, an even number of them if several.

    Depends on their number only: who trains together, and so how sums round, is the same
    whatever the number of workers.
    """
    count = math.ceil(len(items) / _TOGETHER)
    if count > 1:
        count += count % 2
    start = 0
    for k in range(count):
        end = (k + 1) * len(items) // count
        yield list(items[start:end])
        start = end
