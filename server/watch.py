"""Automatic fallback: an alias goes back when the version it names is clearly beyond its gate.

Guarantees: it goes back only on evidence that the verifier recomputes
(`tacit.privacy.log.rollouts`): the newest ``fallback_rounds`` evaluations of watches of that very
version, each with its interval beyond the floor or ceiling. It is asked after each round of a watch
and never in between, and moves by compare-and-swap, so an operator who moves the alias meanwhile
is not overruled.

It goes back to the last good version: the newest that the alias named before and that isn't
retired. Where there is none it says so and leaves the alias alone.
"""

from __future__ import annotations

import logging

from tacit.privacy.errors import ConfigError, ConflictError, StorageError
from tacit.privacy.gates import Gate
from tacit.privacy.rollouts import RolloutPlan
from tacit.server import gates
from tacit.server.lifecycle import Lifecycle, Move
from tacit.server.store import Store

log = logging.getLogger("tacit.round")
ACTOR = "tacit watch"


def considered(store: Store, rollout: RolloutPlan) -> Move | None:
    """Moves the alias of a watch back if its gate asks for it; returns the move.

    Args:
        store: of the home.
        rollout: whose round was released.
    """
    if rollout.mode != "watch" or rollout.alias is None:
        return None
    model, alias, number = rollout.model, rollout.alias, rollout.arms[0].number
    life = Lifecycle(store)
    current = life.current(model, alias)
    if current is None or current.number != number:
        return None
    with store.database.reading() as c:
        found = gates.followed(c)
    evidence = found.falling(model, alias, number)
    if not evidence:
        return None
    guarding = found.gate(model, alias)
    assert guarding is not None
    try:
        return life.rollback(
            model,
            alias,
            expected=current.leaf,
            actor=ACTOR,
            reason=f"{guarding[1].fallback_rounds} evaluations in a row beyond {_bound(guarding)}",
            evidence=evidence,
            automatic=True,
        )
    except (ConflictError, ConfigError):
        log.info("%s@%s was moved, or evaluated again, meanwhile", model, alias)
    except StorageError as error:
        log.warning("%s@%s can't fall back: %s", model, alias, error)
    return None


def _bound(guarding: tuple[int, Gate]) -> str:
    leaf, gate = guarding
    sign = ">=" if gate.metric == "accuracy" else "<="
    return f"{gate.metric} {sign} {gate.bound:g} of the gate at leaf {leaf}"
