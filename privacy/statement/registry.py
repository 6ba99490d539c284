"""A statement as an entry of the public Differential Privacy Deployments Registry.

Field names, nesting and enumerations are those of ``schemas/deployments-schema.yaml`` in
github.com/opendp/deployments-registry-data at commit 3e9c812a924cf01d228f26f6c462c59c391c3f2a
(15 July 2026), which registry.opendp.org shows; its tiers are described in Nanayakkara, Ghazi and
Vadhan 2025, "Practitioners' Perspectives on a Differential Privacy Deployment Registry"
(arXiv:2509.13509). The registry has no JSON Schema file besides that YAML one, and no stable
version number: a later revision may rename a field, as this one did (flavor to variant).

Guarantees: `registry_entry` has every required field and none that the schema doesn't know, so
the registry's own check takes it. What isn't known says "not claimed" where a text may stand; an
enumeration or a number that isn't known is left out, and the entry's notes name it. Where nothing
is claimed, or the noise is a simulation's, there is no epsilon.
It doesn't guarantee what the operator stated; the notes name those fields too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

NOT_CLAIMED = "not claimed"
BY_OPERATOR = "stated by the operator, not by the ledger"
SEEDED = "seeded-simulation"

SECTORS = ("Technology", "Healthcare", "Education", "Government", "Energy", "Finance")
SOURCE_TYPES = ("Static", "Dynamic")

OPERATOR_FIELDS = (
    "organisation",
    "product",
    "contact",
    "data_curators",
    "intended_use",
    "data_product_region",
    "data_product_sector",
    "data_domain",
    "data_source_type",
    "data_source_type_details",
    "preprocessing_and_hyperparameter_tuning",
    "justification",
    "sources",
    "notes",
    "registry_authors",
)
"""What only an operator can say of a deployment; the registry's names, but for the first three."""

# These are lists in the registry; an operator's text names several with semicolons.
_LISTS = ("data_curators", "registry_authors")


def stated(deployment: Mapping[str, str] | None) -> dict[str, dict[str, str]]:
    """Each of `OPERATOR_FIELDS` with its value and who says so.

    Raises:
        ConfigError: a field is unknown, empty or no text, or isn't of the registry's enumeration.
    """
    given = dict(deployment or {})
    for name, value in given.items():
        validate.one_of("about", name, OPERATOR_FIELDS)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"about.{name}={value!r} must be a text that isn't empty")
        if name in _LISTS and not _list(value):
            raise ConfigError(f"about.{name}={value!r} names nobody")
    for name, allowed in (
        ("data_product_sector", SECTORS),
        ("data_source_type", SOURCE_TYPES),
    ):
        if name in given:
            validate.one_of(f"about.{name}", given[name], allowed)
    return {
        name: {
            "value": given.get(name, NOT_CLAIMED),
            "source": BY_OPERATOR if name in given else NOT_CLAIMED,
        }
        for name in OPERATOR_FIELDS
    }


def registry_entry(made: Mapping[str, Any]) -> dict[str, Any]:
    """The registry's tier-3 entry of a statement, as a draft.

    Args:
        made: by `tacit.privacy.statement.statement`.
    """
    operator = {name: field["value"] for name, field in made["deployment"].items()}
    model = made["model"]
    parts = {
        "basic": _basic(made, operator),
        "dp_variant": _variant(made, operator),
        "privacy_loss": _loss(made),
        "deployment_model": _model(made, operator),
        "accounting": {
            "post_processing": "A version is computed from noised sums and earlier versions "
            f"alone. The server's optimizer: {NOT_CLAIMED} (the ledger holds only the digest of "
            f"the configuration, {made['provenance']['configuration']}).",
            "composition": _composition(made),
        },
        "implementation": {
            "preprocessing_and_hyperparameter_tuning": operator[
                "preprocessing_and_hyperparameter_tuning"
            ],
            "mechanisms": _mechanisms(made),
            "justification": operator["justification"],
        },
    }
    parts["administrative"] = _administrative(made, operator, parts)
    slug = re.sub(r"[^a-z0-9]+", "-", f"{model['name']}-{model['number']}".lower()).strip("-")
    return {"url_slug": slug, "status": "Draft", "tier": 3, "deployment": parts}


def _basic(made: Mapping[str, Any], operator: Mapping[str, str]) -> dict[str, Any]:
    model = made["model"]
    curators = operator["data_curators"]
    if curators == NOT_CLAIMED:
        curators = operator["organisation"]
    product, released = operator["product"], model["released_at"]
    basic: dict[str, Any] = {
        "name": model["version"] if product == NOT_CLAIMED else f"{product} ({model['version']})",
        "data_curators": _list(curators),
        "intended_use": operator["intended_use"],
        "data_product_type": "Machine learning model",
        "data_product_region": operator["data_product_region"],
        "description": " ".join([*made["warnings"], *made["summary"]]),
        "publication_date": released if released == NOT_CLAIMED else released[:10],
    }
    return _with(basic, "data_product_sector", operator["data_product_sector"])


def _variant(made: Mapping[str, Any], operator: Mapping[str, str]) -> dict[str, Any]:
    variant = "Approximate DP" if _headline(made) else NOT_CLAIMED
    return _with(
        {
            "data_domain": operator["data_domain"],
            "unprotected_quantities": _lines(made["not_protected"]),
        },
        "variant_name",
        variant,
    )


