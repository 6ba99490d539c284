"""From Hydra overrides, or Flower's run config, to a frozen `RunSpec`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError

# Settings that are a choice among YAML files; `key=choice` reads better than Hydra's own
# `group/key=choice`, and is what the documentation promises.
_GROUPS = {
    "experiment": "experiment",
    "partition": "partition",
    "privacy.client": "privacy/client",
    "privacy.record": "privacy/record",
    "optimizer": "optimizer",
    "weighting": "weighting",
    "evaluation": "evaluation",
}


def compose(overrides: Sequence[str] = ()) -> RunSpec:
    """The spec that a command line describes.

    Args:
        overrides: in Hydra's grammar, such as ``rounds=3`` or ``partition=dirichlet``.

    Raises:
        ConfigError: naming the setting, and what would be legal.

    Example:
        >>> compose(["experiment=digits", "rounds=3"]).rounds
        3
    """
    with _initialized():
        return RunSpec.from_dict(_compose(_grouped(overrides)))


def changed(spec: RunSpec, overrides: Sequence[str]) -> RunSpec:
    """A spec with some settings changed.

    Args:
        spec: as it was.
        overrides: single settings, such as ``cohort=200``; choices among YAML files
            (``privacy.client=none``) aren't to be had here.

    Raises:
        ConfigError: naming the setting, and what would be legal.

    Example:
        >>> changed(compose(["experiment=digits"]), ["cohort=30"]).cohort
        30.0
    """
    found = spec.to_dict()
    for override in overrides:
        key, equals, _ = override.partition("=")
        *nodes, last = key.split(".")
        place: Any = found
        for name in nodes:
            place = place.get(name) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            near = difflib.get_close_matches(key, _flat(found), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "write key=value"
            raise ConfigError(f"{override!r} is not a setting", hint)
        if isinstance(place[last], dict):
            raise ConfigError(f"{override}: {key} has fields of its own", "set one of them")
        place[last] = _value(override)
    return RunSpec.from_dict(found)


def _value(override: str) -> Any:
    """What an override sets, in Hydra's grammar."""
    try:
        found = OverridesParser.create().parse_override(override).value()
    except HydraException as error:
        raise ConfigError(_one_line(error)) from error
    return found.text if isinstance(found, QuotedString) else found


def _flat(node: Mapping[str, Any], path: str = "") -> list[str]:
    """The names of all single settings."""
    found: list[str] = []
    for key, value in node.items():
        name = f"{path}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [name]
    return found


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The command lines that a multirun stands for: the product of all ``key=a,b,c``."""
    with _initialized():
        try:
            parsed = OverridesParser.create().parse_overrides(_grouped(overrides))
        except HydraException as error:
            raise ConfigError(_one_line(error)) from error
    choices: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(
                f"{override.input_line}: only lists and ranges can be swept",
                "write key=a,b,c or key=range(1,4)",
            )
    return [list(line) for line in itertools.product(*choices.values())]


def from_run_config(run_config: Mapping[str, Any]) -> RunSpec:
    """The spec in Flower's run config: ``spec``, JSON, or ``overrides``, a command line."""
    if run_config.get("spec"):
        return _from_json(str(run_config["spec"]))
    return _from_overrides(str(run_config.get("overrides", "")))


@functools.lru_cache(maxsize=8)
def _from_json(text: str) -> RunSpec:
    try:
        return RunSpec.from_dict(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"the run config's spec isn't JSON: {error}") from error


@functools.lru_cache(maxsize=8)
def _from_overrides(text: str) -> RunSpec:
    return compose(text.split())


@contextlib.contextmanager
def _initialized() -> Iterator[None]:
    if GlobalHydra.instance().is_initialized():
        # A user's own Hydra application; its search path has to name pkg://tacit.configs.
        yield
        return
    with hydra.initialize_config_module("tacit.configs", version_base="1.3"):
        yield


def _grouped(overrides: Sequence[str]) -> list[str]:
    result = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is not an override", "write key=value")
        result.append(f"{_GROUPS.get(key, key)}={value}")
    return result


def _compose(overrides: list[str]) -> dict[str, Any]:
    for override in overrides:
        key, _, value = override.partition("=")
        if key in _GROUPS.values():
            known = GlobalHydra.instance().config_loader().get_group_options(key)
            if value not in known:
                name = key.replace("/", ".")
                raise ConfigError(f"{name}={value} must be one of {', '.join(known)}")
    try:
        config = hydra.compose("config", overrides)
        plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(*_explain(error, overrides)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _explain(error: Exception, overrides: list[str]) -> tuple[str, str]:
    """Hydra's several lines as one, with the nearest setting where a key is misspelt."""
    text = _one_line(error)
    for override in overrides:
        key = override.partition("=")[0]
        if f"'{key}'" in text or f"Key '{key.rpartition('.')[2]}'" in text:
            known = _known()
            if key in known:
                fields = [name for name in known if name.startswith(f"{key}.")]
                return f"{override}: {key} has fields of its own", f"set one: {', '.join(fields)}"
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see docs/configuration.md"
            return f"{override}: {key} is not a setting", hint
    return text, ""


def _known() -> list[str]:
    config = OmegaConf.to_container(hydra.compose("config"), resolve=False)
    found: list[str] = []

    def walk(node: Any, path: str) -> None:
        found.append(path)
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))

    walk(config, "")
    return [name for name in [*found, *_GROUPS] if name]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
