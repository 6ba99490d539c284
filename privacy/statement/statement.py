"""The privacy statement of one model version, from the leaves of its ledger.

Guarantees: the statement is a function of the leaves that a checkpoint signs, which is checked
(`MessageError` otherwise), and of what the operator adds. Epsilon is recomputed from the run's
CHARGE leaves up to and including the version's RELEASE; later ones count only in the total of
the population, which is given as of both. A field that the ledger doesn't fill is the text "not
claimed", never None and never a guess; what the operator says is marked as such.

It doesn't guarantee that charges claim what their plan allows, or that a policy was kept: that is
`tacit.privacy.log.verify`. It says how to run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tacit.privacy.accountant import version as accountant
from tacit.privacy.ledger import Spending
from tacit.privacy.log.notes import Checkpoint, VerifierKey
from tacit.privacy.log.trail import close
from tacit.privacy.statement import registry as registry_schema
from tacit.privacy.statement import words
from tacit.privacy.statement.registry import NOT_CLAIMED, SEEDED, registry_entry
from tacit.privacy.statement.text import markdown, sections
from tacit.privacy.statement.view import Leaves, View, composition, covered, filled, governance

__all__ = ["NOT_CLAIMED", "markdown", "registry_entry", "sections", "statement"]

_ON_LATTICE = "in integer units: see lattice"


def statement(
    leaves: Leaves,
    release: int,
    checkpoint: str,
    deployment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The statement of the version that a RELEASE leaf names.

    Args:
        leaves: of the whole ledger in order, each with its index; those that the checkpoint
            doesn't cover are left out.
        release: index of the RELEASE leaf.
        checkpoint: a signed note over at least that leaf.
        deployment: what the operator says, of `registry_schema.OPERATOR_FIELDS`.

    Raises:
        ConfigError: the leaf is no version's, or ``deployment`` isn't valid.
        MessageError: the checkpoint isn't of these leaves or not signed by the ledger's key, or
            the plan isn't the one of its digest.
        AccountingError: the run's leaves don't add up.
    """
    operator = registry_schema.stated(deployment)
    signed, key, under = covered(leaves, checkpoint)
    view = View.of(under, release)
    rows = _guarantees(view.spending)
    made: dict[str, Any] = {
        "model": _model(view),
        "headline": _headline(rows),
        "units": _units(view, rows),
        "relation": _named(view.body.get("relation"), words.RELATIONS),
        "mechanism": _mechanism(view),
        "sampling": _sampling(view),
        "rounds": _rounds(view),
        "trust": _trust(view),
        "actors": words.actors(view.body),
        "guarantees": rows,
        "accounting": {"accountant": accountant(), "in_words": words.COMPOSED},
        "composition": composition(view),
        **governance(view),
        "provenance": {
            "plan": view.planned["plan"],
            "configuration": view.planned.get("spec"),
            "code": view.planned.get("code"),
            "actor": view.planned.get("actor"),
        },
        "checkpoint": _checkpoint(signed, key),
        "not_protected": words.not_protected(view.body),
        "deployment": operator,
    }
    made["warnings"] = _warnings(view, made)
    seeded = SEEDED in made["mechanism"]["noise_source"]
    made["summary"] = words.summary(made["model"]["version"], view.body, rows, seeded)
    whole: dict[str, Any] = filled(made)
    return whole


def _headline(rows: list[dict[str, Any]]) -> Any:
    """The row of the summary: the client's against the public, else the record's."""
    found = (words.row(rows, unit, "public", True) for unit in words.UNITS)
    return next((row for row in found if row is not None), NOT_CLAIMED)


def _checkpoint(signed: Checkpoint, key: VerifierKey) -> dict[str, Any]:
    return {
        "origin": signed.origin,
        "size": signed.size,
        "root": signed.root.hex(),
        "key": str(key),
        "verify": words.VERIFY,
    }


def _model(view: View) -> dict[str, Any]:
    body = view.release
    adopted = "adopted" in view.planned and _before_keys(view)
    parent = None if adopted else body.get("parent")
    lineage = "the first version of its run"
    if adopted:
        lineage = NOT_CLAIMED
    elif parent is not None:
        before = view.leaves[parent][1]
        lineage = f"{before['name']}@{before['number']} (leaf {parent})"
    return {
        "name": body["name"],
        "number": body["number"],
        "version": f"{body['name']}@{body['number']}",
        "artifact": body["artifact"],
        "run": body["run"],
        "round": body["round"],
        "population": view.planned["population"],
        "parent": lineage,
        "began_with": _began_with(view),
        "ancestors": [f"{b['name']}@{b['number']}" for b in view.own[:-1] if "artifact" in b],
        "released_at": body.get("at"),
        "release_leaf": view.index,
        "charge_leaf": body.get("charge"),
        "evaluation": body.get("evaluation"),
    }