def _loss(made: Mapping[str, Any]) -> dict[str, Any]:
    headline, units = _headline(made), made["units"]
    loss: dict[str, Any] = {
        "privacy_unit": next(
            (u["what"] for u in units if headline and u["unit"] == headline["unit"]), NOT_CLAIMED
        ),
        "privacy_unit_details": _lines(
            [made["relation"]["in_words"], *(f"{u['unit']}: {u['bound']}" for u in units)]
        ),
        "privacy_parameters_details": _lines(
            [
                *made["warnings"],
                *(
                    f"{row['unit']} against {row['adversary']}, "
                    f"{'amplified by sampling' if row['amplified'] else 'not amplified'}: "
                    f"epsilon {row['epsilon']} at delta {row['delta']} by {row['method']} "
                    f"(cross-check {row['cross_check']}), assuming: {row['assumes']}"
                    for row in made["guarantees"]
                ),
            ]
        ),
    }
    if headline:
        loss["privacy_parameters"] = {k: headline[k] for k in ("epsilon", "delta")}
    return loss


def _model(made: Mapping[str, Any], operator: Mapping[str, str]) -> dict[str, Any]:
    mechanism, rounds = made["mechanism"], made["rounds"]
    name = {"central": "Central", NOT_CLAIMED: NOT_CLAIMED}.get(mechanism["name"], "Federated")
    model: dict[str, Any] = {
        "model_name_details": mechanism["in_words"],
        "actors": _lines(made["actors"]),
        "release_type": "One release" if rounds["planned"] == 1 else "Many releases",
        "release_type_details": f"Every round releases a version; {rounds['released']} of "
        f"{rounds['planned']} planned were released up to this one. {_policy(made)}",
        "data_source_type_details": operator["data_source_type_details"],
        "access_type": "Non-interactive",
        "access_type_details": "Versions are published as they are; nobody puts queries.",
    }
    model = _with(model, "data_source_type", operator["data_source_type"])
    return _with(model, "model_name", name)


def _composition(made: Mapping[str, Any]) -> str:
    accounting, together = made["accounting"], made["composition"]
    rows = [
        f"{row['unit']} against {row['adversary']}, "
        f"{'amplified' if row['amplified'] else 'not amplified'}: epsilon {row['epsilon']}"
        for row in together["at_checkpoint"]["rows"]
    ]
    return _lines([accounting["in_words"], together["in_words"], *rows])


def _mechanisms(made: Mapping[str, Any]) -> str:
    mechanism, provenance = made["mechanism"], made["provenance"]
    return _lines(
        [
            mechanism["in_words"],
            f"Noise: {mechanism['noise_distribution']}; from {mechanism['noise_source']}.",
            f"Sampling: {made['sampling']['in_words']}",
            f"Accounting: {made['accounting']['accountant']}.",
            f"Code: {provenance['code']}; plan: {provenance['plan']}.",
        ]
    )


def _administrative(
    made: Mapping[str, Any], operator: Mapping[str, str], parts: Mapping[str, Any]
) -> dict[str, Any]:
    named = [name for name, field in made["deployment"].items() if field["source"] == BY_OPERATOR]
    optional = {
        "data_product_sector": parts["basic"],
        "variant_name": parts["dp_variant"],
        "privacy_parameters": parts["privacy_loss"],
        "model_name": parts["deployment_model"],
        "data_source_type": parts["deployment_model"],
    }
    left_out = [name for name, place in optional.items() if name not in place]
    checkpoint = made["checkpoint"]
    notes = [
        f"Computed from the ledger {checkpoint['origin']}, leaf {made['model']['release_leaf']}, "
        f"under its checkpoint of {checkpoint['size']} leaves with root {checkpoint['root']}; "
        f"{checkpoint['verify']}",
        f"{BY_OPERATOR}: {', '.join(named) or 'nothing'}.",
        f"{NOT_CLAIMED}, and so left out: {', '.join(left_out) or 'nothing'}.",
        f"Contact: {operator['contact']}.",
    ]
    if operator["notes"] != NOT_CLAIMED:
        notes.append(operator["notes"])
    return {
        "sources": operator["sources"],
        "notes": _lines(notes),
        "registry_authors": _list(operator["registry_authors"]),
    }


def _headline(made: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row an entry is filed under; None where a simulation hides nothing."""
    mechanism = made["mechanism"]
    if SEEDED in mechanism["noise_source"] or mechanism["aggregation"] == "shortcut":
        return None
    if made["headline"] == NOT_CLAIMED:
        return None
    row: Mapping[str, Any] = made["headline"]
    return row


def _policy(made: Mapping[str, Any]) -> str:
    terms = made["policies"]["at_checkpoint"]
    if isinstance(terms, str):
        return "No policy in the ledger limits what is spent on the population."
    return f"A policy limits what is spent on the population: {terms['terms']}."


def _with(base: dict[str, Any], name: str, value: str) -> dict[str, Any]:
    """With an enumeration's value, unless it isn't known."""
    return base if value == NOT_CLAIMED else {**base, name: value}


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(";") if part.strip()]


def _lines(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
