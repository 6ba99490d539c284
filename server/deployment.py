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
from tacit.privacy.secagg.directory import Directory, enrol, everybody
from tacit.server.census import census
from tacit.server.gateway.settings import split
from tacit.server.home import Home
from tacit.server.legs import Legs

# Seconds between two looks at a SuperLink, which answers some hundred questions a second.
POLL = 0.25


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


@dataclass(frozen=True, slots=True)
class DeviceSettings:
    """The gateway that a ServerApp opens beside its SuperLink, if it does.

    Attributes:
        gateway: ``host:port`` for devices; empty opens none.
        enrol: ``host:port`` of the enrolment service; empty has none.
        advertised, advertised_enrol: ``host:port`` that devices reach them by, where that
            isn't the same.
        devices_from: clients of this number and above are devices, the others silos.

    Raises:
        ConfigError: an address isn't one, or there is something without a gateway.
    """

    gateway: str = ""
    enrol: str = ""
    advertised: str = ""
    advertised_enrol: str = ""
    devices_from: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = _key(field.name), getattr(self, field.name)
            if isinstance(value, bool) or type(value) is not type(field.default):
                raise ConfigError(f"{name}={value!r} must be of type {field.type}")
            if value and not self.gateway:
                raise ConfigError(f"{name}={value} needs a gateway", "set gateway=HOST:PORT")
            if value and isinstance(value, str):
                split(name, value)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> DeviceSettings:
        """From a Flower app's run config, with ``-`` for ``_``; what it doesn't have is empty.

        Raises:
            ConfigError: see the class.
        """
        named = {f.name: config[_key(f.name)] for f in fields(cls) if _key(f.name) in config}
        return cls(**named)  # type: ignore[arg-type]  # checked above

    def check(self, spec: RunSpec, simulated: bool) -> None:
        """Refuses a gateway where there is nobody for it.

        Raises:
            ConfigError: on a simulation, or not both silos and devices.
        """
        if not self.gateway:
            return
        if simulated:
            raise ConfigError(f"gateway={self.gateway}: a simulation has no devices")
        if not 0 < self.devices_from < spec.clients:
            raise ConfigError(
                f"devices-from={self.devices_from} must be in [1, clients={spec.clients})",
                "if all clients are devices, use `tacit serve`; if none is, leave out gateway",
            )


def _key(name: str) -> str:
    return name.replace("_", "-")


def directory(spec: RunSpec, home: Home, simulated: bool = False) -> Directory | None:
    """The clients' public keys.

    Args:
        spec: of the run.
        home: whose ``clients`` folder has ``directory.json``, and ``devices.json`` if there are.
        simulated: on Flower's own simulation they are made here, if they are needed at all.

    Raises:
        StorageError: there is no directory.
    """
    folder = home.root / "clients"
    if not simulated:
        return everybody(folder)
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
    return Legs(grid, nodes, settings.deadline, POLL, directory, settings.resend)
