"""Whoever has the right key still can't write a log that breaks its own rules unnoticed."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from tampering import (
    AT,
    ME,
    Body,
    bodies_of,
    inserted,
    key_leaf,
    note_of,
    owned,
    removed,
    texts_of,
)
from tiny import TINY, TINY_SECURE

from tacit.privacy import accountant, events
from tacit.privacy.audit.canaries import Canaries
from tacit.privacy.errors import MessageError
from tacit.privacy.log import bundle
from tacit.privacy.log.leaves import digest, statement
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.log.trail import close
from tacit.privacy.log.verify import Finding, Report, Verifier, parsed
from tacit.privacy.policy import Policy, best_order
from tacit.server.governance import signed
from tacit.server.home import Home
from tacit.server.store import Store

ROUNDS = ["evaluation=federated", "evaluation.every=2", *TINY, "rounds=6"]
pytestmark = pytest.mark.usefixtures("remembered")
REVIEWER = SignerKey("reviewer", bytes(32))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verify") / "home"


@pytest.fixture(scope="module")
def log(place: Path) -> list[Body]:
    """A real run's leaves under a key that this test has."""
    return owned(bodies_of(place, *ROUNDS), ME)


def verified(texts: list[str], signer: SignerKey = ME, kept: tuple[str, ...] = ()) -> Report:
    verifier = Verifier()
    for text in texts:
        verifier.add(text)
    return verifier.finish(note_of(texts, signer, ME.name), kept)


def findings(bodies: list[Body], signer: SignerKey = ME) -> list[Finding]:
    return verified(texts_of(bodies), signer).findings


def where(bodies: list[Body], **wanted: Any) -> int:
    """The first leaf with these values."""
    return next(i for i, b in enumerate(bodies) if wanted.items() <= b.items())


def train(bodies: list[Body], kind: str, number: int) -> int:
    return where(bodies, kind=kind, round=number, purpose="train")


def evaluated(bodies: list[Body], kind: str, number: int) -> int:
    return where(bodies, kind=kind, round=number, purpose="evaluate")


def test_a_real_run_holds(log: list[Body]) -> None:
    report = verified(texts_of(log))
    assert report.holds
    assert report.origin == ME.name
    assert (report.size, report.keys) == (len(log), [str(ME.verifier)])
    assert report.to_json()["findings"] == []
    (run,) = report.runs
    assert (run["released"], run["charges"], run["status"]) == (6, 9, "finished")


# One leaf changed and everything signed again with the right key

Edit = Callable[[list[Body]], tuple[list[Body], int]]


def edited(find: Callable[[list[Body]], int], **values: Any) -> Edit:
    def edit(bodies: list[Body]) -> tuple[list[Body], int]:
        index = find(bodies)
        bodies[index] |= {k: v(bodies[index][k]) if callable(v) else v for k, v in values.items()}
        return bodies, index

    return edit


def charge_of(number: int) -> Callable[[list[Body]], int]:
    return lambda bodies: train(bodies, "CHARGE", number)


def release_of(number: int) -> Callable[[list[Body]], int]:
    return lambda bodies: train(bodies, "RELEASE", number)


def plan(bodies: list[Body]) -> int:
    return where(bodies, kind="PLAN")


def more_noise(claims: list[Any]) -> list[Any]:
    made = copy.deepcopy(claims)
    made[0]["event"]["noise_multiplier"] *= 2
    return made


def without_its_charge(bodies: list[Body]) -> tuple[list[Body], int]:
    index = train(bodies, "CHARGE", 3)
    found = removed(bodies, index)
    return found, train(found, "RELEASE", 3)


def put(at: Callable[[list[Body]], int], make: Callable[[list[Body]], Body]) -> Edit:
    def edit(bodies: list[Body]) -> tuple[list[Body], int]:
        index = at(bodies)
        return inserted(bodies, index, {"at": AT, **make(bodies)}), index

    return edit


def last(bodies: list[Body]) -> int:
    return len(bodies) - 1


