"""What a privacy statement reads off a ledger: one version's leaves, its population, its rulings.

Guarantees: `covered` returns leaves that the checkpoint signs, or raises; `View` composes charges
up to and including a version's RELEASE and no later one. `filled` leaves no None behind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.privacy import ancestry
from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.governor import Governor
from tacit.privacy.ledger import Spending, replay
from tacit.privacy.log import leaves as log
from tacit.privacy.log import notes
from tacit.privacy.log.merkle import Tree, leaf_hash
from tacit.privacy.log.notes import Checkpoint, VerifierKey
from tacit.privacy.log.trail import RunTrail, Trail
from tacit.privacy.plan import PrivacyPlan
from tacit.privacy.plans import read
from tacit.privacy.statement import words
from tacit.privacy.statement.registry import NOT_CLAIMED

Leaf = Mapping[str, Any]
Leaves = Sequence[tuple[int, Leaf]]
_RULING = ("KEY", "PLAN", "POLICY", "APPROVAL", "AUDIT")
_AUDITED = (
    "method", "unit", "adversary", "amplified", "canaries", "lower_bound", "estimate", "charged",
    "delta", "confidence", "violated", "commitment",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """One version among its ledger's leaves.

    Attributes:
        leaves: that the checkpoint covers.
        index: of the RELEASE.
        release: that leaf.
        planned: the run's PLAN leaf, which comes later if an older home was adopted.
        plan: read from it; None if another tacit wrote it.
        own: the run's charges, releases and abandonments up to the version.
        spending: what they add up to.
    """

    leaves: Leaves
    index: int
    release: Leaf
    planned: Leaf
    plan: PrivacyPlan | None
    own: list[Leaf]
    spending: Spending

    @classmethod
    def of(cls, leaves: Leaves, index: int) -> View:
        """The version that a RELEASE leaf names.

        Raises:
            ConfigError: it names none.
            MessageError: its run has no plan, or one of another digest.
        """
        body = leaves[index][1] if 0 <= index < len(leaves) else {}
        if body.get("kind") != "RELEASE" or "artifact" not in body:
            raise ConfigError(f"leaf {index} releases no model version")
        run = body["run"]
        planned = next((b for _, b in leaves if b["kind"] == "PLAN" and b["run"] == run), None)
        if planned is None or log.digest(planned["body"]) != planned["plan"]:
            raise MessageError(
                f"run={run} has no PLAN leaf, or its plan isn't the one of its digest",
                "tacit-verify says what else is wrong",
            )
        try:
            plan = read(planned["body"])
        except ConfigError:
            plan = None
        own = [b for i, b in leaves if i <= index and b["run"] == run and _spends(b)]
        base = ancestry.base(ancestry.Leaves(leaves), run)
        spending = _replayed(own, planned["body"], base)
        return cls(leaves, index, body, planned, plan, own, spending)

    @property
    def body(self) -> Mapping[str, Any]:
        """The plan, as the ledger has it."""
        found: Mapping[str, Any] = self.planned["body"]
        return found

    def charges(self, purpose: str) -> list[Leaf]:
        """The run's charges for a purpose, in order."""
        return [b for b in self.own if b["kind"] == "CHARGE" and b["purpose"] == purpose]


def covered(leaves: Leaves, note: str) -> tuple[Checkpoint, VerifierKey, Leaves]:
    """The checkpoint, who signed it, and the leaves under it."""
    size = notes.signed(note).size
    tree, covered, key = Tree(), list(leaves[:size]), None
    for place, (index, body) in enumerate(covered):
        if index != place:
            raise MessageError(f"leaf {place} is missing: leaf {index} follows the one before it")
        tree.append(leaf_hash(log.leaf_bytes(body)))
        if body["kind"] == "KEY":
            key = VerifierKey.parse(body["key"])
    if key is None:
        raise MessageError("no leaf names the key that signs the checkpoint")
    signed = Checkpoint.parse(notes.open_note(note, key))
    if (signed.size, signed.root) != (tree.size, tree.root()):
        raise MessageError("the leaves aren't those that the checkpoint signs")
    return signed, key, covered


