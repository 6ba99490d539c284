"""``tacit-edge``: the agent of one device.

Exit status: 0 if it did what was asked, 1 if a check failed, 2 for a mistake that can be
mended, with a message and a hint.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import fcntl
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tacit.privacy.errors import StorageError, TacitError

_HOME = "~/.tacit-edge"


def main() -> None:
    """Runs the command."""
    try:
        sys.exit(run(sys.argv[1:]))
    except TacitError as error:
        print(f"tacit-edge: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"            {error.hint}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tacit":
            raise
        print(f"tacit-edge: {error.name} isn't installed", file=sys.stderr)
        print("            pip install 'tacit[edge]'", file=sys.stderr)
        sys.exit(2)


def run(arguments: Sequence[str]) -> int:
    """The command with these arguments; returns its exit status.

    Raises:
        TacitError: with what is to be mended.
    """
    asked = _parser().parse_args(arguments)
    home = Path(asked.home).expanduser()
    if asked.command == "enrol":
        return _enrol(Path(asked.bundle), home)
    if asked.command == "run":
        return _run(home, asked.data, asked.once)
    if asked.command == "status":
        return _status(home, asked.json)
    if asked.command == "withdraw":
        return _withdraw(home, asked)
    return _check(home, asked.data)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tacit-edge", description="The agent of a device that takes part in training."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    enrol = commands.add_parser("enrol", help="make keys here, and get a certificate for them")
    enrol.add_argument("bundle", metavar="BUNDLE", help="from tacit devices invite")
    run = commands.add_parser("run", help="stay connected, and take part when asked")
    run.add_argument("--once", action="store_true", help="end when the gateway sends one away")
    status = commands.add_parser("status", help="what this device spent, and what it refused")
    status.add_argument("--json", action="store_true", help="as JSON")
    withdraw = commands.add_parser("withdraw", help="sign that this device takes part no more")
    withdraw.add_argument("--to", metavar="FILE", required=True, help="to hand to the operator")
    withdraw.add_argument("--ledger", metavar="NAME", help="the operator's ledger")
    withdraw.add_argument("--checkpoint", metavar="FILE", help="one of it, instead")
    check = commands.add_parser("check", help="whether all is there that run needs")
    for command in (run, check):
        command.add_argument("--data", metavar="FILE.npz", help="records, instead of agent.toml's")
    for command in (enrol, run, status, withdraw, check):
        command.add_argument("--home", metavar="DIR", default=_HOME, help=f"its folder ({_HOME})")
    return parser


def _enrol(bundle: Path, path: Path) -> int:
    from tacit.client.edge import enrol
    from tacit.client.edge.home import Bundle, Home

    home = Home(path)
    if home.is_enrolled:
        raise StorageError(f"{path} is enrolled already", "use another --home")
    made = enrol.enrol(home, Bundle.load(bundle))
    print(json.dumps({"client": made.client, "population": made.population, "home": str(path)}))
    return 0


def _run(path: Path, data: str | None, once: bool) -> int:
    from tacit.client.edge import assembly, journal
    from tacit.client.edge.agent import Agent

    journal.setup()
    with _alone(path), assembly.assembled(path, Path(data) if data else None) as setup:
        asyncio.run(_served(Agent(setup), once))
    return 0


async def _served(agent: Any, once: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, agent.stop)
    await agent.run(once)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One agent a folder: two would be one device in two places."""
    try:
        file = (path / "agent.lock").open("w")
    except OSError as error:
        raise StorageError(f"{path} can't be used: {error.strerror}", "enrol first") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(f"another agent runs in {path}") from error
        yield


def _status(path: Path, as_json: bool) -> int:
    from tacit.client.edge import certificates, config
    from tacit.client.edge.home import Home
    from tacit.client.ledger import ClientLedger

    home = Home(path)
    who, settings = home.enrolled(), config.load(home.config)
    _, end = certificates.validity(home.certificate())
    made: dict[str, Any] = {
        "client": who.client,
        "population": who.population,
        "certificate_until": end.isoformat(),
    }
    if home.ledger.exists():
        ledger = ClientLedger(home.ledger, settings.limits.caps())
        try:
            made["spent"] = ledger.spent().to_json()
        finally:
            ledger.close()
    if as_json:
        print(json.dumps(made))
        return 0
    spent = made.pop("spent", None)
    for name, value in made.items():
        print(f"{name:<20} {value}")
    for name, value in (spent or {"participations": 0}).items():
        print(f"{name:<20} {json.dumps(value) if isinstance(value, dict) else value}")
    return 0


def _withdraw(path: Path, asked: argparse.Namespace) -> int:
    """Offline; the agent goes on until its owner stops it."""
    from tacit.client import withdrawing
    from tacit.client.edge.home import Home

    home = Home(path)
    who = home.enrolled()
    checkpoint = Path(asked.checkpoint) if asked.checkpoint else None
    ledger = withdrawing.origin(asked.ledger, checkpoint)
    made = withdrawing.from_identity(home.identity(), who.population, who.client, ledger)
    withdrawing.write(made, Path(asked.to))
    print(json.dumps({"client": who.client, "population": who.population, "file": asked.to}))
    return 0


def _check(path: Path, data: str | None) -> int:
    """Tries what `run` needs, but for the gateway."""
    from tacit.client.edge import certificates, config
    from tacit.client.edge import data as records
    from tacit.client.edge.home import Home

    home, failed = Home(path), 0

    def tried(what: str, problem: str) -> None:
        nonlocal failed
        failed += bool(problem)
        print(f"{what:<14} {problem or 'fine'}")

    settings = config.Config()
    try:
        settings = config.load(home.config)
        tried("settings", "")
    except TacitError as error:
        tried("settings", str(error))
    try:
        home.enrolled()
        home.identity()
        begin, end = certificates.validity(home.certificate())
        now = dt.datetime.now(dt.UTC)
        tried("certificate", "" if begin <= now <= end else f"valid from {begin} to {end}")
    except TacitError as error:
        tried("certificate", str(error))
    others = [p.name for p in home.secrets if p.exists() and p.stat().st_mode & 0o077]
    tried("rights", f"others may read {', '.join(others)}" if others else "")
    where = Path(data) if data else settings.data
    try:
        if where is None:
            raise StorageError("no data is set", "data = 'FILE.npz' in agent.toml, or --data")
        records.load(where)
        tried("data", "")
    except TacitError as error:
        tried("data", str(error))
    if settings.eligibility.always:
        print(f"{'eligible':<14} always")
    else:
        print(f"{'eligible':<14} {json.dumps(asyncio.run(settings.eligibility.conditions()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
