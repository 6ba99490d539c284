"""Whether a charge is as its plan says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import rfc8785

from tacit.privacy import participation
from tacit.privacy.plan import PrivacyPlan


def claims(plan: PrivacyPlan) -> dict[str, Any]:
    """What a charge has to claim, by purpose, as it is after a way through JSON."""
    due = {"train": plan.training(), "evaluate": plan.evaluating()}
    return {
        purpose: json.loads(rfc8785.dumps([claim.to_json() for claim in rows]))
        for purpose, rows in due.items()
    }


def unlike(
    body: Mapping[str, Any], plan: PrivacyPlan, due: Mapping[str, Any], draws: int
) -> Iterator[str]:
    """In what a CHARGE isn't as planned.

    Args:
        body: of the leaf.
        plan: of its run.
        due: the plan's `claims`.
        draws: cohorts drawn for its purpose, this one included.
    """
    if not 1 <= body["round"] <= plan.rounds:
        yield f"is beyond the {plan.rounds} rounds planned"
    if body["noise_source"] != plan.noise_source:
        yield f"drew its noise from {body['noise_source']}, not {plan.noise_source}"
    if body["purpose"] not in due:
        yield f"is for purpose={body['purpose']}, which is unknown"
        return
    if body["purpose"] == "evaluate" and not evaluates(body["round"], plan):
        yield "is an evaluation that wasn't planned"
    least = participation.bound(draws, plan.sampling_rate, plan.population)
    if not least <= body["participations"] <= draws:
        yield (
            f"charges {body['participations']} participations for {draws} draws, "
            f"and {least} are due"
        )
    if body["claims"] != due[body["purpose"]]:
        yield f"claims other than its plan: {_difference(body['claims'], due[body['purpose']])}"


def owed(
    body: Mapping[str, Any], plan: PrivacyPlan, due: Mapping[str, Any], draws: int
) -> dict[str, Any]:
    """The charge that a CHARGE which is `unlike` its plan had to be; arguments as there."""
    least = participation.bound(draws, plan.sampling_rate, plan.population)
    many = min(max(body["participations"], least), draws)
    return {**body, "claims": due.get(body["purpose"], []), "participations": many}


def evaluates(number: int, plan: PrivacyPlan) -> bool:
    """Whether a round is followed by a federated evaluation."""
    how = plan.evaluation
    return how is not None and (number % how.every == 0 or number == plan.rounds)


def _difference(said: Any, planned: Any) -> str:
    """The first row in which a charge isn't its plan's."""
    due = {_place(claim): claim for claim in planned}
    for claim in said:
        if due.pop(_place(claim), None) != claim:
            return f"{'/'.join(map(str, _place(claim)))}: {claim['event']}"
    return f"{len(due)} rows are missing" if due else "its rows are in another order"


def _place(claim: Mapping[str, Any]) -> tuple[str, str, bool]:
    return claim["unit"], claim["adversary"], claim["amplified"]
