"""Gates of a home: set as leaves, asked within the transaction that would move an alias.

Guarantees: a version that a gate doesn't let pass isn't named by the alias that it guards, unless
the move is forced and says why; what is decided, and on which RELEASE leaves, is what
`tacit.privacy.log.rollouts` recomputes from the log.

A gate doesn't hold up a rollback: it goes back to what passed before.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError, MissingError
from tacit.privacy.gates import Decision, Gate
from tacit.privacy.log.leaves import MOVES, Body
from tacit.privacy.log.lifecycle import LONGEST, check_alias
from tacit.privacy.log.rollouts import Rollouts, explained
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.store import Store

__all__ = ["Gates", "Verdict", "check", "explained", "followed", "named"]
_KINDS = ("PLAN", "RELEASE", "GATE", *MOVES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of a version on the newest evidence.

    Attributes:
        gate: leaf of the gate.
        evidence: RELEASE leaves that it reads.
        decision: what they come to.
        champion: the version that the alias names; None for none.
    """

    gate: int
    evidence: list[int]
    decision: Decision
    champion: int | None


class Gates:
    """The gates of a home.

    Args:
        store: of the home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def set(self, gate: Gate, *, actor: str, reason: str) -> int:
        """Guards an alias from here on; returns the GATE leaf.

        Raises:
            MissingError: there is no such model.
            ConfigError: the alias or the words aren't fit for it.
        """
        return self._append(gate.model, gate.alias, gate, actor, reason)

    def lift(self, model: str, alias: str, *, actor: str, reason: str) -> int:
        """Guards an alias no longer; returns the GATE leaf.

        Raises:
            ConfigError: it has no gate.
        """
        if self.get(model, alias) is None:
            raise ConfigError(f"{model}@{alias} has no gate")
        return self._append(model, alias, None, actor, reason)

    def get(self, model: str, alias: str) -> tuple[int, Gate] | None:
        """The gate in force, with its leaf."""
        with self._store.database.reading() as c:
            return followed(c).gate(model, alias)

    def of(self, model: str) -> dict[str, tuple[int, Gate]]:
        """The gates of a model by alias, with their leaves."""
        with self._store.database.reading() as c:
            found = followed(c)
        aliases = [alias for name, alias in found.gates if name == model]
        gates = {alias: found.gate(model, alias) for alias in aliases}
        return {alias: gate for alias, gate in gates.items() if gate is not None}

    def verdict(self, model: str, alias: str, number: int) -> Verdict | None:
        """What the gate says of a version on the newest rollout that fits it.

        Returns:
            None where there is no gate, or no evidence at all.

        Raises:
            ConfigError: the gate compares, and the alias names nothing.
        """
        with self._store.database.reading() as c:
            found, champion = followed(c), named(c, model, alias)
        gate = found.gate(model, alias)
        if gate is None:
            return None
        evidence = found.newest(model, alias, number, champion)
        if not evidence:
            return None
        decision = found.decide(model, alias, number, champion, evidence)
        return Verdict(gate[0], evidence, decision, champion)

    def _append(self, model: str, alias: str, gate: Gate | None, actor: str, reason: str) -> int:
        check_alias(alias)
        for name, text in (("actor", actor), ("reason", reason)):
            if not text.strip() or len(text) > LONGEST or "\x00" in text:
                raise ConfigError(f"{name}={text[:40]!r} must be text of 1 to {LONGEST} characters")
        body: Body = {
            "kind": "GATE",
            "run": "",
            "model": model,
            "alias": alias,
            "gate": None if gate is None else gate.to_json(),
            "actor": actor,
            "reason": reason,
        }
        with self._store.appending() as (c, log):
            v = t.versions.c
            if c.execute(sa.select(v.id).where(v.name == model).limit(1)).first() is None:
                raise MissingError(f"model={model} isn't in this home", "tacit models list")
            return log.append(body)


def check(c: Connection, body: Body) -> None:
    """A check of `tacit.server.lifecycle.Lifecycle`: asked with a move's leaf, before it is made.

    Raises:
        ConfigError: a gate guards the alias and doesn't say "pass"; a rollback calls itself
            automatic, and no gate asks for it; or what is named as evidence is none.
    """
    _check_gate(c, body)
    if body["evidence"]:
        followed(c).check_evidence(body)


def _check_gate(c: Connection, body: Body) -> None:
    champion = named(c, body["model"], body["alias"])
    if body.get("automatic"):
        followed(c).check_fallback(body, champion)
    if body["kind"] != "DEPLOY" or body["number"] is None:
        return
    guarded = sa.select(t.leaves.c.index).where(t.leaves.c.kind == "GATE").limit(1)
    if c.execute(guarded).first() is not None:
        followed(c).check_move(body, champion)


def followed(c: Connection) -> Rollouts:
    """Rollouts and gates, as the leaves of a home have them."""
    found = Rollouts()
    for index, body in logs.bodies(c, _KINDS):
        found.note(index, body)
    return found


def named(c: Connection, model: str, alias: str) -> int | None:
    """The version that an alias names, within a transaction."""
    m = t.moves.c
    query = sa.select(m.number).where(m.model == model, m.alias == alias)
    number: int | None = c.execute(query.order_by(m.leaf.desc()).limit(1)).scalar()
    return number