def run_of(bodies: list[Body]) -> str:
    return str(bodies[plan(bodies)]["run"])


def another_round(bodies: list[Body]) -> Body:
    return bodies[train(bodies, "CHARGE", 6)] | {"round": 7}


def unplanned_evaluation(bodies: list[Body]) -> Body:
    found = bodies[evaluated(bodies, "CHARGE", 2)]
    return found | {"round": 1}


def released_twice(bodies: list[Body]) -> tuple[list[Body], int]:
    """A second attempt at an evaluation that was released already."""
    place = evaluated(bodies, "RELEASE", 2)
    charge = bodies[evaluated(bodies, "CHARGE", 2)] | {"attempt": 1, "participations": 2}
    release = bodies[place] | {"attempt": 1, "charge": place + 1}
    return inserted(bodies, place + 1, charge, release), place + 2


def result(bodies: list[Body], place: int | None = None) -> Body:
    """An audit's, of what was charged by leaf ``place``."""
    verifier = Verifier()
    for text in texts_of(bodies[:place]):
        verifier.add(text)
    spent = verifier.trail.runs[run_of(bodies)].whole()
    made = Canaries("client", "one-run", 10, bytes(32))
    return {
        "kind": "AUDIT",
        "stage": "result",
        "run": run_of(bodies),
        "unit": "client",
        "method": "one-run",
        "canaries": 10,
        "secret": made.secret.hex(),
        "commitment": made.commitment(),
        "lower_bound": 0.1,
        "charged": spent.epsilon("client", "public", True),
        "delta": spent.deltas["client"],
        "amplified": True,
        "violated": False,
    }


def commitment(bodies: list[Body]) -> Body:
    made = Canaries("client", "one-run", 10, bytes(32))
    common = {"kind": "AUDIT", "stage": "commitment", "run": run_of(bodies), **made.to_json()}
    return common | {"commitment": made.commitment()}


def status(bodies: list[Body]) -> int:
    return where(bodies, kind="STATUS")


EDITS: list[tuple[str, Edit, str]] = [
    ("no charge", without_its_charge, "without an open charge"),
    (
        "smaller event",
        edited(charge_of(2), claims=more_noise),
        "other than its plan: client/",
    ),
    ("no claims", edited(charge_of(2), claims=[]), "rows are missing"),
    ("rows turned", edited(charge_of(2), claims=lambda c: c[::-1]), "claims other than its plan"),
    ("attempt", edited(charge_of(2), attempt=1), "isn't the next attempt"),
    ("round", edited(charge_of(2), round=3), "when round 1 was the last released"),
    ("rounds", put(last, another_round), "beyond the 6 rounds planned"),
    ("other plan", edited(charge_of(4), plan="0" * 64), "under another plan than the run's"),
    ("bound", edited(charge_of(4), participations=lambda b: b - 1), "participations for 4 draws"),
    ("bound too high", edited(charge_of(2), participations=10**12), "participations for 2 draws"),
    ("noise", edited(charge_of(1), noise_source="os-csprng"), "drew its noise from os-csprng"),
    ("purpose", edited(charge_of(6), purpose="show"), "purpose=show, which is unknown"),
    ("evaluation", put(charge_of(1), unplanned_evaluation), "an evaluation that wasn't planned"),
    ("released twice", released_twice, "released a second time"),
    ("no artifact", lambda b: dropped(b, train(b, "RELEASE", 6), "artifact"), "without a model"),
    ("no state", lambda b: dropped(b, train(b, "RELEASE", 6), "state"), "malformed: KeyError"),
    ("artifact", edited(release_of(6), artifact="../x"), "isn't a digest"),
    ("release's plan", edited(release_of(2), plan="0" * 64), "released under another plan"),
    ("charge's number", edited(release_of(2), charge=3), "names charge 3"),
    ("gap", edited(release_of(6), number=7), "isn't the next version"),
    ("name", edited(release_of(6), name="other"), "isn't the next version of tiny"),
    ("parent", edited(release_of(3), parent=None), "as its parent"),
    ("first parent", edited(release_of(1), parent=1), "as its parent"),
    ("plan's body", edited(plan, body=lambda b: b | {"rounds": 60}), "isn't the one of its digest"),
    ("plan's name", edited(plan, population=["tiny"]), "isn't text"),
    ("second plan", put(last, lambda b: b[plan(b)]), "was planned twice"),
    ("unplanned", put(last, lambda b: b[charge_of(1)(b)] | {"run": "x"}), "has no PLAN leaf"),
    (
        "abandoned",
        put(last, lambda b: b[release_of(1)(b)] | {"kind": "ABANDON"}),
        "abandoned without",
    ),
    ("kind", edited(status, kind="NOTE"), "kind='NOTE' is unknown"),
    ("status", edited(status, status="well"), "status=well is unknown"),
    ("no time", lambda b: dropped(b, status(b), "at"), "malformed: KeyError 'at'"),
    ("time", edited(status, at="yesterday"), "malformed: ValueError"),
    ("audit", put(last, result), "weren't committed to beforehand"),
    ("late canaries", put(last, commitment), "after the run began"),
    ("key", put(last, lambda b: key_leaf(ME, REVIEWER, ME.name)), "doesn't follow"),
]


