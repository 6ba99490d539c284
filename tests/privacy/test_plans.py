"""A plan comes back from its leaf as it was, and nothing else does."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY, TINY_SECURE, make_tiny

from tacit.configs.build import compose
from tacit.privacy import plans
from tacit.privacy.errors import ConfigError
from tacit.privacy.plan import PrivacyPlan
from tacit.tasks.task import plan as plan_of

KINDS = {
    "central": TINY,
    "federated": [*TINY, "evaluation=federated", "evaluation.every=2"],
    "secure": TINY_SECURE,
    "gaussian": [*TINY_SECURE, "mechanism=discrete_gaussian"],
    "counts": [*TINY_SECURE, "evaluation=federated"],
    "record": [*TINY, "privacy.client=none"],
    "client": [*TINY, "privacy.record=none"],
    "nothing": [*TINY, "privacy.client=none", "privacy.record=none"],
}


def made(kind: str) -> PrivacyPlan:
    overrides = [x for x in KINDS[kind] if not x.startswith(dropped(kind))]
    return plan_of(make_tiny(), compose(overrides))


def dropped(kind: str) -> tuple[str, ...]:
    none = [x.partition("=")[0] + "." for x in KINDS[kind] if x.endswith("=none") and "." in x]
    return tuple(none) or ("\0",)


def written(plan: PrivacyPlan) -> Any:
    return json.loads(rfc8785.dumps(plan.to_json()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_comes_back(kind: str) -> None:
    plan = made(kind)
    found = plans.read(written(plan))
    assert found == plan
    assert found.digest() == plan.digest()
    assert (found.training(), found.evaluating()) == (plan.training(), plan.evaluating())


def paths(value: Any, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [(*before, name) for name in value]
    inner = [paths(v, (*before, k)) for k, v in value.items() if isinstance(v, dict)]
    return [*found, *(path for more in inner for path in more)]


def put(value: Any, path: tuple[str, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    node = changed
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = new
    return changed


@pytest.mark.parametrize("kind", ["federated", "counts"])
@pytest.mark.parametrize(
    "new", [[], {}, [1], "x", True, 1e400, -1, {"x": 1}, 10**400, float("nan")]
)
def test_any_other_value_is_refused_or_another_plan(kind: str, new: Any) -> None:
    body = written(made(kind))
    for path in paths(body):
        try:
            found = plans.read(put(body, path, new))
        except ConfigError:
            continue
        assert found == plans.read(body) or found.digest() != made(kind).digest(), path


@pytest.mark.parametrize("kind", ["federated", "counts"])
def test_a_field_too_few_or_too_many_is_refused(kind: str) -> None:
    body = written(made(kind))
    for path in paths(body):
        for name in ("x", None):
            changed = copy.deepcopy(body)
            node = changed
            for step in path[:-1]:
                node = node[step]
            value = node.pop(path[-1])
            if name is not None:
                node[name] = value
            with pytest.raises(ConfigError):
                plans.read(changed)


@given(
    value=st.recursive(st.none() | st.integers() | st.text(), st.lists)
    | st.dictionaries(st.text(), st.integers() | st.none())
)
def test_whatever_is_no_plan_is_a_config_error(value: Any) -> None:
    with pytest.raises(ConfigError):
        plans.read(value)
