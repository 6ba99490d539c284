"""One leg of a round: the same kind of request to some clients, their replies as they come.

A leg knows nothing of what it carries, so a protocol of several legs is several calls.
Works on any Flower `Grid`. Replies are matched by the id of the message they answer, never
by the sender's word; a second reply to one request is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid

from tacit.configs import wire
from tacit.privacy.errors import RoundError
from tacit.privacy.messages import Message


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back from one client.

    Attributes:
        client: the client's number.
        message: the reply, or None.
        problem: why there is none: "error", or "no reply" after the deadline.
        detail: of an error, for the operator's eyes.
    """

    client: int
    message: FlowerMessage | None
    problem: str = ""
    detail: str = ""


class Legs:
    """Talks to clients by their numbers.

    Args:
        grid: Flower's.
        nodes: each client's node id.
        deadline: seconds after which a leg is over; None waits for all.
        poll: seconds between two looks when nothing has come.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: Mapping[int, int],
        deadline: float | None = None,
        poll: float = 0.1,
    ) -> None:
        self._grid, self._nodes = grid, nodes
        self._deadline, self._poll = deadline, poll

    def exchange(
        self,
        kind: str,
        requests: Mapping[int, Message],
    ) -> Iterator[Reply]:
        """Sends each client its request and yields one `Reply` for each client.

        Args:
            kind: Flower's type of the messages: train, evaluate, query, or one of these with
                a name, as ``query.share``.
            requests: what each client is sent.
        """
        # Requests are mostly one and the same.
        different = {id(r): r for r in requests.values()}
        contents = {key: wire.pack(r) for key, r in different.items()}
        group = next((str(r.round) for r in requests.values()), "")
        clients = list(requests)
        messages = [
            FlowerMessage(
                contents[id(requests[k])],
                dst_node_id=self._nodes[k],
                message_type=kind,
                group_id=group,
            )
            for k in clients
        ]
        ids = list(self._grid.push_messages(messages))
        waiting = {i: k for i, k in zip(ids, clients, strict=True) if i}
        yield from (
            Reply(k, None, "error", "not accepted for sending")
            for i, k in zip(ids, clients, strict=True)
            if not i
        )
        end = None if self._deadline is None else time.monotonic() + self._deadline
        while waiting:
            came = False
            for message in self._grid.pull_messages(list(waiting)):
                client = waiting.pop(message.metadata.reply_to_message_id, None)
                if client is None:
                    continue
                came = True
                if message.has_error():
                    yield Reply(client, None, "error", message.error.reason or "")
                else:
                    yield Reply(client, message)
            if end is not None and time.monotonic() > end:
                break
            if not came and waiting:
                time.sleep(self._poll)
        yield from (Reply(client, None, "no reply") for client in waiting.values())


def census(grid: Grid, clients: int, wait: float = 120.0) -> dict[int, int]:
    """Asks every node which client it is; Flower's node ids differ from run to run.

    Returns:
        The node id of each client number below ``clients``.

    Raises:
        RoundError: a client is missing after ``wait`` seconds, or is claimed twice.
    """
    end = time.monotonic() + wait
    nodes = list(grid.get_node_ids())
    while len(nodes) < clients and time.monotonic() < end:
        time.sleep(0.5)
        nodes = list(grid.get_node_ids())
    # A query's content can't be empty, so it carries a word.
    content = RecordDict({"tacit": ConfigRecord({"ask": "client"})})
    replies = grid.send_and_receive(
        [FlowerMessage(content, dst_node_id=n, message_type="query") for n in nodes],
        timeout=max(1.0, end - time.monotonic()),
    )
    found: dict[int, int] = {}
    problem = ""
    for reply in replies:
        if reply.has_error():
            problem = problem or f"; one said: {reply.error.reason}"
            continue
        record = reply.content.get("tacit")
        client = record.get("client") if isinstance(record, ConfigRecord) else None
        if not isinstance(client, int) or not 0 <= client < clients:
            continue
        if client in found:
            raise RoundError(f"two nodes say they are client {client}", "check partition-id")
        found[client] = reply.metadata.src_node_id
    if len(found) < clients:
        raise RoundError(
            f"clients={clients} but {len(found)} of {len(nodes)} nodes answered{problem}",
            "start more nodes (--federation-config num-supernodes=) or lower clients=",
        )
    return found