def dropped(bodies: list[Body], index: int, name: str) -> tuple[list[Body], int]:
    del bodies[index][name]
    return bodies, index


@pytest.mark.parametrize(("edit", "words"), [e[1:] for e in EDITS], ids=[e[0] for e in EDITS])
def test_an_edit_is_found_where_it_is(log: list[Body], edit: Edit, words: str) -> None:
    found, index = edit(copy.deepcopy(log))
    said = findings(found)
    assert any(f.leaf == index and words in f.problem for f in said), said
    # What follows from it may be wrong too; nothing before it is.
    assert all(f.leaf is None or f.leaf >= index for f in said), said


ALONE = ("smaller event", "rows turned", "other plan", "noise", "gap", "parent", "plan's body")
ALONE += ("kind", "no time", "status", "audit", "late canaries", "second plan")


@pytest.mark.parametrize("name", ALONE)
def test_a_lone_edit_is_all_that_is_found(log: list[Body], name: str) -> None:
    edit = next(e[1] for e in EDITS if e[0] == name)
    found, index = edit(copy.deepcopy(log))
    assert {f.leaf for f in findings(found)} == {index}


@pytest.mark.parametrize("number", range(1, 7))
def test_an_epsilon_that_is_too_small_is_found(log: list[Body], number: int) -> None:
    found = copy.deepcopy(log)
    index = train(found, "RELEASE", number)
    before = found[train(found, "RELEASE", number - 1)]["epsilon"]["client"] if number > 1 else 0.0
    found[index]["epsilon"]["client"] = before * 0.99
    assert {f.leaf for f in findings(found)} == {index}
    found[index]["epsilon"]["client"] = None
    assert findings(found)


@pytest.mark.parametrize("number", [1, 2, 4, 6])
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_an_epsilon_that_is_a_little_off_is_found(
    log: list[Body], number: int, factor: float
) -> None:
    """Of the rounds that are recomputed: powers of two and the last."""
    found = copy.deepcopy(log)
    index = train(found, "RELEASE", number)
    found[index]["epsilon"]["record"] *= factor
    (problem,) = findings(found)
    assert problem.leaf == index
    assert "states epsilon.record=" in problem.problem


def test_a_smaller_epsilon_with_smaller_charges_is_found_in_every_charge(log: list[Body]) -> None:
    """A consistent lie: the events and what they add up to."""
    found = copy.deepcopy(log)
    places = [i for i, b in enumerate(found) if b["kind"] == "CHARGE"]
    for i in places:
        found[i]["claims"] = more_noise(found[i]["claims"])
    said = findings(found)
    assert set(places) <= {f.leaf for f in said}