def _began_with(view: View) -> str:
    """The version that the run began with."""
    initial = view.planned.get("initial")
    if initial is None:
        return "the task's own parameters"
    return f"{initial['model']}@{initial['number']}; the figures count what was spent on it"


def _before_keys(view: View) -> bool:
    """Whether the release is from before there was a signed tree."""
    return all(i > view.index for i, b in view.leaves if b["kind"] == "KEY")


def _units(view: View, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    charges = view.charges("train")
    most = charges[-1].get("participations", NOT_CLAIMED) if charges else NOT_CLAIMED
    return [
        {
            "unit": unit,
            "what": what,
            "claimed": any(r["unit"] == unit and r["epsilon"] != NOT_CLAIMED for r in rows),
            "bound": words.bound(unit, view.body, most),
            "delta": view.spending.deltas[unit],
        }
        for unit, what in words.UNITS.items()
    ]


def _named(name: Any, known: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "in_words": known.get(name)}


def _mechanism(view: View) -> dict[str, Any]:
    body = view.body
    name, aggregation = body.get("mechanism"), body.get("aggregation")
    charged = {b.get("noise_source") for b in view.own if b["kind"] == "CHARGE"}
    noises = sorted(str(source) for source in charged | {body.get("noise_source")} if source)
    told = [words.MECHANISMS.get(str(name)), words.AGGREGATIONS.get(str(aggregation))]
    law = words.NOISES.get(str(name))
    if law and _gaussian_records(view):
        law += "; within each client, Gaussian in each step of DP-SGD"
    return {
        "name": name,
        "aggregation": aggregation,
        "in_words": " ".join(text for text in told if text),
        "noise_distribution": law,
        "noise_source": ", ".join(noises),
        "client": _client(view),
        "record": _record(view),
        "lattice": _lattice(view, "updates"),
        "evaluation": _optional(body, "evaluation"),
        "evaluation_lattice": _lattice(view, "counts"),
        "weight_cap": _optional(body, "weight_cap"),
        "projection": _optional(body, "projection"),
    }


def _gaussian_records(view: View) -> bool:
    return (
        view.plan is not None
        and view.plan.record is not None
        and not (view.plan.noised_by_shares())
    )


def _client(view: View) -> dict[str, Any] | str:
    """Clip, sensitivity and noise of the client unit; on integers they are the lattice's."""
    found = _optional(view.body, "client")
    if isinstance(found, str):
        return found
    made = {**found, "adaptive": _optional(found, "adaptive")}
    if view.plan is None or view.plan.client is None:
        return {**made, "l2_sensitivity": NOT_CLAIMED, "noise_variance": NOT_CLAIMED}
    if view.plan.updates is not None:
        return {**made, "l2_sensitivity": _ON_LATTICE, "noise_variance": _ON_LATTICE}
    z = view.plan.client.update_noise_multiplier()
    variance: float | str = (z * found["clip"]) ** 2
    if view.plan.client.adaptive is not None:
        variance = f"({z:.6g} times the round's clip) squared"
    return {**made, "l2_sensitivity": found["clip"], "noise_variance": variance}


def _record(view: View) -> dict[str, Any] | str:
    """Clip, sensitivity and noise of one step of DP-SGD."""
    found = _optional(view.body, "record")
    if isinstance(found, str):
        return found
    variance: float | str = NOT_CLAIMED if view.plan is None else _ON_LATTICE
    if _gaussian_records(view):
        variance = (found["noise_multiplier"] * found["clip"]) ** 2
    step = {"l2_sensitivity_of_a_step": found["clip"], "noise_variance_of_a_step": variance}
    return {**found, **step}


def _lattice(view: View, which: str) -> dict[str, Any] | str:
    """An integer lattice with its sensitivities, in integer units."""
    lattice = getattr(view.plan, which, None)
    if lattice is None:
        return "none" if view.plan is not None else NOT_CLAIMED
    return {
        **view.body[which],
        "l2_sensitivity": lattice.l2,
        "l1_sensitivity": lattice.l1,
        "record_l2_sensitivity": lattice.record_l2,
        "record_l1_sensitivity": lattice.record_l1,
    }


def _optional(body: Mapping[str, Any], name: str) -> Any:
    """A plan's field: "none" where it has none, "not claimed" where it doesn't know the field."""
    if name not in body:
        return NOT_CLAIMED
    return "none" if body[name] is None else body[name]


def _sampling(view: View) -> dict[str, Any]:
    population, rate = view.body.get("population"), view.body.get("sampling_rate")
    return {
        "scheme": view.body.get("sampling"),
        "rate": rate,
        "population_size": population,
        "expected_cohort": None if population is None or rate is None else population * rate,
        "in_words": words.sampling(view.body),
    }


def _rounds(view: View) -> dict[str, Any]:
    kinds = [b["kind"] for b in view.own]
    closed = kinds.count("RELEASE") + kinds.count("ABANDON")
    return {
        "planned": view.body.get("rounds"),
        "released": sum("artifact" in b for b in view.own),
        "charges": kinds.count("CHARGE"),
        "training_charges": len(view.charges("train")),
        "evaluation_charges": len(view.charges("evaluate")),
        "abandoned_charges": kinds.count("ABANDON"),
        "open_charges": kinds.count("CHARGE") - closed,
    }


def _trust(view: View) -> dict[str, Any]:
    rules = view.body.get("rules") or {}
    return {
        "minimum_survivors": view.body.get("minimum_survivors"),
        "colluding_clients": rules.get("collusion"),
        "dropout": rules.get("dropout"),
        "largest_cohort": rules.get("largest"),
    }


def _guarantees(spending: Spending) -> list[dict[str, Any]]:
    """Every row of the table, and one for each unit and adversary that has none."""
    rows: list[dict[str, Any]] = [filled(row) for row in spending.table()]
    for row in rows:
        known = row["epsilon"] != NOT_CLAIMED
        row["guess_at_most"] = (
            words.guess_at_most(row["epsilon"], row["delta"]) if known else NOT_CLAIMED
        )
    have = {(row["unit"], row["adversary"]) for row in rows}
    for unit in words.UNITS:
        for adversary in ("public", "coordinator", "collusion", "local"):
            if (unit, adversary) not in have:
                place = {"unit": unit, "adversary": adversary, "amplified": False}
                names = ("epsilon", "cross_check", "accountant", "method", "guess_at_most")
                said = {"delta": spending.deltas[unit], "assumes": "the charges have no such row"}
                rows.append({**place, **dict.fromkeys(names, NOT_CLAIMED), **said})
    return sorted(rows, key=lambda r: (r["unit"], _ORDER[r["adversary"]], not r["amplified"]))


_ORDER = {"public": 0, "coordinator": 1, "collusion": 2, "local": 3}


def _warnings(view: View, made: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    if SEEDED in made["mechanism"]["noise_source"]:
        said.append(words.SEEDED_WARNING)
    if made["mechanism"]["aggregation"] == "shortcut":
        said.append(words.SHORTCUT_WARNING)
    said += [
        f"AN AUDIT REFUTED WHAT IS CLAIMED: leaf {audit['leaf']} found an epsilon of at least "
        f"{audit['lower_bound']} where {audit['charged']} was charged."
        for audit in made["audits"]
        if audit["violated"] is True
    ]
    if made["frozen_by"]:
        said.append(f"Releases are frozen by the audit at {', '.join(made['frozen_by'])}.")
    said += [
        f"The ledger was put back from a backup at leaf {index}; what was charged between the two "
        "and lost is in no figure here."
        for index, body in view.leaves
        if body["kind"] == "RESTORE" and body.get("known") != body.get("size")
    ]
    if made["headline"] == NOT_CLAIMED:
        said.append(words.NOTHING)
    wrong = sorted(_misstated(view))
    if wrong:
        said.append(
            f"The ledger states other figures beside this version than its charges add up to "
            f"({', '.join(wrong)}); those below are recomputed. Run tacit-verify."
        )
    if "adopted" in view.planned:
        said.append("The run is older than the ledger's signed tree, or was adopted into it later.")
    if view.plan is None:
        said.append("Another tacit wrote this plan; what it doesn't know is not claimed.")
    together = made["composition"]
    if together["at_checkpoint"] != together["at_release"]:
        said.append(
            "The population was charged again after this version; what has been revealed of the "
            "same people by now is under Composition."
        )
    others = len(together["at_checkpoint"]["runs"]) - 1
    if others:
        said.append(
            f"The ledger has {others} more run(s) on the same population, which reveal more of the "
            "same people than this version alone: see Composition."
        )
    return said


def _misstated(view: View) -> Iterator[str]:
    """Figures beside the release that aren't what its charges add up to."""
    said = view.release.get("epsilon")
    if said is None:
        return
    for name, value in view.spending.stated().items():
        if name in said and not close(said[name], value):
            yield name
