"""A `PrivacyPlan` from the JSON that a PLAN leaf holds, and whether a charge is as it says."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import rfc8785

from tacit.privacy import participation
from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan


def read(body: Mapping[str, Any]) -> PrivacyPlan:
    """The plan; its digest is that of what was read.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong type or out of range; the plan
            may be another tacit's.
    """
    made: PrivacyPlan = _build(PrivacyPlan, body, "plan")
    return made


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


def _build(cls: type[Any], value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value!r} should have fields of its own")
    known = typing.get_type_hints(cls)
    hints = {field.name: known[field.name] for field in dataclasses.fields(cls)}
    if set(value) != set(hints):
        raise ConfigError(
            f"{path}: fields={sorted(set(value) ^ set(hints))} are too many or missing",
            "another tacit wrote it",
        )
    return cls(**{k: _convert(hint, value[k], f"{path}.{k}") for k, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    for kind in allowed:
        if dataclasses.is_dataclass(kind):
            return _build(typing.cast("type[Any]", kind), value, path)
    if isinstance(value, bool) and bool not in allowed:
        raise ConfigError(f"{path}={value!r} is of the wrong type")
    if isinstance(value, int | float) and not _exact(value):
        raise ConfigError(f"{path} is out of range")
    if float in allowed and isinstance(value, int | float):
        # JSON has one kind of number: 1.0 is written as 1.
        value = float(value)
    if not isinstance(value, tuple(kind for kind in allowed if kind is not type(None))):
        raise ConfigError(f"{path}={value!r} is of the wrong type")
    return value


def _exact(value: float) -> bool:
    """Whether RFC 8785, of which digests are, can write the number."""
    try:
        return math.isfinite(value) and (value == float(value))
    except OverflowError:
        return False
