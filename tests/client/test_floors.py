"""`floors.json`: every limit is read, checked, and never weaker than what was written."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planned import COUNTS, EVALUATION, plan

from tacit.client.caps import Caps
from tacit.client.floors import Floors
from tacit.privacy.errors import ConfigError, RoundError, StorageError
from tacit.privacy.plan import PrivacyPlan


def written(folder: Path, body: Any) -> Path:
    path = folder / "floors.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    return path


def test_without_a_file_nothing_is_asked_beyond_the_plan(tmp_path: Path) -> None:
    floors = Floors.load(tmp_path / "floors.json")
    assert floors == Floors()
    assert floors.caps() == Caps()
    assert (floors.clip, floors.rounds, floors.epsilon) == (math.inf, None, None)


def test_every_field_is_read(tmp_path: Path) -> None:
    body = {
        "secure": True,
        "survivors": 20,
        "noise_multiplier": 1,
        "record_noise_multiplier": 0.5,
        "clip": 2,
        "bits": 16,
        "seeded": False,
        "rounds": 100,
        "epsilon": 4,
        "delta": 1e-6,
        "record_epsilon": 8.5,
        "record_delta": 1e-5,
        "separation": 86400,
    }
    floors = Floors.load(written(tmp_path, body))
    assert floors == Floors(**body)
    assert floors.caps() == Caps(
        rounds=100,
        epsilon=4,
        delta=1e-6,
        record_epsilon=8.5,
        record_delta=1e-5,
        separation=86400,
    )
    floors.check(plan())


@pytest.mark.parametrize("name", ["rounds", "epsilon", "delta", "record_epsilon", "record_delta"])
def test_a_limit_may_be_left_open_by_name(tmp_path: Path, name: str) -> None:
    assert Floors.load(written(tmp_path, {name: None})) == Floors()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"secure": 1}, "floors.secure=1 must be true or false"),
        ({"seeded": "no"}, "floors.seeded='no'"),
        ({"clip": True}, "floors.clip=True must be a number"),
        ({"clip": "2"}, "floors.clip='2' must be a number"),
        ({"clip": None}, "floors.clip=None"),
        ({"survivors": None}, "floors.survivors=None"),
        ({"survivors": 2.5}, "floors.survivors=2.5"),
        ({"rounds": "3"}, "floors.rounds='3'"),
        ({"rounds": -1}, "floors.rounds=-1"),
        ({"epsilon": 2}, "floors.epsilon=2 needs floors.delta"),
        ({"epsilon": [2], "delta": 0.1}, r"floors.epsilon=\[2\]"),
        ({"delta": 2}, "floors.delta=2"),
        ({"separation": None}, "floors.separation=None"),
        ({"separation": -1}, "floors.separation=-1"),
        ({"round": 3}, "should only have"),
        ([1], "should only have"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, body: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Floors.load(written(tmp_path, body))


@pytest.mark.parametrize("text", ['{"clip": NaN}', '{"epsilon": NaN, "delta": 0.1}'])
def test_no_number_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="nan"):
        Floors.load(written(tmp_path, text))


def test_a_file_that_is_no_json_is_no_absent_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="can't be read"):
        Floors.load(written(tmp_path, "{"))


@pytest.mark.parametrize(
    ("floors", "said"),
    [
        (Floors(survivors=26), "minimum_survivors=25"),
        (Floors(noise_multiplier=1.3), "noise_multiplier=1.2"),
        (Floors(clip=0.4), "clip=0.5"),
    ],
)
def test_a_plan_below_a_floor_is_refused(floors: Floors, said: str) -> None:
    with pytest.raises(RoundError, match=said):
        floors.check(plan())


def central(z: float) -> PrivacyPlan:
    bare = {"mechanism": "central", "aggregation": "plain", "rules": None, "updates": None}
    evaluation = replace(EVALUATION, noise_multiplier=z)
    return plan(**bare, relation="add-or-remove-one", evaluation=evaluation)


def test_the_floor_of_noise_is_an_evaluations_too() -> None:
    floors = Floors(noise_multiplier=1.0)
    for z in (1.0, 3.0):
        floors.check(central(z))
        less = replace(COUNTS, variance=(z * COUNTS.l2) ** 2)
        floors.check(plan(evaluation=EVALUATION, counts=less))
    quiet = replace(COUNTS, variance=0.0)
    # What the unit's multiplier says counts for nothing beside the noise that there is.
    for below in (central(0.9), plan(evaluation=EVALUATION, counts=quiet)):
        with pytest.raises(RoundError, match=r"evaluation\.noise_multiplier"):
            floors.check(below)
        Floors().check(below)


@pytest.mark.parametrize(
    ("text", "holds"), [(None, False), ("{}", False), ('{"seeded": true}', True)]
)
def test_what_a_file_doesnt_say_of_seeds_is_the_callers_to_say(
    tmp_path: Path, text: str | None, holds: bool
) -> None:
    path = tmp_path / "floors.json"
    if text is not None:
        path.write_text(text)
    assert Floors.load(path, seeded=False).seeded is holds
    assert Floors.load(path).seeded
