"""The bill of materials of a version: CycloneDX 1.6 (ECMA-424), with its model card.

Guarantees: valid against CycloneDX's schema, and the same bytes for the same version, ledger
checkpoint's figures and installed packages: the serial number is made from the artifact's digest
and the release's leaf, the time is the release's. Data is named by population and by commitment,
never by content. The attestation is in it whole, so that it can be checked with
`tacit models verify`.

It doesn't guarantee that the packages that are installed here are those that trained the version:
the code's digest, which the PLAN leaf has, is.
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from tacit.privacy.log.leaves import digest
from tacit.privacy.statement.registry import NOT_CLAIMED
from tacit.server import cards, statements
from tacit.server.lineage import lineage
from tacit.server.registry import ModelRegistry
from tacit.server.store import Row

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tacit:model-version")
_MEDIA = "application/vnd.dsse.envelope.v1+json"


def bom(
    registry: ModelRegistry, row: Row, about: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The bill of materials of a version.

    Args:
        registry: that has it.
        row: of the version.
        about: what the operator says (`tacit.server.statements.read_about`).

    Raises:
        TacitError: as `tacit.server.statements.of_version` and `ModelRegistry.envelope`.
    """
    made = statements.of_version(registry.store, row, about)
    found = lineage(registry.store, row)
    envelope = registry.envelope(row)
    packages = list(_packages())
    model, data = _model(made, found, envelope), _data(made, found)
    seed = f"{row['artifact']}/{made['checkpoint']['origin']}/{row['release']}"
    needed = [package["bom-ref"] for package in packages]
    tacit = _tacit(found)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": made["model"]["released_at"],
            "tools": {"components": [{"type": "application", "name": "tacit"}]},
            "component": model,
        },
        "components": [data, tacit, *packages],
        "dependencies": [
            {"ref": model["bom-ref"], "dependsOn": [data["bom-ref"], tacit["bom-ref"]]},
            {"ref": tacit["bom-ref"], "dependsOn": needed},
        ],
    }


def _model(made: Mapping[str, Any], found: Row, envelope: str) -> dict[str, Any]:
    model = made["model"]
    reference = {
        "type": "attestation",
        "url": f"data:{_MEDIA};base64,{base64.b64encode(envelope.encode()).decode()}",
        "comment": "in-toto statement in a DSSE envelope, signed with the ledger's key "
        f"{made['checkpoint']['key']}",
        "hashes": [_sha256(hashlib.sha256(envelope.encode()).hexdigest())],
    }
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{model['version']}",
        "name": model["name"],
        "version": str(model["number"]),
        "description": " ".join([*made["warnings"], *made["summary"]]),
        "hashes": [_sha256(model["artifact"])],
        "externalReferences": [reference],
        "modelCard": _card(made, found),
        "properties": _properties(made, found),
    }
    if found["parents"]:
        parents = [
            {
                "type": "machine-learning-model",
                "name": item["model"],
                "version": str(item["number"]),
                "hashes": [_sha256(item["artifact"])],
            }
            for item in found["parents"]
        ]
        component["pedigree"] = {"ancestors": parents}
    return component


def _card(made: Mapping[str, Any], found: Row) -> dict[str, Any]:
    fields = made["deployment"]
    purpose = fields["intended_use"]["value"]
    considerations: dict[str, Any] = {
        "technicalLimitations": list(made["not_protected"]),
        "performanceTradeoffs": [_promised(row) for row in made["guarantees"]],
    }
    if purpose != NOT_CLAIMED:
        considerations["useCases"] = [purpose]
    card: dict[str, Any] = {
        "bom-ref": f"card:{made['model']['version']}",
        "modelParameters": {"datasets": [{"ref": _data_ref(found)}]},
        "considerations": considerations,
    }
    values = found["metrics"]["values"]
    if values:
        how = cards.measured(made)
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {"type": name, "value": repr(value), "slice": f"measured {how}"}
                for name, value in sorted(values.items())
            ]
        }
    return card


def _promised(row: Mapping[str, Any]) -> str:
    amplified = "amplified by sampling" if row["amplified"] else "not amplified"
    return (
        f"{row['unit']} against {row['adversary']}, {amplified}: epsilon {row['epsilon']} at "
        f"delta {row['delta']}, assuming: {row['assumes']}"
    )


def _properties(made: Mapping[str, Any], found: Row) -> list[dict[str, str]]:
    values = {
        "ledger": made["checkpoint"]["origin"],
        "release.leaf": found["leaf"],
        "plan": found["plan"]["digest"],
        "plan.leaf": found["plan"]["leaf"],
        "configuration": found["configuration"]["digest"],
        "code": found["code"]["digest"],
        "run": found["run"]["id"],
        "round": found["run"]["round"],
        "noise.source": made["mechanism"]["noise_source"],
        "mechanism": made["mechanism"]["name"],
    }
    return [{"name": f"tacit:{name}", "value": str(value)} for name, value in values.items()]


def _data_ref(found: Row) -> str:
    return f"data:{found['data']['population']}"


def _data(made: Mapping[str, Any], found: Row) -> dict[str, Any]:
    """The clients' data, as what the ledger commits to: who was drawn, salted."""
    cohorts = [item["commitment"] for item in found["data"]["cohorts"]]
    leaves = [item["leaf"] for item in found["data"]["cohorts"]]
    said = {
        "cohorts": len(cohorts),
        "cohorts.leaves": ", ".join(str(leaf) for leaf in leaves),
        "clients": made["sampling"]["population_size"],
    }
    return {
        "type": "data",
        "bom-ref": _data_ref(found),
        "name": found["data"]["population"],
        "description": "Data that its clients keep. The digest is over the commitments to the "
        "cohorts that were drawn of them, in canonical JSON.",
        "hashes": [_sha256(digest(cohorts))],
        "data": [
            {
                "type": "dataset",
                "name": found["data"]["population"],
                "classification": "private",
                "sensitiveData": ["kept by the clients; what a release may tell is its epsilon"],
            }
        ],
        "properties": [{"name": f"tacit:{k}", "value": str(v)} for k, v in said.items()],
    }


def _tacit(found: Row) -> dict[str, Any]:
    code = found["code"]["digest"]
    return {
        "type": "application",
        "bom-ref": "pkg:pypi/tacit",
        "name": "tacit",
        "version": code.removeprefix("tacit "),
        "description": "What trained the version, with a digest of its source.",
    }


def _packages() -> Iterator[dict[str, Any]]:
    """What tacit asks for directly, as it is installed here."""
    names = set()
    for line in metadata.requires("tacit") or ():
        _, _, marker = line.partition(";")
        if not marker or re.search(r"extra == ['\"]all['\"]", marker):
            names.add(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower())
    for name in sorted(names):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # A build's mark, as torch has, is part of the version.
        purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }


def _sha256(value: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": value}
