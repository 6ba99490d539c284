"""``tacit deploy``: the keys, certificates and scripts of a federation on Flower's engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import JsonOption, print_json

if TYPE_CHECKING:
    from tacit.server.deploy.coordinator import Settings

app = typer.Typer(
    help="Keys, certificates and scripts of a federation on Flower's engine.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder; made if it isn't there.")]
Host = Annotated[str, typer.Option("--host", help="Name or address by which silos reach it.")]
Port = Annotated[int, typer.Option("--port", help="Of the SuperLink.")]
Listen = Annotated[str, typer.Option("--listen", help="Address that the SuperLink binds to.")]
Population = Annotated[str, typer.Option("--population", help="Whose data it is; see policies.")]
RuntimePort = Annotated[
    int | None,
    typer.Option("--runtime-port", help="Of a SuperNode, on loopback; 9100 + the client's number."),
]


@app.callback()
def _group() -> None:
    """Keys, certificates and scripts of a federation on Flower's engine."""


@app.command()
def init(
    folder: Folder,
    silos: Annotated[int, typer.Option("--silos", help="How many.")] = 3,
    host: Host = "127.0.0.1",
    port: Port = 9092,
    listen: Listen = "127.0.0.1",
    population: Population = "silos",
    runtime_port: RuntimePort = None,
    as_json: JsonOption = False,
) -> None:
    """Make all of it on one machine: a coordinator and silos, which trust this machine."""
    from tacit.privacy import validate
    from tacit.server.deploy import coordinator as coordinators
    from tacit.server.deploy import scripts
    from tacit.server.deploy import silo as silos_
    from tacit.server.deploy.silo import SiloFolder

    validate.at_least("silos", silos, 1)
    place = coordinators.make(folder / "coordinator", _settings(population, host, port, listen))
    roots = [folder / f"silo-{k}" for k in range(silos)]
    handed = [silos_.make(root, k, population) for k, root in enumerate(roots)]
    federation = coordinators.collect(place, handed)
    made = scripts.coordinator(place)
    for root in roots:
        client = coordinators.join(root, federation)
        base = None if runtime_port is None else runtime_port + client
        made += scripts.silo(SiloFolder(root), client, base)
    said = {
        "folder": str(folder.absolute()),
        "silos": silos,
        "superlink": federation.superlink,
        "fingerprint": federation.fingerprint(),
    }
    _say(said, as_json, f"next: {folder}/coordinator/README.md")


@app.command()
def coordinator(
    folder: Folder,
    host: Host,
    port: Port = 9092,
    listen: Listen = "127.0.0.1",
    population: Population = "silos",
    as_json: JsonOption = False,
) -> None:
    """Make the coordinator's folder: authority, SuperLink's certificate, scripts."""
    from tacit.server.deploy import coordinator as coordinators
    from tacit.server.deploy import scripts

    settings = _settings(population, host, port, listen)
    place = coordinators.make(folder, settings)
    scripts.coordinator(place)
    said = {"folder": str(folder.absolute()), "superlink": settings.superlink}
    _say(said, as_json, f"next: tacit deploy collect {folder} PUBLIC-FILES...")


@app.command()
def silo(
    folder: Folder,
    client: Annotated[int, typer.Option("--client", help="Its number, from 0.")],
    population: Population = "silos",
    as_json: JsonOption = False,
) -> None:
    """Make a silo's keys, at the silo, and the public parts to hand to the coordinator."""
    from tacit.server.deploy import silo as silos

    parts = silos.make(folder, client, population)
    path = silos.SiloFolder(folder).public
    said = {"public": str(path.absolute()), "fingerprint": parts.fingerprint()}
    _say(said, as_json, f"hand {path} to the coordinator; compare the fingerprint by telephone")


@app.command()
def collect(
    folder: Folder,
    public: Annotated[list[Path], typer.Argument(metavar="PUBLIC...", help="Silos' files.")],
    as_json: JsonOption = False,
) -> None:
    """Take silos in, at the coordinator: directory, node keys, the federation file."""
    from tacit.server.deploy import coordinator as coordinators
    from tacit.server.deploy.silo import PublicParts

    handed = [PublicParts.load(path) for path in public]
    place = coordinators.CoordinatorFolder(folder)
    federation = coordinators.collect(place, handed)
    said = {
        "federation": str(place.federation.absolute()),
        "clients": sorted(federation.keys),
        "collected": {str(p.client): p.fingerprint() for p in handed},
        "fingerprint": federation.fingerprint(),
    }
    _say(said, as_json, f"hand {place.federation} to every silo; then ./register.sh")


@app.command()
def join(
    folder: Folder,
    federation: Annotated[Path, typer.Argument(metavar="FEDERATION", help="federation.json.")],
    runtime_port: RuntimePort = None,
    as_json: JsonOption = False,
) -> None:
    """Pin the federation, at the silo: its authority, its directory; write the scripts."""
    from tacit.server.deploy import coordinator as coordinators
    from tacit.server.deploy import scripts
    from tacit.server.deploy.silo import SiloFolder

    found = coordinators.Federation.load(federation)
    client = coordinators.join(folder, found)
    scripts.silo(SiloFolder(folder), client, runtime_port)
    said = {
        "client": client,
        "superlink": found.superlink,
        "clients": sorted(found.keys),
        "fingerprint": found.fingerprint(),
    }
    _say(said, as_json, f"compare the fingerprint by telephone, then {folder}/supernode.sh")


@app.command()
def renew(folder: Folder, as_json: JsonOption = False) -> None:
    """Issue the SuperLink another certificate; restart it afterwards."""
    from tacit.server.deploy import certificates, files
    from tacit.server.deploy import coordinator as coordinators

    place = coordinators.CoordinatorFolder(folder)
    coordinators.renew(place)
    days = certificates.days_left(files.read(place.certificate))
    said = {"certificate": str(place.certificate.absolute()), "days": round(days)}
    _say(said, as_json, "restart the SuperLink")


@app.command()
def check(folder: Folder, as_json: JsonOption = False) -> None:
    """Say what is wrong with a coordinator's or a silo's folder; status 1 if anything is."""
    from tacit.server.deploy.check import check as checked

    found = checked(folder)
    problems = [f for f in found if f.problem]
    if as_json:
        rows = [{"where": str(f.where), "what": f.what, "problem": f.problem} for f in found]
        print_json({"ok": not problems, "findings": rows})
    else:
        for finding in found:
            mark = "problem" if finding.problem else "warning"
            print(f"{mark}: {finding.where} {finding.what}")
        print("not ready" if problems else "ready")
    raise typer.Exit(1 if problems else 0)


def _settings(population: str, host: str, port: int, listen: str) -> Settings:
    from tacit.server.deploy.coordinator import Settings

    return Settings(population, host, port, listen)


def _say(said: dict[str, Any], as_json: bool, following: str) -> None:
    if as_json:
        print_json(said)
        return
    for name, value in said.items():
        print(f"{name:<12} {value}")
    print(following)
