"""``tacit serve``: a coordinator and the gateway that devices connect to."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.common import HomeOption, JsonOption, print_json

if TYPE_CHECKING:
    from tacit.server.begin import Round
    from tacit.server.gateway.settings import Settings
    from tacit.server.home import Home
    from tacit.server.serving import Job, Watch


Overrides = Annotated[list[str] | None, typer.Argument(help="Settings, as for simulate.")]
ListenOption = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Where devices connect.")
]
EnrolOption = Annotated[
    str, typer.Option("--enrol", metavar="HOST:PORT", help="Where devices enrol.")
]
AdvertisedOption = Annotated[
    str | None,
    typer.Option("--advertised", metavar="HOST:PORT", help="What devices call --listen."),
]
AdvertisedEnrolOption = Annotated[
    str | None, typer.Option("--advertised-enrol", metavar="HOST:PORT", help="And --enrol.")
]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics and /healthz here."),
]
ResumeOption = Annotated[
    str | None,
    typer.Option("--resume", metavar="RUN", help="Go on with a run: its id, or last."),
]
DevicesOption = Annotated[
    int | None,
    typer.Option("--devices", min=1, help="Connected devices with which the run begins."),
]
DeadlineOption = Annotated[
    float, typer.Option("--deadline", metavar="SECONDS", help="Of a leg of a round.")
]
DrainOption = Annotated[
    float, typer.Option("--drain", metavar="SECONDS", help="For a round's end, after SIGTERM.")
]
EnrolOnlyOption = Annotated[
    bool, typer.Option("--enrol-only", help="Enrol devices, and run nothing.")
]
PopulationOption = Annotated[
    str | None, typer.Option("--population", help="With --enrol-only: whose devices enrol.")
]


RolloutOption = Annotated[
    str | None,
    typer.Option("--rollout", metavar="FILE", help="Of tacit rollout --plan: evaluate versions."),
]


def serve(
    overrides: Overrides = None,
    listen: ListenOption = "127.0.0.1:9443",
    enrol: EnrolOption = "127.0.0.1:9444",
    advertised: AdvertisedOption = None,
    advertised_enrol: AdvertisedEnrolOption = None,
    metrics: MetricsOption = None,
    resume: ResumeOption = None,
    devices: DevicesOption = None,
    deadline: DeadlineOption = 600.0,
    drain: DrainOption = 30.0,
    enrol_only: EnrolOnlyOption = False,
    population: PopulationOption = None,
    rollout: RolloutOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Serve devices: enrol them, and train a model with them, or evaluate its versions on them."""
    from tacit.privacy.errors import ConfigError
    from tacit.server.home import Home

    given = overrides or []
    if resume is not None and (given or enrol_only):
        raise ConfigError("--resume takes no settings: a run goes on as it was started")
    if rollout is not None and (given or resume is not None or enrol_only):
        raise ConfigError("--rollout takes no settings: its file has them")
    if population is not None and not enrol_only:
        raise ConfigError("--population is for --enrol-only", "a run's is population=NAME")
    place = Home(home)
    job = None if enrol_only and population is not None else _job(given, resume, place, rollout)
    settings = _settings(
        population or (job.population if job is not None else ""),
        job.spec.clients if job is not None else None,
        (listen, enrol, advertised, advertised_enrol),
        drain,
    )
    _logs(as_json)
    with _metrics(metrics, place):
        _serve(None if enrol_only else job, place, settings, (deadline, devices, drain), as_json)


def _job(given: list[str], resume: str | None, home: Home, rollout: str | None = None) -> Job:
    """What is to be run."""
    from tacit.configs.build import compose

    if rollout is not None:
        return _evaluating(rollout)
    if resume is None:
        compose(given)  # A typo should be told before the seconds that torch takes to load.
    from tacit.server import runs
    from tacit.server.serving import Job
    from tacit.server.store import Store
    from tacit.tasks.task import load

    if resume is None:
        spec = compose(given)
        return Job(spec, load(spec))
    store = Store(home)
    try:
        row = store.run(resume)
    finally:
        store.close()
    spec = runs.spec_of(row)
    return Job(spec, load(spec), row)


def _evaluating(rollout: str) -> Job:
    """A rollout, as its file has it."""
    from pathlib import Path

    from tacit.server.begin import RolloutFile
    from tacit.server.serving import Job
    from tacit.tasks.task import load

    found = RolloutFile.read(Path(rollout))
    return Job(found.spec, load(found.spec), rollout=found.rollout)


def _settings(
    population: str,
    clients: int | None,
    addresses: tuple[str, str, str | None, str | None],
    drain: float,
) -> Settings:
    from tacit.server.gateway.settings import Settings

    listen, enrol, advertised, advertised_enrol = addresses
    return Settings(
        population=population,
        clients=clients,
        listen=listen,
        enrol=enrol,
        advertised=advertised,
        advertised_enrol=advertised_enrol,
        drain=min(drain, 10.0),
    )


def _serve(
    job: Job | None,
    home: Home,
    settings: Settings,
    how: tuple[float, int | None, float],
    as_json: bool,
) -> None:
    from tacit.server import serving

    deadline, devices, drain = how
    if job is None:
        serving.enrol_only(home, settings, _watch(as_json))
        return
    terms = serving.Terms(deadline, devices, drain)
    row = serving.serve(job, home, settings, terms, _watch(as_json))
    if row is None:
        print("stopped before a run began", file=sys.stderr)
        return
    if as_json:
        names = ("id", "name", "population", "status", "message", "round")
        print_json({name: row[name] for name in names})
    else:
        print(f"run       {row['id']}")
        print(f"status    {row['status']} after {row['round']} rounds {row['message']}".rstrip())


def _watch(as_json: bool) -> Watch:
    """Progress on stderr; with ``--json`` a line of JSON on stdout for each round."""
    from tacit.configs.spec import RunSpec
    from tacit.server.serving import Watch
    from tacit.server.store import Row

    def waiting(enrolled: int, connected: int, needed: int) -> None:
        until = f", waiting for {needed}" if connected < needed else ""
        print(f"devices: {enrolled} enrolled, {connected} connected{until}", file=sys.stderr)

    def started(run: Row, spec: RunSpec) -> None:
        print(f"run {run['id']}: {spec.rounds} rounds", file=sys.stderr)

    def progress(result: Round) -> None:
        shown = {**result.metrics, **{f"epsilon.{k}": v for k, v in result.epsilon.items()}}
        if as_json:
            print_json({"round": result.round, "accepted": result.accepted, **shown})
            sys.stdout.flush()
        else:
            print(f"round {result.round}: {shown}", file=sys.stderr)

    return Watch(waiting, started, progress)


def _logs(as_json: bool) -> None:
    import flwr.serverapp  # noqa: F401  # It sets up logging of its own when it is imported.

    from tacit.server import telemetry

    telemetry.setup_logs(json=as_json)


@contextlib.contextmanager
def _metrics(address: str | None, home: Home) -> Iterator[None]:
    """Serves metrics beside what is in the block."""
    if address is None:
        yield
        return
    from tacit.server import telemetry
    from tacit.server.gateway.settings import split
    from tacit.server.store import Store

    host, port = split("metrics", address)
    store = Store(home)
    try:
        stop = telemetry.serve(host, port, {"ledger": telemetry.store_opens(store)})
        try:
            yield
        finally:
            stop()
    finally:
        store.close()
