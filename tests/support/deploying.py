"""The ServerApp and deployed clients in one process, to be killed in the middle of a leg.

What Flower does in a deployment, with a Grid that loses nothing: the clients have a folder each
says is its own, so they sign, keep ledgers, and answer once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from crashing import Killer
from flwr.app import Context, Message, RecordDict

from tacit.client.app import make_app
from tacit.server.app import main
from tacit.simulations.grid import InProcessGrid

CLIENTS = 4
SETTINGS = (
    f"clients={CLIENTS} cohort={CLIENTS} rounds=3 model=pixels seed=null evaluation=none "
    "local.steps=2"
)


def deployed(home: Path, overrides: str = SETTINGS, resume: str = "", **config: Any) -> None:
    """One ServerApp, from its start to its end."""
    config = {"overrides": overrides, "home": str(home), "resume": resume, **config}
    own, node = make_app(), {"client-home": str(home / "clients")}

    def client(message: Message, context: Context) -> Message:
        context.node_config.update(node)
        return own(message, context)

    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config)
    )
    main(InProcessGrid(client, CLIENTS, config), context)  # type: ignore[arg-type]


def killed(home: str, line: str, resume: str = "", overrides: str = SETTINGS) -> None:
    """The same, killed when the coordinator logs a line."""
    logger = logging.getLogger("tacit.round")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Killer(line, 1))
    deployed(Path(home), overrides, resume)
