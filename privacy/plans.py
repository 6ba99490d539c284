"""A `PrivacyPlan` from the JSON that a PLAN leaf or a message holds.

It takes no accountant, so that a client reads its plan by the same code as a reviewer.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan


def read(body: Mapping[str, Any]) -> PrivacyPlan:
    """The plan; its digest is that of what was read.

    Raises:
        ConfigError: a field is missing, unknown, of the wrong type or out of range; the plan
            may be another tacit's.
    """
    made: PrivacyPlan = _build(PrivacyPlan, body, "plan")
    return made


def _build(cls: type[Any], value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={value!r} should have fields of its own")
    known = typing.get_type_hints(cls)
    hints = {field.name: known[field.name] for field in dataclasses.fields(cls)}
    if set(value) != set(hints):
        raise ConfigError(
            f"{path}: fields={sorted(set(value) ^ set(hints))} are too many or missing",
            "another tacit wrote it",
        )
    return cls(**{k: _convert(hint, value[k], f"{path}.{k}") for k, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    for kind in allowed:
        if dataclasses.is_dataclass(kind):
            return _build(typing.cast("type[Any]", kind), value, path)
    if isinstance(value, bool) and bool not in allowed:
        raise ConfigError(f"{path}={value!r} is of the wrong type")
    if isinstance(value, int | float) and not _exact(value):
        raise ConfigError(f"{path} is out of range")
    if float in allowed and isinstance(value, int | float):
        # JSON has one kind of number: 1.0 is written as 1.
        value = float(value)
    if not isinstance(value, tuple(kind for kind in allowed if kind is not type(None))):
        raise ConfigError(f"{path}={value!r} is of the wrong type")
    return value


def _exact(value: float) -> bool:
    """Whether RFC 8785, of which digests are, can write the number."""
    try:
        return math.isfinite(value) and (value == float(value))
    except OverflowError:
        return False
