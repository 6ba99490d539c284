"""Scoring over HTTP: who may, what is refused, and receipts that are found again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scoring
from scoring import MODEL, Serving, token_of

from tacit.privacy import receipts
from tacit.privacy.log import command
from tacit.server.home import Home
from tacit.server.store import Store

ROW = [[0.5, -1.0, 2.0, 0.25]]
PATH = f"/v1/models/{MODEL}/champion/score"


@pytest.fixture(scope="module")
def at(made: Path) -> Iterator[Serving]:
    with scoring.serving(made, budget=20.0, seal=0.2) as found:
        found.score(ROW)
        yield found


def test_an_answer_says_who_answered_and_its_receipt_is_found_and_proven(
    at: Serving, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, headers, found = at.ask("POST", PATH, {"inputs": ROW * 3})
    assert status == 200
    assert found["request"] == headers["x-request-id"]
    assert (len(found["outputs"]), len(found["labels"]), found["problem"]) == (3, 3, "")
    store = Store(Home(made))
    pinned = str(store.signer.verifier)
    store.close()
    receipts.check(found["receipt"]["receipt"], [pinned])
    assert found["receipt"]["receipt"]["actor"] == "tests"
    kept = tmp_path / "receipt.json"
    # As it was given, and later, with proofs.
    kept.write_text(json.dumps(found["receipt"]))
    assert command.run([str(kept), "--key", pinned]) == 0
    for _ in range(100):
        status, _, later = at.ask("GET", f"/v1/receipts/{found['request']}")
        assert (status, later["receipt"]) == (200, found["receipt"]["receipt"])
        if later["proof"]:
            break
        at.score(ROW)
    kept.write_text(json.dumps(later))
    assert command.run([str(kept), "--key", pinned, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["leaf"] is not None


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputs": [[1, 2, 3]]}, 400, "inputs.shape=[1, 3] must be [n, 4]"),
        ({"inputs": [[1, 2, 3, "4"]]}, 400, "something else than numbers"),
        ({"inputs": [[1, 2, 3, 1e39]]}, 400, "inputs[0] has a number that isn't finite"),
        ({"inputs": [[[[[[1]]]]]]}, 400, "must be [n, 4]"),
        ({"inputs": [[0, 0, 0, 0]] * 257}, 400, "inputs=257 records must be at most 256"),
        ({"inputs": [[0] * 40_000] * 2}, 400, "more than 65536 numbers"),
        ({"inputs": []}, 422, "form"),
        ({"inputs": "x"}, 422, "form"),
        ({}, 422, "form"),
        ({"inputs": ROW, "more": 1}, 422, "form"),
        ({"inputs": ROW, "request": "no!"}, 422, "form"),
        ({"inputs": ROW, "request": "short"}, 422, "form"),
    ],
)
def test_what_cant_be_scored_is_the_callers_error(
    body: Any, status: int, said: str, at: Serving
) -> None:
    got, _, found = at.ask("POST", PATH, body)
    assert (got, said in json.dumps(found)) == (status, True), found


def test_an_id_is_used_once(at: Serving) -> None:
    body = {"inputs": ROW, "request": "mine-000001"}
    assert at.ask("POST", PATH, body)[0] == 200
    status, _, found = at.ask("POST", PATH, body)
    assert (status, found["detail"]) == (409, "request=mine-000001 was used before")


def test_what_isnt_there_or_isnt_theirs_is_one_answer(at: Serving, made: Path) -> None:
    stranger = Serving(at.port, token_of(made, models=["other*"]), at.process)
    _, _, mine = at.ask("POST", PATH, {"inputs": ROW})
    seen = set()
    asked = [
        (at, "POST", f"/v1/models/{MODEL}/nothing/score"),
        (at, "POST", "/v1/models/nobody/champion/score"),
        (at, "POST", f"/v1/models/{MODEL}/No%00/score"),
        (at, "GET", f"/v1/models/{MODEL}/nothing/serving"),
        (at, "GET", "/v1/receipts/nothing-00"),
        (at, "GET", "/v1/receipts/%00"),
        (stranger, "POST", PATH),
        (stranger, "GET", f"/v1/models/{MODEL}/champion/serving"),
        (stranger, "GET", f"/v1/receipts/{mine['request']}"),
    ]
    for who, method, path in asked:
        status, _, found = who.ask(method, path, {"inputs": ROW} if method == "POST" else None)
        found.pop("request")
        seen.add((status, json.dumps(found)))
    assert len(seen) == 1
    assert next(iter(seen))[0] == 404


def test_without_a_token_nothing_is_scored(at: Serving) -> None:
    nobody = Serving(at.port, "tacit_x_y", at.process)
    assert nobody.ask("POST", PATH, {"inputs": ROW})[0] == 401
    assert nobody.ask("GET", "/v1/receipts/mine-000001")[0] == 401


def test_the_shape_of_traffic_is_shown_and_nothing_in_it(at: Serving) -> None:
    at.ask("POST", PATH, {"inputs": [[123.4375, 0, 0, 0]]})
    _, _, found = at.ask("GET", f"/v1/models/{MODEL}/champion/serving")
    assert found["aliases"]["champion"]["serves"] == 1
    assert found["traffic"]["champion"]["requests"]["answered"] >= 1
    assert "123.4375" not in json.dumps(found)


def test_who_comes_when_it_is_full_is_told_when_to_come_again(made: Path) -> None:
    with scoring.serving(made, budget=0.05, slow=1.0, slowed=1) as at:
        # Loading, then always late: never an answer, never a wait.
        for _ in range(20):
            status, headers, found = at.ask("POST", PATH, {"inputs": ROW})
            assert status == 503
            assert int(headers["retry-after"]) >= 1
            assert found["detail"]
