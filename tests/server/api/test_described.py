"""The API fuzzed from its own description, and that the description is the one that is kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.python import asgi
from schemathesis.specs.openapi import checks as specific
from tiny import TINY

from tacit import simulate
from tacit.server.api.app import make_app
from tacit.server.api.describe import document
from tacit.server.api.settings import Limits, Settings
from tacit.server.check import verify
from tacit.server.lifecycle import Lifecycle

MANY = Limits(rate=1e6, burst=1e6, strange_rate=1e6, strange_burst=1e6)
DOCS = Path(__file__).parents[3] / "docs"


@schemathesis.check
def never_inside(ctx: Any, response: Any, case: Any) -> None:
    """No 500; 503 says that something is busy, which isn't a fault."""
    assert response.status_code < 500 or response.status_code == 503, response.text


CHECKS = [
    never_inside,
    specific.status_code_conformance,
    specific.content_type_conformance,
    specific.response_schema_conformance,
    specific.response_headers_conformance,
    specific.negative_data_rejection,
]


FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = [
    (path, method)
    for path, methods in json.loads((DOCS / "openapi.json").read_text())["paths"].items()
    for method in methods
]


class Fuzzed:
    """An app over a home with a model, and a client of an administrator."""

    def __init__(self, home: Path) -> None:
        simulate([*TINY, "rounds=2", "task=served:task"], home=home)
        self.app: FastAPI = make_app(home, Settings(limits=MANY))
        held = self.app.state.tokens
        token, _ = held.issue("ada", "admin", tenant="default", lifetime=timedelta(days=1))
        self.headers = {"Authorization": f"Bearer {token}"}
        place = self.app.state.places.open("default")
        life: Lifecycle = place.lifecycle
        life.move("tiny", "champion", 1, expected=None, actor="ann", reason="the first")
        self.place = place
        run = place.store.runs()[0]["id"]
        self.known = {"name": "tiny", "alias": "champion", "number": 2, "run": run, "index": 3}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    made = Fuzzed(tmp_path_factory.mktemp("fuzzed") / "home")
    yield made
    report = verify(made.place.store)
    made.app.state.places.close()
    assert report.findings == []


@pytest.fixture(scope="module")
def client(fuzzed: Fuzzed) -> Iterator[Any]:
    with asgi.get_client(fuzzed.app, max_stream_events=100) as made:
        made.headers.update(fuzzed.headers)
        yield made


@pytest.fixture(scope="module")
def described(fuzzed: Fuzzed) -> Any:
    return schemathesis.openapi.from_asgi("/v1/openapi.json", fuzzed.app)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_is_too_much(
    described: Any, client: Any, fuzzed: Fuzzed, path: str, method: str
) -> None:
    """What fits the description, with names of what there is and without, and what doesn't."""
    operation = described[path][method]

    def asked(case: schemathesis.Case) -> None:
        case.call_and_validate(session=client, checks=CHECKS)

    def named(case: schemathesis.Case) -> None:
        known = {name: v for name, v in fuzzed.known.items() if name in case.path_parameters}
        case.path_parameters.update(known)
        asked(case)

    right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    FEW(given(case=right)(asked))()
    if "{" in path:
        FEW(given(case=right)(named))()
    wrong = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
    with contextlib.suppress(Unsatisfiable):  # Where there is nothing to get wrong.
        FEW(given(case=wrong)(asked))()


def test_the_description_is_the_one_that_is_kept() -> None:
    assert (DOCS / "openapi.json").read_text() == document(), (
        "tacit api openapi > docs/openapi.json"
    )
