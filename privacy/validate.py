"""Checks used at construction; each failure is a `ConfigError` that says ``name=value``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from tacit.privacy.errors import ConfigError


def finite(name: str, value: float) -> None:
    """Refuses NaN and the infinities."""
    if not math.isfinite(value):
        raise ConfigError(f"{name}={value} must be a finite number")


def positive(name: str, value: float) -> None:
    """Refuses everything but finite values above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name}={value} must be finite and greater than 0")


def nonnegative(name: str, value: float) -> None:
    """Refuses everything but finite values of at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name}={value} must be finite and at least 0")


def rate(name: str, value: float) -> None:
    """Refuses everything outside (0, 1]."""
    if not 0 < value <= 1:
        raise ConfigError(f"{name}={value} must be in (0, 1]")


def open_unit(name: str, value: float) -> None:
    """Refuses everything outside (0, 1)."""
    if not 0 < value < 1:
        raise ConfigError(f"{name}={value} must be in (0, 1)")


def half_open_unit(name: str, value: float) -> None:
    """Refuses everything outside [0, 1)."""
    if not 0 <= value < 1:
        raise ConfigError(f"{name}={value} must be in [0, 1)")


def at_least(name: str, value: int, low: int) -> None:
    """Refuses what isn't an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name}={value} must be a whole number")
    if value < low:
        raise ConfigError(f"{name}={value} must be at least {low}")


def limits(prefix: str, value: Any) -> None:
    """Refuses a dataclass of limits with a count below 1, or another number that isn't above 0.

    Args:
        prefix: of its fields' names.
        value: the dataclass; a field is a count if its default is a whole number.
    """
    for each in dataclasses.fields(value):
        name, found = f"{prefix}.{each.name}", getattr(value, each.name)
        if isinstance(each.default, int):
            at_least(name, found, 1)
        else:
            positive(name, found)


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Refuses a word that isn't in ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{name}={value} must be one of {', '.join(sorted(allowed))}")
