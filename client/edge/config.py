"""``agent.toml``: what the device's owner allows, which no coordinator can change.

Guarantees: what isn't known is refused, so that a misspelt limit isn't taken for none. Where
the file says nothing the device takes part only in secure aggregation, never with noise from a
simulation's seed, and is never eligible: that has to be set.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tacit.client.edge.policy import Eligibility
from tacit.client.floors import Floors
from tacit.privacy import validate
from tacit.privacy.errors import ConfigError, StorageError

_LIMITS = {"secure": True, "seeded": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The owner's settings.

    Attributes:
        gateway: "host:port" instead of the bundle's, or None.
        data: an .npz file (`tacit.client.edge.data`), or None.
        limits: floors and caps.
        eligibility: when the device may be asked.
        largest: bytes of the largest download.
        cache: bytes that downloads may take on disk.
        threads: of training.
    """

    gateway: str | None = None
    data: Path | None = None
    limits: Floors = field(default_factory=lambda: Floors(**_LIMITS))
    eligibility: Eligibility = field(default_factory=Eligibility)
    largest: int = 256 * 1024**2
    cache: int = 1024**3
    threads: int = 1

    def __post_init__(self) -> None:
        validate.at_least("download.largest", self.largest, 1)
        validate.at_least("download.cache", self.cache, self.largest)
        validate.at_least("threads", self.threads, 1)


def load(path: Path) -> Config:
    """Reads settings; paths in it are relative to its folder. No file is no setting.

    Raises:
        StorageError: the file can't be read.
        ConfigError: a setting is unknown, of the wrong type or out of range.
    """
    try:
        held = tomllib.loads(path.read_text())
    except FileNotFoundError:
        held = {}
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} can't be read: {error}") from error
    limits = Floors(**{**_LIMITS, **_table(held, "limits", _fields(Floors))})
    found = _table(held, "eligibility", _fields(Eligibility))
    download = _table(held, "download", {"largest", "cache"})
    known = {"gateway", "data", "threads", "limits", "eligibility", "download"}
    _known("", held, known)
    for name in ("gateway", "data"):
        if not isinstance(held.get(name, ""), str):
            raise ConfigError(f"{name}={held[name]!r} must be a text")
    for name, number in {"threads": held.get("threads", 1), **download}.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigError(f"{name}={number!r} must be a whole number")
    data = path.parent / held["data"] if "data" in held else None
    return Config(
        gateway=held.get("gateway"),
        data=data,
        limits=limits,
        eligibility=Eligibility.read(found, path.parent),
        threads=held.get("threads", 1),
        **download,
    )


def _fields(kind: type[Any]) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def _table(held: Mapping[str, Any], name: str, known: set[str]) -> dict[str, Any]:
    found = held.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must be a table", f"write [{name}]")
    _known(f"{name}.", found, known)
    return found


def _known(prefix: str, found: Mapping[str, Any], known: set[str]) -> None:
    odd = sorted(set(found) - known)
    if odd:
        raise ConfigError(
            f"setting {prefix}{odd[0]} is unknown", f"known are {', '.join(sorted(known))}"
        )
