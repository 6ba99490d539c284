"""The Flower ClientApp: decodes a request, checks it, answers with a bounded vector.

``tacit.client.app:app`` runs on Flower's own engines, where the task is found by the name
in the configuration; `make_app` takes a task made in Python. Messages: ``train``,
``evaluate``, and for secure aggregation ``query.advertise``, ``query.share``,
``query.confirm`` and ``query.reveal``; plain ``query`` asks a node for its number. Replies, and
refusals, are signed where a request has a nonce (`tacit.configs.wire`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from tacit.client.member import Member
from tacit.client.node import number as number
from tacit.client.node import party_of
from tacit.client.party import Party
from tacit.client.refusing import answered
from tacit.client.trainer import Trainer
from tacit.configs import build, wire
from tacit.configs.spec import RunSpec
from tacit.tasks.task import Task, check, load
from tacit.tasks.task import plan as privacy_plan

MakeTrainer = Callable[[Task, RunSpec], Trainer]
Handler = Callable[[Message, Context], Message]


def make_app(
    task: Task | None = None, party: Party | None = None, trainer: MakeTrainer | None = None
) -> ClientApp:
    """A ClientApp.

    Args:
        task: what is learned, or None for the task that its run config names.
        party: identities for secure aggregation; None reads them from the node's files.
        trainer: makes what trains ``task``; None takes `make_trainer`. An audit plants its
            canaries here: all that bounds, encodes and noises an update comes after it.
    """
    made = ClientApp()
    kept: dict[RunSpec, Trainer] = {}

    def member(context: Context) -> Member:
        spec = build.from_run_config(context.run_config)
        if task is None:
            return Member(named_trainer(spec), context, party)
        if spec not in kept:
            kept.clear()
            kept[spec] = (trainer or make_trainer)(check(task, spec), spec)
        return Member(kept[spec], context, party)

    def leg(name: str) -> Handler:
        def answer(message: Message, context: Context) -> Message:
            def work() -> Message:
                made: Message = getattr(member(context), name)(message)
                return made

            return answered(message, context, party, work)

        return answer

    made.train()(leg("train"))
    made.evaluate()(leg("evaluate"))
    # The exchanges of secure aggregation around the training itself.
    for name in ("advertise", "share", "confirm", "reveal"):
        made.query(name)(leg(name))

    @made.query()
    def who(message: Message, context: Context) -> Message:
        """Which client a node is; ids of Flower's simulation change from run to run."""
        client, identity = number(context), None
        if wire.nonce(message) is not None:
            own = party_of(context, party)
            identity = own.identity(client) if own is not None else None
        return Message(wire.tell_who(message, client, identity), reply_to=message)

    return made


def make_trainer(task: Task, spec: RunSpec) -> Trainer:
    """A trainer under the plan that the task and the configuration make."""
    return Trainer(task, spec, privacy_plan(task, spec))


@functools.lru_cache(maxsize=2)
def named_trainer(spec: RunSpec) -> Trainer:
    """The trainer of a configuration that names its task; one a process.

    Ray ships a ClientApp to its workers with every message, so what is to be kept between
    messages can't be the app's own.
    """
    return make_trainer(load(spec), spec)


app = make_app()
