"""`tacit.configs.spec`: frozen, validated, and the same after a trip through plain data."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tacit.configs import build
from tacit.configs.spec import RunSpec
from tacit.privacy.errors import ConfigError

PLAIN = build.compose(["experiment=none", "clients=50", "cohort=5"]).to_dict()


def changed(path: str, value: Any) -> dict[str, Any]:
    """`PLAIN` with one setting changed."""
    made = copy.deepcopy(PLAIN)
    node = made
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    assert last in node
    node[last] = value
    return made


FINITE = st.floats(1e-9, 1e9, allow_nan=False)
FIELDS = st.sampled_from(
    [
        ("rounds", st.integers(1, 2**40)),
        ("seed", st.none() | st.integers(0, 2**53 - 1)),
        ("cohort", st.floats(0.001, 50)),
        ("delta", st.none() | st.floats(1e-300, 0.999)),
        ("name", st.none() | st.text('aZ9 /:é"', max_size=8)),
        ("data.hub", st.booleans()),
        ("data.root", st.none() | st.text('aZ9 /:é"', max_size=8)),
        ("partition.alpha", FINITE),
        ("privacy.client.clip", FINITE),
        ("privacy.record.denominator", st.none() | FINITE),
        ("local.learning_rate", FINITE),
        ("weighting.cap", st.integers(1, 10**6)),
        ("budget.epsilon", st.none() | FINITE),
    ]
)


@settings(deadline=None)
@given(st.data())
def test_a_spec_survives_json_with_its_digest(data: st.DataObject) -> None:
    path, values = data.draw(FIELDS)
    spec = RunSpec.from_dict(changed(path, data.draw(values)))
    back = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert back == spec
    assert back.digest() == spec.digest()


@settings(deadline=None)
@given(st.data())
def test_the_digest_changes_with_any_setting(data: st.DataObject) -> None:
    path, values = data.draw(FIELDS)
    before = RunSpec.from_dict(PLAIN)
    after = RunSpec.from_dict(changed(path, data.draw(values)))
    assert (before.digest() == after.digest()) == (before == after)


def test_the_digest_doesnt_depend_on_the_order_of_keys() -> None:
    backwards = dict(reversed(PLAIN.items()))
    assert list(backwards) != list(PLAIN)
    assert RunSpec.from_dict(backwards).digest() == RunSpec.from_dict(PLAIN).digest()


def test_whole_numbers_and_floats_of_one_value_are_one_spec() -> None:
    whole, real = (RunSpec.from_dict(changed("cohort", v)) for v in (5, 5.0))
    assert whole.digest() == real.digest()
    assert RunSpec.from_dict(changed("clients", 50.0)).clients == 50


@pytest.mark.parametrize("path", ["", "data.", "privacy.client.", "optimizer."])
def test_an_unknown_key_is_named_with_its_path_and_the_known_ones(path: str) -> None:
    made = copy.deepcopy(PLAIN)
    node = made
    for key in path.split(".")[:-1]:
        node = node[key]
    known = list(node)
    node["surprise"] = 1
    with pytest.raises(ConfigError) as caught:
        RunSpec.from_dict(made)
    assert caught.value.message == f"{path}surprise is not a setting"
    assert caught.value.hint == f"known: {', '.join(known)}"


@pytest.mark.parametrize("path", ["rounds", "data.root", "privacy.record.clip", "budget"])
def test_a_missing_key_is_named_with_its_path(path: str) -> None:
    made = copy.deepcopy(PLAIN)
    node = made
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    del node[last]
    with pytest.raises(ConfigError) as caught:
        RunSpec.from_dict(made)
    assert caught.value.message == f"{path} is missing"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("clients", "50"),
        ("clients", None),
        ("clients", float("inf")),
        ("rounds", True),
        ("cohort", [5]),
        ("data", None),
        ("data.hub", 1),
        ("privacy.client.clip", True),
        ("local.steps", "1"),
        ("task", None),
    ],
)
def test_a_wrong_type_is_refused_by_its_path(path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        RunSpec.from_dict(changed(path, value))
    assert caught.value.message.startswith(f"{path}=")


def test_a_spec_cant_be_changed_and_can_key_a_cache() -> None:
    spec = RunSpec.from_dict(PLAIN)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.rounds = 3  # type: ignore[misc]
    assert hash(spec) == hash(RunSpec.from_dict(PLAIN))


def test_replacing_a_field_validates_again() -> None:
    with pytest.raises(ConfigError, match="rounds=0"):
        dataclasses.replace(RunSpec.from_dict(PLAIN), rounds=0)


def test_every_setting_is_documented() -> None:
    import dataclasses
    import typing
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()

    def keys(cls: type, prefix: str = "") -> list[str]:
        found = []
        for name, hint in typing.get_type_hints(cls).items():
            if dataclasses.is_dataclass(hint):
                found += keys(hint, f"{prefix}{name}.")
            else:
                found.append(f"{prefix}{name}".removesuffix(".kind"))
        return found

    missing = [key for key in keys(RunSpec) if f"`{key}`" not in text]
    assert missing == []
