"""`tacit.protocol.document`: signed, canonical, whole; anything else is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import planned
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest, scores, tensors

from tacit.privacy.errors import ConfigError, MessageError
from tacit.privacy.secagg.keys import Identity
from tacit.protocol import statements
from tacit.protocol.document import MAGIC, RunDocument, Training, decode, digest

KEY = Identity.from_bytes(bytes(range(32)))
BASE: dict[str, Any] = {
    "run": "r1",
    "population": "made-up",
    "plan": planned.plan(),
    "training": Training(learning_rate=0.1, proximal=0.0, steps=5, sampling_rate=1.0),
    "frozen": "0" * 64,
    "step": manifest(),
}
RECORD = planned.plan(record=dataclasses.replace(planned.RECORD, steps=3))
EVALUATED = planned.plan(evaluation=planned.EVALUATION, counts=planned.COUNTS)


def document(**changes: Any) -> RunDocument:
    return RunDocument(**{**BASE, **changes})


def signed(text: bytes) -> bytes:
    return MAGIC + KEY.sign(statements.document(text)) + text


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
rates = st.floats(1e-9, 1.0)


@given(
    run=words.filter(lambda text: len(text) <= 200),
    learning_rate=st.floats(1e-300, 1e300),
    proximal=st.floats(0, 1e300),
    steps=st.integers(1, 2**53 - 1),
    rate=rates,
    recorded=st.booleans(),
    evaluated=st.booleans(),
)
@settings(deadline=None)
def test_what_is_written_is_read_and_is_the_same_each_time(
    run: str,
    learning_rate: float,
    proximal: float,
    steps: int,
    rate: float,
    recorded: bool,
    evaluated: bool,
) -> None:
    more = (None, None) if recorded else (steps, rate)
    plan = EVALUATED if evaluated else planned.plan()
    if recorded:
        plan = dataclasses.replace(plan, record=planned.RECORD)
    made = document(
        run=run,
        plan=plan,
        training=Training(
            learning_rate=learning_rate, proximal=proximal, steps=more[0], sampling_rate=more[1]
        ),
        evaluation=scores() if evaluated else None,
    )
    data = made.encode(KEY)
    read = decode(data, KEY.public)
    assert read == made
    assert read.plan.digest() == plan.digest()
    assert read.encode(KEY) == data
    assert all(type(v) is float for v in (read.training.learning_rate, read.training.proximal))


DATA = document(plan=EVALUATED, evaluation=scores()).encode(KEY)


@given(place=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
@settings(deadline=None)
def test_a_flipped_byte_is_refused(place: int, flip: int) -> None:
    bad = bytearray(DATA)
    bad[place] ^= flip
    with pytest.raises(MessageError):
        decode(bytes(bad), KEY.public)


@given(st.binary(max_size=400))
def test_noise_is_refused(data: bytes) -> None:
    for bad in (data, MAGIC + data, DATA[: len(data)], DATA + data + b"x", signed(data)):
        with pytest.raises(MessageError):
            decode(bad, KEY.public)


def test_anothers_signature_is_refused() -> None:
    with pytest.raises(MessageError, match="isn't signed by"):
        decode(DATA, Identity.generate().public)
    text = DATA[len(MAGIC) + 64 :]
    # By the right key, for another purpose.
    for statement in (text, statements.renewal(text)):
        with pytest.raises(MessageError, match="isn't signed by"):
            decode(MAGIC + KEY.sign(statement) + text, KEY.public)
    assert digest(DATA) != digest(document().encode(KEY))


HELD = json.loads(DATA[len(MAGIC) + 64 :])
TRAINING = HELD["training"]


@pytest.mark.parametrize("key", HELD)
def test_a_missing_field_is_refused_though_signed(key: str) -> None:
    held = {k: v for k, v in HELD.items() if k != key}
    with pytest.raises(MessageError, match="too many or missing"):
        decode(signed(rfc8785.dumps(held)), KEY.public)


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"version": 2},
        {"version": True},
        {"run": ""},
        {"run": 5},
        {"run": "two\nlines"},
        {"population": None},
        {"frozen": "0" * 63},
        {"frozen": None},
        {"plan": None},
        {"plan": HELD["plan"] | {"rounds": 0}},
        {"plan": HELD["plan"] | {"more": 0}},
        {"training": []},
        {"training": TRAINING | {"steps": 0}},
        {"training": TRAINING | {"steps": 1.5}},
        {"training": TRAINING | {"steps": None}},
        {"training": TRAINING | {"steps": None, "sampling_rate": None}},
        {"training": TRAINING | {"learning_rate": "fast"}},
        {"training": TRAINING | {"learning_rate": True}},
        {"training": TRAINING | {"learning_rate": None}},
        {"training": TRAINING | {"proximal": -1}},
        {"training": TRAINING | {"more": 1}},
        {"step": None},
        {"step": HELD["evaluation"]},
        {"evaluation": HELD["step"]},
        {"evaluation": None},
        {"step": HELD["step"] | {"microbatch": 5}},
    ],
)
def test_what_does_not_fit_is_refused_though_signed(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match="can't be read"):
        decode(signed(rfc8785.dumps(HELD | change)), KEY.public)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def places(held: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = held.items() if isinstance(held, dict) else enumerate(held)
    found = [path] if path else []
    if isinstance(held, dict | list):
        for key, value in inner:
            found += places(value, (*path, key)) if isinstance(value, dict | list) else []
            found.append((*path, key))
    return found


@given(place=st.sampled_from(places(HELD)), value=JSON)
@settings(deadline=None, max_examples=500)
def test_any_value_anywhere_is_refused_or_meant(place: tuple[Any, ...], value: Any) -> None:
    held = json.loads(json.dumps(HELD))
    inner = held
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    text = json.dumps(held, sort_keys=True, separators=(",", ":")).encode()
    try:
        made = decode(signed(text), KEY.public)
    except MessageError:
        return
    assert made.to_json() == text


def test_other_json_of_the_same_document_is_refused() -> None:
    text = json.dumps(HELD).encode()
    with pytest.raises(MessageError, match="canonical"):
        decode(signed(text), KEY.public)
    twice = b'{"run":"r0",' + rfc8785.dumps(HELD)[1:]
    with pytest.raises(MessageError, match="canonical"):
        decode(signed(twice), KEY.public)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plan": RECORD}, "training.steps=5"),
        ({"training": Training(learning_rate=1.0, proximal=0.0)}, "training.steps=None"),
        ({"evaluation": scores()}, "if and only if"),
        ({"plan": EVALUATED, "evaluation": manifest()}, "evaluation.kind"),
        (
            {"plan": EVALUATED, "evaluation": scores(parameters=(tensors("w", "float32", 50),))},
            "aren't the step's",
        ),
        (
            {
                "plan": EVALUATED,
                "evaluation": scores(
                    inputs=(
                        *scores().inputs[:1],
                        tensors("inputs", "float32", 8, 4),
                        *scores().inputs[2:],
                    )
                ),
            },
            "records of the evaluation",
        ),
    ],
)
def test_parts_fit_one_another(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        document(**change)


def test_the_plans_dimension_is_the_graphs() -> None:
    other = dataclasses.replace(planned.UPDATES, dimension=51)
    with pytest.raises(ConfigError, match="aren't the plan's 51"):
        document(plan=planned.plan(updates=other))


BY_RECORDS = planned.plan(**planned.BY_RECORDS)
# A record moves an update by learning_rate * clip / denominator, of a ball of 0.05: 1/16 of it.
FASTEST = 0.05 / 16 * 32


def rate(value: float) -> Training:
    return Training(learning_rate=value, proximal=0.0)


@pytest.mark.parametrize("learning_rate", [1e-300, 0.05, FASTEST])
def test_a_record_may_move_an_update_by_what_the_plan_says(learning_rate: float) -> None:
    data = document(plan=BY_RECORDS, training=rate(learning_rate)).encode(KEY)
    assert decode(data, KEY.public).training.learning_rate == learning_rate


@pytest.mark.parametrize("learning_rate", [FASTEST * (1 + 1e-6), 100.0, 1e300])
def test_a_learning_rate_with_which_a_record_does_more_is_refused(learning_rate: float) -> None:
    with pytest.raises(ConfigError, match="lets a record move an update"):
        document(plan=BY_RECORDS, training=rate(learning_rate))
    text = json.loads(document(plan=BY_RECORDS, training=rate(FASTEST)).to_json())
    text["training"]["learning_rate"] = learning_rate
    with pytest.raises(MessageError, match="lets a record move an update"):
        decode(signed(rfc8785.dumps(text)), KEY.public)


def test_a_ball_from_side_to_side_is_the_most_that_any_rate_does() -> None:
    coarse = dataclasses.replace(planned.BY_RECORD, norm=1000.0, record_norm=2000.0, variance=0.0)
    variance = 60 * (planned.RECORD.noise_multiplier * coarse.record_l2) ** 2
    whole = dataclasses.replace(coarse, variance=variance)
    plan = planned.plan(**{**planned.BY_RECORDS, "updates": whole})
    assert document(plan=plan, training=rate(1e300)).training.learning_rate == 1e300


def test_a_document_names_its_graphs() -> None:
    other = scores(graph="1" * 64, graph_bytes=9)
    made = document(plan=EVALUATED, evaluation=other)
    assert made.graphs == {manifest().graph: 7, "1" * 64: 9}


def test_a_device_reads_it_without_what_it_has_not() -> None:
    heavy = "torch", "flwr", "opacus", "sqlalchemy", "hydra", "scipy", "dp_accounting", "onnx"
    code = (
        "import sys; from tacit.protocol.document import decode; "
        f"decode(bytes.fromhex({DATA.hex()!r}), bytes.fromhex({KEY.public.hex()!r})); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