def test_adopting_is_for_the_beginning(log: list[Body]) -> None:
    """An adopted run's plan need not be readable; a new one's must."""
    late = copy.deepcopy(log[plan(log)]) | {"run": "late", "adopted": {}, "at": AT}
    late["body"] = {"client_delta": 0.1, "record_delta": 0.1}
    late["plan"] = digest(late["body"])
    found = inserted(log, len(log), late)
    (problem,) = findings(found)
    assert (problem.leaf, "adopted after" in problem.problem) == (len(log), True)
    early = verified(texts_of(inserted(log, 1, late)))
    assert early.holds
    assert any("older tacit" in note for note in early.notes)


def test_an_adopted_plan_that_cant_be_read_excuses_no_charge(log: list[Body]) -> None:
    """With a field that no tacit knows, nothing of the plan could be held against charges."""
    found = replanned(log, lambda body: body | {"extra": 1})
    found[plan(found)] |= {"adopted": {}}
    charges = {i for i, b in enumerate(found) if b["kind"] == "CHARGE"}
    said = findings(found)
    assert charges == {f.leaf for f in said if "under a plan that can't be read" in f.problem}


def replanned(log: list[Body], change: Callable[[Body], Body]) -> list[Body]:
    """The log with another plan and its digest wherever it is named."""
    found = copy.deepcopy(log)
    leaf = found[plan(found)]
    leaf["body"] = change(leaf["body"])
    for body in found:
        if "plan" in body:
            body["plan"] = digest(leaf["body"])
    return found


def test_before_the_first_key_only_spending_is_allowed(log: list[Body]) -> None:
    terms = policy(run_epsilon=9.0)
    for body in (terms, log[plan(log)], log[status(log)]):
        said = findings(inserted(log, 0, body))
        assert said[0].leaf == 0
        assert f"{body['kind']} before the ledger's first KEY" in said[0].problem


def test_metrics_without_a_charge_are_found(log: list[Body]) -> None:
    """All evaluations' charges and releases are gone, their metrics aren't."""
    found = copy.deepcopy(log)
    while any(b.get("purpose") == "evaluate" for b in found):
        found = removed(found, where(found, purpose="evaluate"))
    said = findings(found)
    evaluations = {train(found, "RELEASE", number) for number in (2, 4, 6)}
    words = "metrics that weren't released under a charge"
    assert {f.leaf for f in said if words in f.problem} == evaluations


def test_metrics_that_were_not_released_are_found(log: list[Body]) -> None:
    found = copy.deepcopy(log)
    index = train(found, "RELEASE", 4)
    found[index]["metrics"]["accuracy"] = 0.123
    (problem,) = findings(found)
    assert (problem.leaf, "weren't released under" in problem.problem) == (index, True)
    found = copy.deepcopy(log)
    found[train(found, "RELEASE", 3)]["metrics"] = found[index]["metrics"]
    (problem,) = findings(found)
    assert "in a round that isn't evaluated" in problem.problem


def test_a_time_before_the_last_is_found(log: list[Body]) -> None:
    """Dated back far enough, a charge would fall out of a policy's window."""
    found = copy.deepcopy(log)
    index = train(found, "CHARGE", 4)
    found[index]["at"] = "2026-01-01T23:59:59Z"
    (problem,) = findings(found)
    assert problem.leaf == index
    assert f"says 2026-01-01T23:59:59Z, and the leaf before it {AT}" in problem.problem


def test_a_charge_dated_back_counts_in_its_window(log: list[Body]) -> None:
    terms = {"epsilon": 3.0, "order": best_order(3.0, 0.01), "window_days": 1.0}
    found = inserted(log, plan(log), policy(**terms))
    due = {f.leaf for f in findings(found)}
    for body in found:
        if body["kind"] == "CHARGE":
            body["at"] = "2025-01-02T00:00:00Z"
    refused = {f.leaf for f in findings(found) if "should have been refused" in f.problem}
    assert due
    assert refused == due


