"""Model cards and bills of materials say what the ledger says, and formats' owners accept them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rolling
import yaml  # type: ignore[import-untyped]
from commands import told
from mirroring import ENVIRONMENT
from referencing import Registry, Resource

from tacit.privacy import dsse
from tacit.server import boms, cards
from tacit.server.home import Home
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.simulations.rollout import rollout

NASTY = "</td><script>alert(1)</script> | # `x`\n\n## Evil"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six versions, a champion with a gate, and a challenger that was in a rollout."""
    home = tmp_path_factory.mktemp("cards") / "home"
    rolling.trained(home, "central")
    store = Store(Home(home))
    rolling.guarded(store)
    store.close()
    rollout(
        "tiny",
        challenger=6,
        mode="ab",
        rounds=2,
        task=rolling.task(),
        home=home,
        overrides=["seed=5"],
    )
    store = Store(Home(home))
    Lifecycle(store).move("tiny", "shadow", 6, expected=None, actor="ann", reason=NASTY)
    store.close()
    return home


def opened(root: Path) -> tuple[Store, ModelRegistry, dict[str, Any]]:
    store = Store(Home(root))
    registry = ModelRegistry(store.home, store)
    return store, registry, registry.find("tiny@6")


def test_a_cards_figures_are_the_leaves_that_they_name(root: Path) -> None:
    store, _, row = opened(root)
    text = cards.card(store, row, {"intended_use": "telling blobs apart"})
    bodies = {leaf["index"]: leaf["body"] for leaf in store.leaves()}
    _, front, rest = text.split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["tacit"]["artifact_sha256"] == row["artifact"]
    assert fields["tacit"]["release_leaf"] == row["release"]
    said = bodies[row["release"]]
    assert fields["tacit"]["epsilon"] == pytest.approx(said["epsilon"]["client"])
    (result,) = fields["model-index"][0]["results"]
    assert {m["type"]: m["value"] for m in result["metrics"]} == said["metrics"]
    accuracy = re.search(r"^\| accuracy \| ([0-9.]+) \| (\d+) \|$", rest, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) == pytest.approx(
        bodies[int(accuracy[2])]["metrics"]["accuracy"], abs=1e-4
    )
    assert "| intended\\_use | telling blobs apart |" in rest or (
        "| intended_use | telling blobs apart |" in rest
    )
    assert "stated by the operator" in rest.lower()
    evaluated = [i for i, b in bodies.items() if b["kind"] == "RELEASE" and "arms" in b]
    assert len(evaluated) == 2
    line = next(
        x
        for x in rest.splitlines()
        if x.startswith("| ")
        and x.endswith(f"| {', '.join(str(i) for i in evaluated)} |")
        and "ab" in x
    )
    assert " to " in line
    gate = next(i for i, b in bodies.items() if b["kind"] == "GATE")
    assert f"| {gate} |" in rest
    assert "tiny@5" in rest
    store.close()


def test_a_card_shows_what_others_wrote_as_text_and_is_the_same_again(root: Path) -> None:
    store, _, row = opened(root)
    text = cards.card(store, row, {"notes": NASTY})
    assert "<script>" not in text
    assert "\n## Evil" not in text
    assert cards.card(store, row, {"notes": NASTY}) == text
    store.close()


def validator() -> jsonschema.Draft7Validator:
    """Of CycloneDX's own schemas."""
    found = list(ENVIRONMENT.glob("lib/python3*/site-packages/cyclonedx/schema/_res"))
    if not found:
        pytest.fail("make build/ecosystem/.ready installs CycloneDX's schemas")
    schemas = {
        name: json.loads((found[0] / f"{name}.SNAPSHOT.schema.json").read_text())
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    registry: Any = Registry().with_resources(
        [(s["$id"], Resource.from_contents(s)) for s in schemas.values()]
    )
    return jsonschema.Draft7Validator(
        schemas["bom-1.6"], registry=registry, format_checker=jsonschema.FormatChecker()
    )


def test_cyclonedxs_own_schema_takes_a_bill_of_materials(root: Path) -> None:
    store, registry, row = opened(root)
    made = boms.bom(registry, row, {"intended_use": "telling blobs apart"})
    check = validator()
    assert [e.message for e in check.iter_errors(made)] == []
    # It does check.
    made["metadata"]["component"]["hashes"][0]["content"] = "no digest"
    assert list(check.iter_errors(made))
    store.close()


def test_a_bill_of_materials_is_the_same_again_and_says_what_was_signed(root: Path) -> None:
    store, registry, row = opened(root)
    made = boms.bom(registry, row)
    assert json.dumps(boms.bom(registry, row)) == json.dumps(made)
    other = boms.bom(registry, registry.find("tiny@5"))
    assert other["serialNumber"] != made["serialNumber"]
    model = made["metadata"]["component"]
    data = registry.path(row["artifact"]).read_bytes()
    assert model["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}]
    url = model["externalReferences"][0]["url"]
    envelope = base64.b64decode(url.partition("base64,")[2]).decode()
    said = dsse.described(envelope, [store.signer.verifier])
    assert said["artifact"] == row["artifact"]
    assert made["metadata"]["timestamp"] == row["created_at"]
    names = {c["name"]: c.get("version") for c in made["components"]}
    assert {"tiny", "tacit", "torch", "opacus", "flwr"} <= set(names)
    refs = {c["bom-ref"] for c in made["components"]} | {model["bom-ref"]}
    for line in made["dependencies"]:
        assert {line["ref"], *line["dependsOn"]} <= refs
    ancestors = [a["version"] for a in model["pedigree"]["ancestors"]]
    assert ancestors == ["5", "4", "3", "2", "1"]
    store.close()


def test_the_command_line_writes_both_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("card", "bom"):
        to = tmp_path / command
        line = ["models", command, "tiny@champion", "--to", str(to), "--home", str(root)]
        assert told(line) == 0
        before = to.read_bytes()
        assert b"tiny" in before
        assert told(line) != 0
        assert "is there already" in capsys.readouterr().err
        assert to.read_bytes() == before