def composition(view: View) -> dict[str, Any]:
    """What the population spent over all its runs, by the version and by the checkpoint."""
    last = len(view.leaves) - 1
    then = _population(view, view.index)
    spent = [i for i, b in view.leaves if i > view.index and b["kind"] == "CHARGE"]
    return {
        "in_words": words.TOGETHER,
        "at_release": then,
        "at_checkpoint": _population(view, last) if spent else then,
    }


def _population(view: View, upto: int) -> dict[str, Any]:
    """What all runs on the version's population have spent by a leaf."""
    bodies: dict[str, list[Leaf]] = {}
    for index, body in view.leaves:
        if index <= upto and _spends(body):
            bodies.setdefault(body["run"], []).append(body)
    trail, runs = Trail(), []
    population = view.planned["population"]
    for _, leaf in view.leaves:
        if leaf["kind"] != "PLAN" or leaf["population"] != population:
            continue
        own = bodies.get(leaf["run"], [])
        charges = sum(b["kind"] == "CHARGE" for b in own)
        if charges:
            spending = _replayed(own, leaf["body"])
            trail.runs[leaf["run"]] = RunTrail(leaf, None, {}, spending, charges=charges)
            released = sum("artifact" in b for b in own)
            run = {"run": leaf["run"], "model": leaf["name"], "plan": leaf["plan"]}
            runs.append({**run, "charges": charges, "released": released})
    return {"runs": runs, "rows": trail.population_tables()[0]["rows"]}


def governance(view: View) -> dict[str, Any]:
    """Policies in force, and the run's approvals and audits, with who signed."""
    governor = Governor()
    population, run = view.planned["population"], view.release["run"]
    found: dict[str, Any] = {"approvals": [], "audits": []}
    terms: Any = "none in the ledger"
    policies = {"at_release": terms}
    for index, body in view.leaves:
        if body["kind"] not in _RULING:
            continue
        signature = "valid"
        try:
            governor.note(index, body)
        except ConfigError as error:
            signature = f"not valid, and without effect: {error.message}"
        if body["kind"] == "POLICY" and body["policy"].get("population") == population:
            if signature == "valid":
                terms = _policy(index, body)
        elif body["kind"] == "APPROVAL" and body["run"] == run:
            found["approvals"].append(_approval(index, body, signature))
        elif body["kind"] == "AUDIT" and body["run"] == run:
            found["audits"].append(_audit(index, body, view.index))
        if index <= view.index:
            policies["at_release"] = terms
    frozen = [f"leaf {i} (run {b['run']})" for i, b in governor.frozen.items()]
    return {"policies": {**policies, "at_checkpoint": terms}, **found, "frozen_by": frozen}


def _policy(index: int, body: Leaf) -> dict[str, Any]:
    asked = {k: v for k, v in body["policy"].items() if v not in (None, [], ())}
    terms = ", ".join(f"{k}={v}" for k, v in asked.items() if k not in ("population", "reviewers"))
    return {
        "leaf": index,
        "at": body.get("at"),
        "terms": terms,
        "reviewers": list(body["policy"]["reviewers"]),
        "signed_by": body.get("key"),
    }


def _approval(index: int, body: Leaf, signature: str) -> dict[str, Any]:
    lifts = body.get("lifts")
    return {
        "leaf": index,
        "at": body.get("at"),
        "verdict": body.get("verdict"),
        "of": "the run's plan" if lifts is None else f"going on after the audit at leaf {lifts}",
        "note": body.get("note"),
        "signed_by": body.get("key"),
        "signature": signature,
    }


def _audit(index: int, body: Leaf, release: int) -> dict[str, Any]:
    said = {name: body.get(name) for name in _AUDITED}
    when = "after this version" if index > release else "before this version"
    return {"leaf": index, "at": body.get("at"), "stage": body.get("stage"), "when": when, **said}


def _replayed(
    own: Sequence[Leaf], body: Mapping[str, Any], base: Spending | None = None
) -> Spending:
    deltas = {"client": body["client_delta"], "record": body["record_delta"]}
    return replay([dict(leaf) for leaf in own], deltas, base)


def _spends(body: Leaf) -> bool:
    return body["kind"] in log.SPENDING


def filled(value: Any) -> Any:
    """With "not claimed" for None, the empty text and figures that aren't finite."""
    if isinstance(value, Mapping):
        return {key: filled(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [filled(found) for found in value]
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_CLAIMED
    return value