@pytest.mark.parametrize(
    "change",
    [
        {"charged": 1e-3},
        {"charged": 1e3},
        {"charged": None},
        {"delta": 0.5},
        {"amplified": False},
        {"unit": "record"},
    ],
    ids=str,
)
def test_an_audit_of_another_charge_is_found(log: list[Body], change: Body) -> None:
    found = inserted(log, status(log), {"at": AT, **commitment(log)})
    right = {"at": AT, **result(found)}
    assert findings([*found, right]) == []
    said = findings([*found, right | change])
    assert {f.leaf for f in said} == {len(found)}
    assert any("an audit held against" in f.problem for f in said)


@pytest.mark.parametrize("number", range(1, 7))
def test_every_release_states_exactly_its_epsilons(log: list[Body], number: int) -> None:
    """Also those whose figures aren't recomputed."""
    index = train(log, "RELEASE", number)
    more, fewer = copy.deepcopy(log), copy.deepcopy(log)
    more[index]["epsilon"]["mine"] = 0.1
    del fewer[index]["epsilon"]["client"]
    for found, name in ((more, "mine"), (fewer, "client")):
        words = f"states ['{name}'] too many or too few"
        assert [f.leaf for f in findings(found) if words in f.problem] == [index]


IN_LITTLE_MEMORY = """
import resource, sys
from tacit.privacy.log.command import run
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
sys.exit(run(sys.argv[1:]))
"""


def test_a_plan_too_large_to_add_up_is_a_finding(log: list[Body], tmp_path: Path) -> None:
    more = {"steps": 10**9, "sampling_rate": 0.5}
    texts = texts_of(replanned(log, lambda body: body | {"record": body["record"] | more}))
    with (tmp_path / "bundle").open("wb") as file:
        bundle.write(file, note_of(texts, ME), texts, [])
    done = subprocess.run(
        [sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "bundle")],
        capture_output=True,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        timeout=120,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "malformed: MemoryError" in done.stdout
    assert "what was charged can't be added up" in done.stdout


# Text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + " ",
        lambda text: text.replace(":", ": ", 1),
        lambda text: text.replace('"kind"', '"kin\\u0064"'),
        lambda text: text.replace('"round":1', '"round":1.0', 1),
        lambda text: text.replace('"round":1', '"round":1e0', 1),
        lambda text: text.replace('"attempt":0', '"attempt":-0', 1),
        lambda text: text.replace('"attempt":0', '"attempt":0,"attempt":0', 1),
        lambda text: text.replace('"attempt":0', '"attempt":00', 1),
        lambda text: json.dumps(json.loads(text), sort_keys=True),
        lambda text: "{" + ",".join(text[1:-1].split(",")[::-1]) + "}",
    ],
)
def test_a_text_that_is_not_canonical_is_found(
    log: list[Body], spoil: Callable[[str], str]
) -> None:
    texts = texts_of(log)
    index = train(log, "CHARGE", 1)
    assert spoil(texts[index]) != texts[index]
    texts[index] = spoil(texts[index])
    said = [f for f in verified(texts).findings if f.leaf == index]
    assert any("canonical" in f.problem or "JSON" in f.problem for f in said)


NUMBERS = [1e-5, 1e-7, 0.1, 1e16, 1e20, 2.0**53, 2**53 - 1, 1e21, 1.5e300, 5e-324, -1e-5, 0]


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_are_canonical_as_rfc_8785_writes_them(value: float) -> None:
    text = rfc8785.dumps({"a": value, "b": [value]}).decode()
    assert parsed(text) == {"a": value, "b": [value]}


