"""What a node is: which client, and whose files it has, by what its configuration says.

Guarantees: a node without a ``client-home`` is a simulation's, and is taken for one only where
the simulation says so (``num-partitions``, which Flower's and tacit's own write beside
``partition-id``) and the process isn't one that Flower started for a SuperNode. Any other node
refuses whatever it is asked: a SuperNode whose folder was forgotten would have no floors, no
ledger and no key, and a coordinator could ask it for anything.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY
from flwr.supercore.task_identity import TaskIdentity

from tacit.client.party import Party, folder_party
from tacit.privacy.errors import RoundError

HOME = "client-home"


def number(context: Context) -> int:
    """The client's number, from the node's configuration.

    Raises:
        RoundError: it has none, or the node is neither a deployed client's nor a simulation's.
    """
    found = context.node_config.get(PARTITION_ID_KEY)
    if found is None:
        raise RoundError(
            "this node has no partition-id", "start it with --node-config 'partition-id=K'"
        )
    if isinstance(found, bool) or not str(found).isdecimal():
        raise RoundError(f"this node's partition-id={found} isn't a client's number")
    if not context.node_config.get(HOME) and not _simulated(context):
        raise RoundError(
            f"this node has no {HOME}, the folder of its key, floors and ledger, and isn't a "
            "simulation's",
            f"start it with --node-config \"partition-id={found} {HOME}='FOLDER'\"",
        )
    return int(found)


def party_of(context: Context, given: Party | None = None) -> Party | None:
    """Whose key, directory, floors and vault a node has; None if it has no folder of them.

    A node says where they are, and is then deployed; only in Flower's simulation, where all
    nodes are one machine's, is it the folder that the coordinator keeps for them.

    Args:
        context: of the node.
        given: what to take instead.

    Raises:
        RoundError: see `number`.
        StorageError: the folder has no directory.
    """
    if given is not None:
        return given
    number(context)
    if context.node_config.get(HOME):
        return folder_party(Path(str(context.node_config[HOME])), True)
    home = context.run_config.get("home")
    simulated = Path(str(home)) / "clients" if home else None
    if simulated is None or not simulated.is_dir():
        return None
    return folder_party(simulated)


def _simulated(context: Context) -> bool:
    """Whether a simulation made the node; a SuperNode's is in a process for that node's task."""
    try:
        own = TaskIdentity.node_id == context.node_id
    except RuntimeError:
        own = False
    return NUM_PARTITIONS_KEY in context.node_config and not own
