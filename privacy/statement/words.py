"""What a privacy statement says in words; its numbers are `tacit.privacy.statement.statement`'s.

Guarantees: each sentence says no more than the row or plan it is given. `guess_at_most` is the
exact worst case over all (epsilon, delta)-DP mechanisms, so a sentence with it neither over- nor
understates what the figure says; it is rounded up.
It doesn't guarantee that a row's assumptions hold; the sentences name the weightiest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tacit.privacy.statement.registry import NOT_CLAIMED

Row = Mapping[str, Any]

UNITS = {"client": "all of one client's data", "record": "one training example of one client"}

RELATIONS = {
    "add-or-remove-one": "Two data sets are neighbours if one has one unit more than the other.",
    "zero-out": "Two data sets are neighbours if one client's contribution is replaced by a zero "
    "vector (for a record: if one has one record more). What a client's data says is protected; "
    "that the client took part isn't hidden from the coordinator and the clients of its cohort.",
}

MECHANISMS = {
    "central": "Clients send clipped updates; the coordinator adds them up, adds noise to the "
    "sum and releases what follows from it. It is trusted with each client's update.",
    "skellam": "Each client clips its update, rounds it to integers and adds its share of Skellam "
    "noise; the shares add up to the noise of the released sum.",
    "discrete_gaussian": "Each client clips its update, rounds it to integers and adds its share "
    "of discrete Gaussian noise; the shares add up to the noise of the released sum.",
}

AGGREGATIONS = {
    "plain": "The coordinator sees each client's vector.",
    "secure": "With secure aggregation the coordinator sees only the sum of the cohort's vectors.",
    "shortcut": "A simulation added the vectors up as secure aggregation does, but without masks: "
    "whoever ran it could see each client's vector.",
}

NOISES = {
    "central": "Gaussian, independent in each coordinate of the sum",
    "skellam": "Skellam (the difference of two Poisson variables), independent in each integer "
    "coordinate, in shares of the clients",
    "discrete_gaussian": "discrete Gaussian, independent in each integer coordinate, in shares "
    "of the clients",
}

VERIFY = (
    "tacit-verify BUNDLE recomputes every run's figures from an exported ledger, without its "
    "database, its coordinator or its key; tacit ledger export makes the bundle."
)

COMPOSED = (
    "Each charge of the run up to this version is composed, whether or not it came to a release. "
    "Figures are upper bounds, rounded up; the plan was fixed before the first charge."
)

TOGETHER = (
    "All runs on the same population that the ledger has, composed as if every plan had been "
    "fixed before the first run began; without that only a policy's filter holds. Populations "
    "of other names may be the same people; the ledger can't tell."
)

SEEDED_WARNING = (
    "THIS IS A SIMULATION AND PROTECTS NOBODY: its noise comes from a seed and can be taken off "
    "again. The figures are those of the same run with noise from the operating system."
)

SHORTCUT_WARNING = (
    "THIS IS A SIMULATION: it left out the masks of secure aggregation. The figures against the "
    "coordinator, alone or with clients, are those of the same run with secure aggregation."
)

NOTHING = "Nothing is claimed against whoever sees the released versions."


def actors(body: Mapping[str, Any]) -> list[str]:
    """Who sees what, for a plan's mechanism and aggregation."""
    mechanism, aggregation = body.get("mechanism"), body.get("aggregation")
    if mechanism not in MECHANISMS or aggregation not in AGGREGATIONS:
        return [NOT_CLAIMED]
    noise = "adds the noise" if mechanism == "central" else "adds no noise of its own"
    sees = "the cohort's noised sum" if aggregation == "secure" else "each client's vector"
    return [
        "Clients hold their own records, train on them and send updates.",
        f"The coordinator draws the cohorts, sees {sees}, who answered and when, and {noise}.",
        "The public sees every released version and metric, and the ledger.",
    ]


def sampling(body: Mapping[str, Any]) -> str:
    """How cohorts are drawn, by whom, and who sees the draw."""
    if body.get("sampling") != "poisson":
        return NOT_CLAIMED
    whose = {
        "central": "the coordinator alone",
        "skellam": "the coordinator and the clients of the cohort, who know its roster",
        "discrete_gaussian": "the coordinator and the clients of the cohort, who know its roster",
    }.get(str(body.get("mechanism")), f"{NOT_CLAIMED}: this plan doesn't say who")
    text = (
        "Poisson: each client joins a cohort by a coin of its own. The coordinator draws; the "
        f"draw is seen by {whose}. The ledger holds a salted commitment to it."
    )
    if body.get("record") is None:
        return text
    return f"{text} Records are drawn by their client, by a coin for each, and seen by it alone."


def bound(unit: str, body: Mapping[str, Any], participations: int | str) -> str:
    """What limits how much one unit can contribute."""
    found = body.get(unit)
    if found is None:
        projection = body.get("projection")
        if unit == "client" and projection is not None:
            return f"its update is projected to an L2 norm of at most {projection:.6g}"
        return NOT_CLAIMED
    clip = f"{found['clip']:.6g}"
    if unit == "client":
        first = "" if found.get("adaptive") is None else " in the first round, adaptive afterwards"
        return f"its update is clipped to an L2 norm of at most {clip}{first}"
    return (
        f"its gradient is clipped to an L2 norm of at most {clip} in each of {found['steps']} "
        f"steps of a participation; {participations} participations are charged in training"
    )