@pytest.mark.parametrize(
    "text",
    [
        *('{"a":1e-05}', '{"a":1E400}', '{"a":123456789012345678901}', '{"a":NaN}', '{"a":1.10}'),
        *('{"a":"\\ud800"}', '{"a":"\ud800"}', '{"a":"\x01"}', "[1]", "1", "", "{"),
        *('{"a":' + "9" * 400 + "}", '{"a":' + "9" * 5000 + "}"),
        *('{"a":' * 5000 + "1" + "}" * 5000, "[" * 10**6),
    ],
)
def test_what_is_not_canonical_is_a_message_error(text: str) -> None:
    with pytest.raises(MessageError):
        parsed(text)
    assert len(verified_alone(text)) >= 1


def verified_alone(text: str) -> list[Finding]:
    verifier = Verifier()
    verifier.add(text)
    return verifier.finish("").findings


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(body=st.dictionaries(st.text(), JSON, max_size=4), text=st.text(st.characters()))
def test_any_json_is_taken_and_found_wrong(body: Body, text: str) -> None:
    try:
        canonical = rfc8785.dumps(body).decode()
        assert parsed(canonical) == body
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        canonical = json.dumps(body)
    assert verified_alone(canonical)
    assert verified_alone(text)


@st.composite
def spoilt(draw: st.DrawFn) -> Callable[[list[Body]], None]:
    """Changes to a few values anywhere in a log."""
    picks = draw(st.lists(st.tuples(st.integers(0), st.integers(0), JSON), min_size=1, max_size=4))

    def spoil(bodies: list[Body]) -> None:
        for leaf, way, value in picks:
            node: Any = bodies[leaf % len(bodies)]
            while node:
                names = sorted(node) if isinstance(node, dict) else list(range(len(node)))
                name = names[way % len(names)]
                if isinstance(node[name], dict | list) and node[name] and way % 3:
                    node, way = node[name], way // 2
                    continue
                node[name] = value
                break

    return spoil


@settings(max_examples=150, deadline=None)
@given(spoil=spoilt())
def test_any_value_anywhere_is_taken(log: list[Body], spoil: Callable[[list[Body]], None]) -> None:
    """Neither `add` nor `finish` raises, whatever a leaf says."""
    bodies = copy.deepcopy(log)
    spoil(bodies)
    try:
        texts = texts_of(bodies)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        texts = [json.dumps(body) for body in bodies]
    verified(texts)


# Keys and checkpoints


def test_keys_follow_each_other(log: list[Body]) -> None:
    following = SignerKey.generate(ME.name)
    found = [*log, key_leaf(following, ME, ME.name)]
    assert verified(texts_of(found), following, (note_of(texts_of(log), ME),)).holds
    assert any("known key" in f.problem for f in findings(found, ME))
    for change in ({"signature": None}, {"origin": "x"}, {"previous": None}, {"key": "x"}):
        bad = [*log, found[-1] | change]
        assert any(f.leaf == len(log) for f in findings(bad, following))
    stranger = SignerKey.generate(ME.name)
    forged = key_leaf(following, stranger, ME.name) | {"previous": str(ME.verifier)}
    (problem, *_) = findings([*log, forged], following)
    assert (problem.leaf, problem.problem) == (
        len(log),
        "the new key isn't signed with the old one",
    )


def test_a_kept_checkpoint_fixes_the_beginning(log: list[Body]) -> None:
    texts = texts_of(log)
    for size in (1, 5, len(texts)):
        kept = note_of(texts[:size], ME)
        assert verified(texts, kept=(kept,)).holds
        assert size == len(texts) or verified(texts[:size], kept=(kept,)).findings == []
    kept = note_of(texts, ME)
    (problem,) = [f for f in verified(texts[:-2], kept=(kept,)).findings if "gone" in f.problem]
    assert "the newest 2 of them are gone" in problem.problem
    # Another log with the same key, as good in itself.
    other = copy.deepcopy(log)
    other[status(other)]["message"] = "0" * 64
    assert verified(texts_of(other)).holds
    (problem,) = verified(texts_of(other), kept=(kept,)).findings
    assert "aren't those of a kept checkpoint" in problem.problem
    for junk in ("", "x", kept[:-1], kept.replace(ME.name, "other"), kept + kept):
        assert not verified(texts, kept=(junk,)).holds


