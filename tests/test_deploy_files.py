"""The files in deploy/, as far as they can be held to anything without a container engine.

What they name must be there: sources, extras, commands, metrics, files. What they promise must
be in them: no root, no secret, no port but the loopback interface's.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from prometheus_client import Metric

from tacit.cli.root import app
from tacit.client.edge import command
from tacit.server.telemetry.meters import Meters

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The Dockerfile's, with lines joined; no heredocs."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [(w.upper(), rest.strip()) for w, _, rest in (x.partition(" ") for x in lines if x)]


def stages() -> dict[str, list[Instruction]]:
    """Each stage's instructions, those of the stages it is built on before its own."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.split()
            current = found[name] = list(found.get(base, []))
        else:
            current.append((word, rest))
    return found


def services() -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert isinstance(found, dict)
    return found


def copied(stage: str) -> list[str]:
    of = stages()[stage]
    lists = [shlex.split(rest) for word, rest in of if word == "COPY" and "--from" not in rest]
    return [source for each in lists for source in each[:-1]]


@pytest.mark.parametrize("stage", ["coordinator-build", "device-build"])
def test_what_an_image_is_built_from_is_there_and_is_all(stage: str) -> None:
    sources = copied(stage)
    assert [name for name in sources if not (ROOT / name).exists()] == []
    folders = {
        Path(place).parts[0] for place in PROJECT["tool"]["setuptools"]["package-dir"].values()
    }
    assert folders - set(sources) == set()
    # And .dockerignore lets all of it through, and keeps the rest.
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert kept == set(sources)
    assert "*" in lines
    assert any(fnmatch.fnmatch("x/ledger.key", line) for line in lines)


def test_extras_and_commands_exist() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    extras = {e for group in re.findall(r'"\.\[([\w,]+)\]"', text) for e in group.split(",")}
    assert extras == {"all", "device", "postgres", "edge"}
    assert extras <= set(PROJECT["project"]["optional-dependencies"])
    entries = [json.loads(rest)[0] for word, rest in instructions() if word == "ENTRYPOINT"]
    assert set(entries) == {"tacit", "tacit-edge"}
    assert set(entries) <= set(PROJECT["project"]["scripts"])
    assert re.search(r"^torch==\d", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert "libtorch_cuda" in text


@pytest.mark.parametrize("stage", ["coordinator", "device"])
def test_an_image_runs_as_nobody_and_holds_no_secret(stage: str) -> None:
    of = stages()[stage]
    users = [rest for word, rest in of if word == "USER"]
    assert users, "it runs as root"
    assert users[-1].split(":")[0] not in ("0", "root")
    after = of[of.index(("USER", users[-1])) :]
    assert not [word for word, _ in after if word in ("RUN", "COPY", "ADD")]
    named = " ".join(rest for word, rest in of if word in ("ENV", "ARG"))
    assert not re.search(r"password|secret|token|_key", named, re.IGNORECASE)
    assert [word for word, _ in of if word == "HEALTHCHECK"]
    assert not [word for word, _ in instructions() if word == "ADD"]


def test_services_are_confined() -> None:
    for name, service in services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert "network_mode" not in service or service["network_mode"] != "host", name
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name} publishes {port} to everybody"
        if "image" in service and "build" not in service:
            assert service["user"] not in ("root", "0", "0:0"), name
        said = json.dumps(service.get("environment", {}))
        assert not re.search(r"PASSWORD\"|:[^/@\"]+@", said), f"{name} has a password in it"
    # Whoever could reach the database's port would be its owner.
    database = services()["database"]
    assert database["network_mode"] == "none"
    assert "listen_addresses=" in database["command"]


def test_services_name_what_there_is() -> None:
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    targets = stages()
    for name, service in services().items():
        if "build" in service:
            assert service["build"]["target"] in targets, name
            args = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
            assert set(service["build"]["args"]) <= args, name
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            there = (
                (DEPLOY / source).is_file()
                if source.startswith(".")
                else source in whole["volumes"]
            )
            assert there, f"{name}: {volume}"
        for other in service.get("depends_on", {}):
            assert "test" in services()[other]["healthcheck"], other


@pytest.mark.parametrize("run", [None, "rounds=50", "--resume last"])
def test_commands_are_as_their_programs_want_them(run: str | None) -> None:
    text = services()["coordinator"]["command"]
    filled = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda m: run if m[1] == "TACIT_RUN" and run else m[2], text
    )
    program, *arguments = shlex.split(filled)
    commands = typer.main.get_command(app)
    assert isinstance(commands, click.Group)
    with commands.commands[program].make_context(program, arguments) as context:
        given = context.params
    assert given["metrics"].endswith(":9464")
    assert given["enrol_only"] == (run is None)
    published = {str(p).rpartition(":")[2] for p in services()["coordinator"]["ports"]}
    ports = {given[name].rpartition(":")[2] for name in ("listen", "enrol", "metrics")}
    assert ports == published
    # Settings that are given again would begin another run.
    assert services()["coordinator"]["restart"] == "${TACIT_RESTART:-no}"
    device = services()["device"]["command"]
    (default,) = [json.loads(rest) for word, rest in stages()["device"] if word == "CMD"]
    assert default == device
    assert command._parser().parse_args(device).command == "run"


def metrics() -> dict[str, Metric]:
    return {
        name: family
        for family in Meters().registry.collect()
        for name in (
            family.name,
            f"{family.name}_total",
            f"{family.name}_sum",
            f"{family.name}_count",
            f"{family.name}_bucket",
        )
    }


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "watch" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def asked(expression: str) -> Iterator[tuple[str, str]]:
    """Metrics that an expression asks for, each with its selectors."""
    yield from re.findall(r"\b(tacit_\w+|process_\w+)(?:\{([^}]*)\})?", expression)


def known(expression: str) -> list[str]:
    """What of an expression isn't there."""
    there, wrong = metrics(), []
    names = list(asked(expression))
    for name, selectors in names:
        if name not in there:
            wrong.append(name)
            continue
        values = {v for sample in there[name].samples for v in sample.labels.values()}
        for label, words in re.findall(r'(\w+)=~?"([^"]*)"', selectors):
            if label in ("outcome", "reason") and there[name].samples:
                wrong += [f"{name} {label}={w}" for w in words.split("|") if w not in values]
    return wrong


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_alerts_ask_for_what_is_measured(rule: dict[str, Any]) -> None:
    assert "up{" in rule["expr"] or list(asked(rule["expr"]))
    assert known(rule["expr"]) == []
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
    assert f"**{rule['alert']}**" in (ROOT / "docs" / "operate.md").read_text()


def test_the_dashboard_asks_for_what_is_measured() -> None:
    board = json.loads((DEPLOY / "watch" / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(expressions) >= 8
    assert [wrong for expression in expressions for wrong in known(expression)] == []


def test_prometheus_reads_the_rules_and_asks_the_coordinator() -> None:
    found = yaml.safe_load((DEPLOY / "watch" / "prometheus.yaml").read_text())
    mounted = [v.split(":")[:2] for v in services()["prometheus"]["volumes"]]
    places = {Path(inside).name for _, inside in mounted}
    assert set(found["rule_files"]) <= places
    (job,) = found["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in services()
    assert any(str(p).endswith(f":{port}") for p in services()[host]["ports"])
