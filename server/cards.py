"""The model card of a version, in Markdown with the front matter that model hubs read.

Guarantees: the figures are those of the privacy statement, the lineage and the rollouts, which are
read from leaves; each section names the leaves that it is of. What only the operator can say is
marked as said by them, and what nobody says is "not claimed". Names and notes are shown as text.
A card is the same until the ledger says more of its version, its model or its population.

It doesn't guarantee that the version is fit for anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from tacit.privacy.statement.registry import BY_OPERATOR, NOT_CLAIMED
from tacit.privacy.statement.text import Section, escaped, laid_out, sections
from tacit.server import statements
from tacit.server.lifecycle import Lifecycle
from tacit.server.lineage import lineage
from tacit.server.store import Row, Store
from tacit.server.views import rollouts as views

# Of the statement: what the card says in full. The rest is what `tacit models statement` is for.
_PRIVACY = ("What is promised", "Units of privacy", "Neighbouring relation")
_PURPOSE = ("intended_use", "product", "organisation", "contact", "justification", "notes")
_DATA = (
    *("data_curators", "data_domain", "data_source_type", "data_source_type_details"),
    *("data_product_region", "data_product_sector", "preprocessing_and_hyperparameter_tuning"),
)
MEASURED = {
    "public": "on a public test set of the coordinator's, not on clients' data, and not charged",
    "federated": "by clients on their own data: counts clipped, noised, summed, and charged; the "
    "noise is in the figure",
}


def card(store: Store, row: Row, about: Mapping[str, str] | None = None) -> str:
    """The card of a version.

    Args:
        store: that has it.
        row: of the version.
        about: what the operator says (`tacit.server.statements.read_about`).

    Raises:
        TacitError: as `tacit.server.statements.of_version` and `tacit.server.lineage.lineage`.
    """
    made = statements.of_version(store, row, about)
    found = lineage(store, row)
    parts = [
        _version(made, found),
        _stated("Intended use", made, _PURPOSE),
        _data(made, found),
        _stated("Of the data", made, _DATA),
        _metrics(made, found),
        *_privacy(made, found),
        _rollouts(store, row),
        _gates(store, row),
        _lineage(found),
        _aliases(store, row),
        _moves(found),
        _approvals(found),
        _limitations(made),
        _verify(made),
    ]
    title = [f"# {escaped(made['model']['version'])}", ""]
    for warning in made["warnings"]:
        title += [f"> **Warning:** {escaped(warning)}", ""]
    title += [" ".join(escaped(sentence) for sentence in made["summary"]), ""]
    return "\n".join([front_matter(made, found), *title, *laid_out(parts)])


def front_matter(made: Mapping[str, Any], found: Row) -> str:
    """The YAML block that model hubs read; it claims no licence and no data set of a hub's."""
    model = made["model"]
    headline = made["headline"]
    fields: dict[str, Any] = {
        "library_name": "tacit",
        "tags": ["federated-learning", "differential-privacy", "tacit"],
        "model_name": model["version"],
        "tacit": {
            "artifact_sha256": model["artifact"],
            "ledger": made["checkpoint"]["origin"],
            "release_leaf": model["release_leaf"],
            "epsilon": NOT_CLAIMED if headline == NOT_CLAIMED else headline["epsilon"],
            "delta": NOT_CLAIMED if headline == NOT_CLAIMED else headline["delta"],
        },
    }
    values = found["metrics"]["values"]
    if values:
        figures = [{"type": name, "value": value} for name, value in sorted(values.items())]
        result = {
            "task": {"type": "other", "name": "federated learning"},
            "dataset": {"type": "private", "name": model["population"]},
            "metrics": figures,
        }
        fields["model-index"] = [{"name": model["version"], "results": [result]}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def measured(made: Mapping[str, Any]) -> str:
    """How a version's metrics came about, in words."""
    return MEASURED.get(made["model"]["evaluation"], NOT_CLAIMED)


def _version(made: Mapping[str, Any], found: Row) -> Section:
    model = made["model"]
    rows = (
        ("version", model["version"], _leaf(found)),
        ("artifact (SHA-256 of its safetensors file)", model["artifact"], _leaf(found)),
        ("stage", found["stage"], _leaves([move["leaf"] for move in found["moves"]])),
        ("released", model["released_at"], _leaf(found)),
        ("run", model["run"], _leaf(found["run"])),
        ("round", str(model["round"]), _leaf(found)),
        ("began with", model["began_with"], _leaf(found["run"])),
    )
    return Section("The version", (), ("field", "value", "leaf"), rows)


def _stated(title: str, made: Mapping[str, Any], names: Sequence[str]) -> Section:
    fields = made["deployment"]
    rows = tuple((name, fields[name]["value"], fields[name]["source"]) for name in names)
    said = f"{BY_OPERATOR.capitalize()}."
    return Section(title, (said,), ("field", "value", "source"), rows)


def _data(made: Mapping[str, Any], found: Row) -> Section:
    data, plan = found["data"], found["run"]
    spec = found["configuration"]["body"]
    cohorts = [item["leaf"] for item in data["cohorts"]]
    sampling = made["sampling"]
    partition = spec.get("partition")
    simulated = "seeded" in made["mechanism"]["noise_source"]
    words = ", ".join(f"{k}={v}" for k, v in partition.items()) if partition else NOT_CLAIMED
    rows = (
        ("population", data["population"], _leaf(data)),
        ("clients", str(sampling["population_size"]), _leaf(plan)),
        ("expected cohort", _figure(sampling["expected_cohort"]), _leaf(plan)),
        (
            "partition over simulated clients" if simulated else "partition, where simulated",
            words,
            _leaf(found["configuration"]),
        ),
        ("cohorts drawn, each a commitment", str(len(cohorts)), _leaves(cohorts)),
    )
    said = "No data left a client, and nobody here has described it beyond what follows."
    return Section("Training data", (said,), ("field", "value", "leaf"), rows)


def _metrics(made: Mapping[str, Any], found: Row) -> Section:
    values, how = found["metrics"]["values"], measured(made)
    if not values:
        return Section("Metrics", ("This version wasn't evaluated.",))
    rows = tuple(
        (name, _figure(value), _leaf(found["metrics"])) for name, value in sorted(values.items())
    )
    return Section("Metrics", (f"Measured {how}.",), ("metric", "value", "leaf"), rows)


def _privacy(made: Mapping[str, Any], found: Row) -> list[Section]:
    kept = [part for part in sections(made) if part.title in _PRIVACY]
    charges = _leaves([charge["leaf"] for charge in found["charges"]])
    said = (
        f"Composed from the charges at leaf {charges}, up to the release at leaf {found['leaf']}, "
        f"under the plan at leaf {found['plan']['leaf']}. All of it: tacit models statement "
        f"{made['model']['version']}."
    )
    return [Section("Privacy", (said,)), *kept]


def _rollouts(store: Store, row: Row) -> Section:
    rows = []
    for run in views.rollouts(store, row["name"]):
        for arm in run["arms"]:
            if arm["number"] != row["number"] or not arm["windows"]:
                continue
            leaves = _leaves([window["leaf"] for window in arm["windows"]])
            figures = (_interval(arm["accuracy"]), _interval(arm["loss"]))
            what = run["mode"] if arm.get("ablation") is None else f"ablation {arm['ablation']}"
            rows.append((run["run"], what, str(len(arm["windows"])), *figures, leaves))
    if not rows:
        return Section("Rollouts", ("It was in no rollout.",))
    said = "Measured by clients on their own data, noised and charged; intervals at 95%."
    columns = ("run", "mode", "rounds", "accuracy", "loss", "leaf")
    return Section("Rollouts", (said,), columns, tuple(rows))


def _gates(store: Store, row: Row) -> Section:
    rows = []
    for gate in views.guards(store, row["name"]):
        said = [d for d in gate["decisions"] if d["number"] == row["number"]]
        verdict = said[0]["verdict"] if said else "not asked"
        evidence = _leaves(said[0]["evidence"]) if said else ""
        rows.append((gate["alias"], gate["in_words"], str(gate["leaf"]), verdict, evidence))
    if not rows:
        return Section("Gates", ("No gate guards an alias of this model.",))
    columns = ("alias", "asks", "leaf", "this version", "by the evidence at leaf")
    return Section("Gates", (), columns, tuple(rows))


def _lineage(found: Row) -> Section:
    rows = [
        ("plan", found["plan"]["digest"], _leaf(found["plan"])),
        ("configuration", found["configuration"]["digest"], _leaf(found["configuration"])),
        ("code", found["code"]["digest"], _leaf(found["code"])),
    ]
    rows += [
        (f"parent, {item['how']}", f"{item['model']}@{item['number']}", _leaf(item))
        for item in found["parents"]
    ]
    return Section("Lineage", (), ("of", "value", "leaf"), tuple(rows))


def _aliases(store: Store, row: Row) -> Section:
    named = [
        (alias, move.at, str(move.leaf))
        for alias, move in sorted(Lifecycle(store).aliases(row["name"]).items())
        if move.number == row["number"]
    ]
    if not named:
        return Section("Aliases", ("No alias names it now.",))
    return Section("Aliases", (), ("alias", "since", "leaf"), tuple(named))


def _moves(found: Row) -> Section:
    rows = tuple(
        (
            item["kind"],
            str(item.get("alias", "")),
            "nothing" if item["number"] is None else str(item["number"]),
            item["actor"],
            item["reason"] + (" (forced past a gate)" if item.get("forced") else ""),
            _leaf(item),
        )
        for item in found["moves"]
        if item["kind"] != "GATE"
    )
    if not rows:
        return Section("History", ("It was never deployed.",))
    columns = ("move", "alias", "to version", "by", "because", "leaf")
    return Section("History", (), columns, rows)


def _approvals(found: Row) -> Section:
    rows = [
        (f"approval: {item['verdict']}", str(item["note"]), item["by"], _leaf(item))
        for item in found["approvals"]
    ]
    rows += [
        (
            f"audit: {item.get('stage', '')}",
            f"epsilon of at least {_figure(item.get('lower_bound'))} where "
            f"{_figure(item.get('charged'))} was charged",
            str(item.get("method", NOT_CLAIMED)),
            _leaf(item),
        )
        for item in found["audits"]
    ]
    if not rows:
        return Section("Approvals and audits", ("None in the ledger.",))
    return Section("Approvals and audits", (), ("what", "said", "by", "leaf"), tuple(rows))


def _limitations(made: Mapping[str, Any]) -> Section:
    return Section("Limitations", tuple(made["not_protected"]))


def _verify(made: Mapping[str, Any]) -> Section:
    checkpoint = made["checkpoint"]
    names = ("origin", "size", "root", "key")
    rows = tuple((name, str(checkpoint[name])) for name in names)
    return Section("How to check this", (checkpoint["verify"],), ("checkpoint", "value"), rows)


def _interval(made: Mapping[str, Any]) -> str:
    low, high = made["low"], made["high"]
    return f"{_figure(made['estimate'])} ({_figure(low)} to {_figure(high)})"


def _figure(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.3g}"
    return NOT_CLAIMED if value is None else str(value)


def _leaf(item: Mapping[str, Any]) -> str:
    return str(item["leaf"])


def _leaves(leaves: Sequence[int]) -> str:
    """Indices, with the first and the last of many."""
    if len(leaves) > 6:
        return f"{min(leaves)} to {max(leaves)} ({len(leaves)} of them)"
    return ", ".join(str(leaf) for leaf in sorted(leaves)) or "none"