def test_a_checkpoint_that_is_not_of_these_leaves_is_found(log: list[Body]) -> None:
    texts = texts_of(log)
    for checkpoint in (
        note_of(texts[:-1], ME),
        note_of([*texts[:-1], "x"], ME),
        note_of(texts, ME, "other"),
        note_of(texts, SignerKey.generate(ME.name)),
        "",
    ):
        verifier = Verifier()
        for text in texts:
            verifier.add(text)
        assert len(verifier.finish(checkpoint).findings) == 1
    verifier = Verifier()
    assert len(verifier.finish(note_of([], ME)).findings) == 1


def test_a_pinned_key_must_have_signed(log: list[Body]) -> None:
    verifier = Verifier()
    for text in texts_of(log):
        verifier.add(text)
    keys = [str(ME.verifier), str(REVIEWER.verifier), "x"]
    said = verifier.finish(note_of(texts_of(log), ME), pinned=keys).findings
    assert [str(f) for f in said] == [f"the ledger isn't signed by the key {k}" for k in keys[1:]]


# Policies, reviews, audits


def policy(signer: SignerKey | None = None, **terms: Any) -> Body:
    made = Policy(population="tiny", **{"delta": 0.01, **terms})
    return {"at": AT, **signed({"kind": "POLICY", "run": "", "policy": made.to_json()}, signer)}


def test_a_charge_over_a_cap_is_found(log: list[Body]) -> None:
    terms = {"epsilon": 3.0, "delta": 0.01, "order": best_order(3.0, 0.01)}
    found = inserted(log, plan(log), policy(**terms))
    said = findings(found)
    assert said
    assert all("should have been refused: epsilon=3 of population=tiny" in f.problem for f in said)
    charges = [i for i, b in enumerate(found) if b["kind"] == "CHARGE"]
    assert [f.leaf for f in said] == charges[-len(said) :]
    wide = {"epsilon": 300.0, "delta": 0.01, "order": best_order(300.0, 0.01)}
    assert findings(inserted(log, plan(log), policy(**wide))) == []


def test_a_policy_with_reviewers_is_theirs_to_change(log: list[Body]) -> None:
    mine = policy(run_epsilon=9.0, reviewers=(str(REVIEWER.verifier),))
    found = inserted(log, len(log), mine, policy(run_epsilon=90.0))
    (problem,) = findings(found)
    assert problem.leaf == len(log) + 1
    stranger = policy(SignerKey.generate("reviewer"), run_epsilon=90.0)
    (problem,) = findings(inserted(log, len(log), mine, stranger))
    assert problem.leaf == len(log) + 1
    right = policy(REVIEWER, run_epsilon=90.0)
    assert findings(inserted(log, len(log), mine, right)) == []
    altered = right | {"policy": right["policy"] | {"run_epsilon": 91.0}}
    assert findings(inserted(log, len(log), mine, altered))


def test_a_run_that_waited_for_nobody_is_found(log: list[Body]) -> None:
    asks = policy(review_epsilon=0.5, reviewers=(str(REVIEWER.verifier),))
    found = inserted(log, plan(log), asks)
    problem, *later = findings(found)
    assert problem.leaf == train(found, "CHARGE", 1)
    assert "asks for a review" in problem.problem
    # More than may be spent without a yes is wrong with each further charge.
    assert all("review_epsilon=0.5 of population=tiny" in f.problem for f in later)
    place, run = train(found, "CHARGE", 1), log[plan(log)]
    body = {"kind": "APPROVAL", "run": run["run"], "plan": run["plan"], "verdict": "approved"}
    body |= {"lifts": None, "note": "[/fine]"}
    yes = {"at": AT, **signed(body, REVIEWER)}
    assert findings(inserted(found, place, yes)) == []
    for bad in (
        yes | {"verdict": "refused"},
        yes | {"signature": None},
        {"at": AT, **signed(body, ME)},
        {"at": AT, **signed(body, SignerKey.generate("reviewer"))},
        {"at": AT, **signed(body | {"plan": "0" * 64}, REVIEWER)},
    ):
        said = findings(inserted(found, place, bad))
        assert said[0].leaf in (place, place + 1)
    assert statement(yes)


