"""What differs between a simulation and a deployment, for whoever starts a coordinator.

In a deployment there is somebody to protect: noise comes from the operating system, nothing is
left out of the protocol, no faults are made, and every client's key is known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from flwr.serverapp import Grid

from tacit.configs.spec import RunSpec
from tacit.privacy import validate
from tacit.privacy.errors import ConfigError
from tacit.privacy.secagg.directory import Directory, PinnedDirectory, enrol
from tacit.server.census import census
from tacit.server.home import Home
from tacit.server.legs import Legs

# Seconds between two looks at a SuperLink, which answers some hundred questions a second.
_POLL = 0.25


def check(spec: RunSpec, simulated: bool = False) -> None:
    """Refuses what only a simulation may have.

    Args:
        spec: of the run.
        simulated: whether it runs on Flower's own simulation, where a seed protects as much
            as anything: nobody.

    Raises:
        ConfigError: naming the setting.
    """
    if spec.seed is not None and not simulated:
        raise ConfigError(
            f"seed={spec.seed} is for simulations: noise from a seed protects nobody",
            "deploy with seed=null",
        )
    if spec.faults.active:
        raise ConfigError(
            "faults are for `tacit simulate`: here they would be left out", "set faults.* to 0"
        )
    if spec.secure.protocol == "shortcut":
        raise ConfigError(
            "secure.protocol=shortcut is for `tacit simulate`: it leaves the masks out",
            "deploy with secure.protocol=full",
        )


@dataclass(frozen=True, slots=True)
class LegSettings:
    """How long a coordinator waits, in seconds.

    Attributes:
        deadline: for the answers to one leg; a client that is gone costs each round's first leg
            this long.
        resend: before a request is sent again; then twice as long each time.
        wait: for the clients to be there, at the start.

    Raises:
        ConfigError: a value isn't a number above 0.
    """

    deadline: float = 600.0
    resend: float = 30.0
    wait: float = 120.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{field.name}={value!r} must be a number of seconds")
            validate.positive(field.name, value)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> LegSettings:
        """From a Flower app's run config; what it doesn't have is as above.

        Raises:
            ConfigError: see the class.
        """
        named = {f.name: config[f.name] for f in fields(cls) if f.name in config}
        return cls(**named)  # type: ignore[arg-type]  # checked above


def directory(spec: RunSpec, home: Home, simulated: bool = False) -> Directory | None:
    """The clients' public keys.

    Args:
        spec: of the run.
        home: whose ``clients`` folder has ``directory.json``.
        simulated: on Flower's own simulation they are made here, if they are needed at all.

    Raises:
        StorageError: there is no directory.
    """
    folder = home.root / "clients"
    if not simulated:
        return PinnedDirectory.load(folder / "directory.json")
    return enrol(folder, spec.clients) if spec.aggregation == "secure" else None


def legs(
    grid: Grid, spec: RunSpec, settings: LegSettings, directory: Directory | None = None
) -> Legs:
    """Legs to whoever of the clients is there.

    Args:
        grid: Flower's.
        spec: of the run.
        settings: how long to wait.
        directory: of the clients' keys, by which they are known and their replies signed. Where
            it is given, a run starts without those who are missing as long as there are
            ``minimum_survivors``, and they are looked for again in every leg. Without it
            (in a simulation) all have to be there, and nothing is sent twice.

    Raises:
        RoundError: too few are there.
    """
    if directory is None:
        nodes = census(grid, spec.clients, settings.wait)
        return Legs(grid, nodes, settings.deadline)
    fewest = max(1, spec.minimum_survivors or 1)
    nodes = census(grid, spec.clients, settings.wait, directory, fewest)
    return Legs(grid, nodes, settings.deadline, _POLL, directory, settings.resend)
