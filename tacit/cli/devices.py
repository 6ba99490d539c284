"""``tacit devices``: who may enrol, who is enrolled, who isn't any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_or_make_store, print_json, print_table

if TYPE_CHECKING:
    from tacit.server.gateway.devices import Devices
    from tacit.server.store import Store

DAY = 86400.0
BUNDLE = 1

app = typer.Typer(help="Devices of the gateway: invite, list, revoke.", no_args_is_help=True)

PopulationOption = Annotated[
    str | None,
    typer.Option("--population", help="Whose; the one that tacit serve had last if left out."),
]


@app.command()
def invite(
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="A folder for the bundles.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 1,
    client: Annotated[
        int | None, typer.Option("--client", min=0, help="The number of the one device.")
    ] = None,
    days: Annotated[float, typer.Option("--days", help="For which a token can be used.")] = 7.0,
    gateway: Annotated[
        str | None, typer.Option("--gateway", metavar="HOST:PORT", help="Where they connect.")
    ] = None,
    enrol: Annotated[
        str | None, typer.Option("--enrol", metavar="HOST:PORT", help="Where they enrol.")
    ] = None,
    population: PopulationOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a bundle for each new device, with a token that enrols it once."""
    import json
    from pathlib import Path

    from tacit.privacy.errors import ConfigError
    from tacit.server.gateway.authority import Authority
    from tacit.server.home import explained, write_durably

    if client is not None and count != 1:
        raise ConfigError("--client is for one device", "leave out --count")
    store = open_or_make_store(home)
    devices, known = _devices(store, population)
    same = {
        "version": BUNDLE,
        "population": devices.population,
        "enrol": _address("enrol", enrol or known.get("enrol")),
        "gateway": _address("gateway", gateway or known.get("gateway")),
    }
    authority = Authority(store.home, devices.population)
    same |= {
        "ca": authority.certificate.decode(),
        "authority": authority.public.hex(),
        "coordinator": authority.coordinator.public.hex(),
    }
    folder = Path(to)
    with explained(f"{folder} can't be made"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = []
    for _ in range(count):
        token = devices.invite(days * DAY, client)
        # Named by the hash of the token that the database has, so that names never collide.
        path = folder / f"{_name(token)}.json"
        write_durably(path, json.dumps({**same, "token": token}, indent=1).encode())
        paths.append(str(path))
    if as_json:
        print_json({"population": devices.population, "bundles": paths})
        return
    for written in paths:
        print(written)


@app.command("list")
def list_(
    population: PopulationOption = None, as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """List enrolled devices."""
    devices, _ = _devices(open_or_make_store(home), population)
    rows, invited = devices.rows(), devices.invited()
    if as_json:
        print_json({"population": devices.population, "devices": rows, "invited": invited})
        return
    print_table(
        f"devices of {devices.population}",
        ["client", "enrolled", "certificate until", "revoked", "identity"],
        [
            (
                row["client"],
                _day(row["enrolled_at"]),
                _day(row["not_after"] or None),
                "erased" if row["revoked_at"] == 0 else _day(row["revoked_at"]),
                row["identity"][:16],
            )
            for row in rows
        ],
    )
    print(f"{len(rows)} enrolled, {invited} invited")


@app.command()
def revoke(
    client: Annotated[int, typer.Argument(help="The device's number.")],
    population: PopulationOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Refuse a device from now on, for good; a live stream ends within seconds."""
    devices, _ = _devices(open_or_make_store(home), population)
    devices.revoke(client)
    if as_json:
        print_json({"population": devices.population, "revoked": client})
    else:
        print(f"client {client} of {devices.population} is revoked")


@app.command()
def adopt(
    directory: Annotated[
        str, typer.Argument(metavar="FILE", help="directory.json, of clients and their keys.")
    ],
    population: PopulationOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Attest clients that aren't devices, such as silos, so that devices know them."""
    import json
    from pathlib import Path

    from tacit.privacy.secagg.directory import PinnedDirectory
    from tacit.server.gateway.authority import Authority

    store = open_or_make_store(home)
    devices, _ = _devices(store, population)
    authority = Authority(store.home, devices.population)
    found = PinnedDirectory.load(Path(directory))
    adopted = sorted(int(client) for client in json.loads(Path(directory).read_bytes()))
    for client in adopted:
        identity = found.public(client)
        assert identity is not None
        devices.adopt(client, identity, authority.attest(client, identity))
    if as_json:
        print_json({"population": devices.population, "adopted": adopted})
    else:
        print(f"{len(adopted)} clients of {devices.population} are attested")


@app.command()
def directory(
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="Where to write it.")],
    population: PopulationOption = None,
    home: HomeOption = None,
) -> None:
    """Write everybody's keys, for clients that aren't devices to pin."""
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.privacy.secagg.directory import PinnedDirectory

    if Path(to).exists():
        raise StorageError(f"{to} is there already", "choose another name, or remove it")
    devices, _ = _devices(open_or_make_store(home), population)
    keys = {d.client: d.identity for d in devices.enrolled() if not d.revoked}
    PinnedDirectory(keys).save(Path(to))
    print(to)


def _devices(store: Store, population: str | None) -> tuple[Devices, dict[str, Any]]:
    """The store of a population's devices, and what `tacit serve` noted."""
    from tacit.privacy.errors import ConfigError
    from tacit.server.gateway.devices import Devices
    from tacit.server.serving import advertised

    known = advertised(store.home)
    name = population or known.get("population")
    if name is None:
        raise ConfigError("whose devices?", "name them with --population, or run tacit serve")
    return Devices(store.database, name), known


def _address(name: str, value: str | None) -> str:
    from tacit.privacy.errors import ConfigError
    from tacit.server.gateway.settings import split

    if value is None:
        raise ConfigError(
            f"where do devices reach the {name} port?",
            f"--{name} HOST:PORT, or run tacit serve first",
        )
    split(name, value)
    return value


def _name(token: str) -> str:
    import hashlib

    return hashlib.sha256(token.encode()).hexdigest()[:16]


def _day(seconds: int | None) -> str:
    from datetime import UTC, datetime

    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