def test_an_audit_that_refutes_freezes_releases(log: list[Body]) -> None:
    found = inserted(log, status(log), {"at": AT, **commitment(log)})
    assert findings(found) == []
    place = train(found, "CHARGE", 2)
    refuted = {"at": AT, **result(found, place), "lower_bound": 9.0, "violated": True}
    said = findings(inserted(found, place, refuted))
    assert len(said) == 8 + 8  # Charges and releases from round 2 on.
    assert all("should have been refused: the audit" in f.problem for f in said)
    hidden = refuted | {"violated": False}
    (problem,) = findings(inserted(found, place, hidden))
    assert (problem.leaf, "isn't what" in problem.problem) == (place, True)


# What it adds up to


def test_rows_are_what_the_store_and_the_accountant_say(place: Path, log: list[Body]) -> None:
    assert log
    (run,) = verified(texts_of(log)).runs
    compare(Store(Home(place)), run)
    own = next(r for r in run["rows"] if (r["unit"], r["adversary"], r["amplified"]) == CLIENT)
    claims = [
        claim["event"]
        for body in log
        if body["kind"] == "CHARGE"
        for claim in body["claims"]
        if (claim["unit"], claim["adversary"], claim["amplified"]) == CLIENT
    ]
    assert len(claims) == 9
    anew = accountant.epsilon(map(events.from_json, claims), own["delta"])
    assert own["epsilon"] == pytest.approx(anew.value, rel=1e-4)


CLIENT = ("client", "public", True)


def compare(store: Store, run: dict[str, Any]) -> None:
    claims = store.claims(run["run"])
    store.close()
    assert len(claims) == len(run["rows"]) > 5
    for mine, theirs in zip(run["rows"], claims, strict=True):
        assert close(mine["epsilon"], theirs["epsilon"])
        same = ("unit", "adversary", "amplified", "delta", "method", "assumes")
        assert [mine[k] for k in same] == [theirs[k] for k in same]


def test_a_run_with_secure_aggregation_holds_and_adds_up(tmp_path: Path) -> None:
    log = owned(bodies_of(tmp_path / "home", *TINY_SECURE), ME)
    report = verified(texts_of(log))
    assert report.findings == []
    (run,) = report.runs
    compare(Store(Home(tmp_path / "home")), run)
    assert {row["method"] for row in run["rows"]} >= {"rdp"}
    charges = [i for i, b in enumerate(log) if b["kind"] == "CHARGE"]
    claim = next(c for c in log[charges[1]]["claims"] if c["event"] and "variance" in c["event"])
    claim["event"]["variance"] *= 1.01
    assert charges[1] in {f.leaf for f in findings(log)}


def test_a_population_is_its_runs_together(log: list[Body]) -> None:
    """Two runs in one log: rows over both are those of all their events composed."""
    name = run_of(log)
    again = [copy.deepcopy(b) | {"run": "second"} for b in log if b.get("run") == name]
    moved = len(log) - plan(log)
    for body in again:
        if "number" in body:
            body["number"] += 6
            body["parent"] = None if body["parent"] is None else body["parent"] + moved
        if "charge" in body:
            body["charge"] += moved
    report = verified(texts_of([*log, *again]))
    assert report.findings == []
    (both,) = report.populations
    assert both["runs"] == 2
    single = {(r["unit"], r["adversary"], r["amplified"]): r for r in report.runs[0]["rows"]}
    for row in both["rows"]:
        own = single[row["unit"], row["adversary"], row["amplified"]]["epsilon"]
        if row["epsilon"] is not None and row["unit"] == "client":
            assert own < row["epsilon"] < 2 * own
    assert dataclasses.is_dataclass(report)
