"""A federation with secure aggregation whose clients can be made to fail or to lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flwr.app import Context, Message

from tacit import Task
from tacit.client.app import make_app, number
from tacit.client.party import LocalParty
from tacit.configs import build
from tacit.privacy.secagg.directory import LocalDirectory
from tacit.server import runs
from tacit.server.coordinator import RoundResult
from tacit.server.home import Home
from tacit.server.legs import Legs
from tacit.server.store import Store
from tacit.simulations.grid import InProcessGrid

LEGS = ("query.advertise", "query.share", "train", "query.confirm", "query.reveal")
Call = Callable[[Message, Context], Message]


def federate(
    task: Task,
    overrides: list[str],
    home: Home,
    around: Callable[[Call], Call] | None = None,
    resume: str | None = None,
) -> tuple[Store, str, list[RoundResult]]:
    """Runs a federation, or goes on with one.

    Args:
        task: what is learned.
        overrides: settings; ignored where a run is resumed.
        home: where state is kept.
        around: what stands between the coordinator and its honest clients.
        resume: a run's id.
    """
    store, directory = Store(home), LocalDirectory()
    run = store.run(resume) if resume else runs.create(build.compose(overrides), task, store)
    spec = runs.spec_of(run)
    app: Any = make_app(task, LocalParty(directory))
    grid = InProcessGrid(
        around(app) if around else app, spec.clients, {"spec": json.dumps(spec.to_dict())}
    )
    legs = Legs(grid, grid.nodes)
    with runs.coordinator(run, task, store, home, legs, directory) as coordinator:
        return store, run["id"], list(coordinator.rounds())


def failing(faults: Mapping[str, Collection[int]]) -> Callable[[Call], Call]:
    """Clients that crash when they are asked for a leg.

    Args:
        faults: who crashes at which leg.
    """

    def around(honest: Call) -> Call:
        def call(message: Message, context: Context) -> Message:
            if number(context) in faults.get(message.metadata.message_type, ()):
                raise OSError("the client is gone")
            return honest(message, context)

        return call

    return around


def changing(
    leg: str, clients: Collection[int], change: Callable[[bytes], bytes]
) -> Callable[[Call], Call]:
    """Clients whose answer to a leg is changed on its way.

    Args:
        leg: Flower's type of the message.
        clients: whose.
        change: of the answer's bytes.
    """

    def around(honest: Call) -> Call:
        def call(message: Message, context: Context) -> Message:
            reply = honest(message, context)
            if message.metadata.message_type == leg and number(context) in clients:
                record = reply.content["tacit"]
                record["body"] = change(bytes(record["body"]))
            return reply

        return call

    return around
