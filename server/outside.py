"""What flwr 1.41 keeps private and a Grid of tacit's own needs, in one place.

`Message` refuses to be made outside of a process that Flower started, a message's id is set by
Flower's own engines only, and a reply names the message that it answers by that id.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN = 1


def prepare() -> Run:
    """Makes `Message` usable in this process; leaves alone what Flower has set.

    Returns:
        A record of the run for a Grid that has none of Flower's.
    """
    wanted = {"run_id": _RUN, "node_id": SUPERLINK_NODE_ID, "task_id": 1}
    for name, value in wanted.items():
        try:
            getattr(TaskIdentity, name)
        except RuntimeError:
            setattr(TaskIdentity, name, value)
    return Run.create_empty(TaskIdentity.run_id)


def name(message: Message, identifier: str) -> None:
    """Gives a message the id that its reply will refer to."""
    message.metadata.__dict__["_message_id"] = identifier


def answers(reply: Message, identifier: str) -> None:
    """Makes a reply that of the message with this id."""
    reply.metadata.__dict__["_reply_to_message_id"] = identifier