def guess_at_most(epsilon: float, delta: float) -> float:
    """Largest probability of guessing right whether a unit's data was used, if it was a coin.

    With prior 1/2 a guess is right with probability 1/2 + (power - level)/2, and under (e, d)-DP
    power - level is at most (exp(e) - 1 + 2d)/(exp(e) + 1): the corner of the region of error
    rates in Kairouz, Oh, Viswanath 2015, "The composition theorem for differential privacy",
    section 2. That makes (exp(e) + d)/(1 + exp(e)); the mechanism of their section 5.1 attains it.

    Example:
        >>> guess_at_most(0.0, 0.0), round(guess_at_most(1.0, 1e-5), 4)
        (0.5, 0.7311)
    """
    small = math.exp(-epsilon)
    return min(1.0, (1.0 + delta * small) / (1.0 + small))


def percent(probability: float) -> str:
    """In per cent with one digit, rounded up."""
    return f"{math.ceil(probability * 1000.0 - 1e-9) / 10.0:.1f}%"


def row(rows: Sequence[Row], unit: str, adversary: str, amplified: bool) -> Row | None:
    """A row of a statement's guarantees, if it has a figure."""
    place = (unit, adversary, amplified)
    for found in rows:
        if (found["unit"], found["adversary"], found["amplified"]) == place:
            return None if found["epsilon"] == NOT_CLAIMED else found
    return None


def summary(version: str, body: Mapping[str, Any], rows: Sequence[Row], seeded: bool) -> list[str]:
    """Plain sentences for somebody who isn't an expert: what, against the public, coordinator."""
    told = (
        f"{version} was trained by federated learning on a population of "
        f"{body.get('population', NOT_CLAIMED)} clients."
    )
    unit = next((u for u in UNITS if row(rows, u, "public", True)), None)
    if unit is None:
        return [told, NOTHING, _coordinator(rows, "client")]
    if seeded:
        told += " It is a simulation and protects nobody; with real noise the following would hold."
    if body.get("aggregation") == "shortcut":
        return [told, _public(rows, unit, body), SHORTCUT_WARNING]
    return [told, _public(rows, unit, body), _coordinator(rows, unit)]


def _public(rows: Sequence[Row], unit: str, body: Mapping[str, Any]) -> str:
    whole, known = row(rows, unit, "public", True), row(rows, unit, "public", False)
    assert whole is not None
    took = f"whether {UNITS[unit]} was used"
    if body.get("relation") == "zero-out" and unit == "client":
        took += " or replaced by zeros"
    text = (
        f"Whoever sees everything this run released up to this version, knows all other data, and "
        f"has to guess {took}, where a coin decided, is right with a probability of at most "
        f"{_figure(whole)}, where 50.0% is blind guessing"
    )
    if known is None:
        text += "; where the secret draws are known as well, nothing is claimed"
    elif known["epsilon"] > whole["epsilon"]:
        text += f"; where the secret draws are known as well, at most {_figure(known)}"
    if whole["guess_at_most"] >= 0.99:
        text += "; by itself that promises little"
    return f"{text}. This assumes: {whole['assumes']}."


def _coordinator(rows: Sequence[Row], unit: str) -> str:
    found = row(rows, unit, "coordinator", False)
    if found is None:
        return (
            f"Against the coordinator nothing is claimed for {UNITS[unit]}: it has to be trusted."
        )
    return f"Against the coordinator that bound is {_figure(found)}, as long as {found['assumes']}."


def _figure(found: Row) -> str:
    value, delta = math.ceil(found["epsilon"] * 1e4 - 1e-6) / 1e4, found["delta"]
    return f"{percent(found['guess_at_most'])} (epsilon {value:.4f}, delta {delta:.3g})"


def not_protected(body: Mapping[str, Any]) -> list[str]:
    """What the figures say nothing about; docs/security.md has it in full."""
    said = [
        "Who takes part and when: the coordinator and the network see it, and the ledger shows "
        "that a round was aborted.",
        "What follows from the population as a whole: a model may tell of people whose data it "
        "never saw.",
        "Several units together: for k clients of one person, or k records of one client, the "
        "bound is k times epsilon, at a delta that grows faster still.",
        "Hyperparameters that were tuned on the same clients, and populations of other names "
        "that are the same people: nobody charged for them.",
        "A client's own machine, side channels, and poisoned updates within the clip.",
        "Whether the ledger tells the truth about what ran: see the audits and the code digest.",
    ]
    if body.get("mechanism") == "central":
        said.insert(0, "A client's update against the coordinator, which is trusted with it.")
    elif body.get("mechanism") in MECHANISMS:
        said.insert(0, "Clients of a cohort that publish their own shares of the noise.")
    return [*said, "More: docs/security.md and docs/privacy.md."]
