"""The ledger: leaves, proofs, verification, bundle; policies and approvals.

Guarantees: what is proved or exported is of one state. The verifier and a bundle's download hold
nobody up. An APPROVAL is taken with a signature that was made elsewhere: no reviewer's private key
is ever here, and a token alone approves nothing.

Who may not know of all models gets neither the bundle nor the verifier's findings, which name them.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.responses import StreamingResponse

from tacit.privacy.errors import AccessError
from tacit.privacy.log import leaves as log
from tacit.privacy.log.leaves import KINDS
from tacit.server import exports
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, Place, allowed, recorded, sight
from tacit.server.api.ledger_shapes import (
    Appended,
    Approvals,
    Checkpoint,
    Draft,
    Growth,
    Inclusion,
    Leaf,
    Leaves,
    Policies,
    Signed,
    Since,
    Verified,
)
from tacit.server.api.shapes import MOST, PRINTABLE, TEXT, LeafIndex, Limit, Run
from tacit.server.governance import Governance
from tacit.server.home import explained
from tacit.server.views import ledger as views
from tacit.server.views.verification import Verification

router = APIRouter(tags=["ledger"])
Reader = Annotated[Caller, Depends(allowed("read"))]
Reviewer = Annotated[Caller, Depends(allowed("review"))]
Kind = Literal[KINDS]  # type: ignore[valid-type]
_CHUNK = 1 << 18


def whole(caller: Reader) -> Caller:
    """A dependency: a caller who may know of all models.

    Raises:
        AccessError: it may not.
    """
    if not caller.covers(["*"]):
        raise AccessError("the ledger as a whole names all models", "ask for a token with models=*")
    return caller


def verification(here: Place) -> Verification:
    """The verifier of a place."""

    def make() -> Verification:
        made = Verification(here.store)
        here.closing.callback(made.stop)
        return made

    return here.shared("verification", make)


@router.get(
    "/ledger/leaves", dependencies=[Depends(recorded("ledger leaves"))], response_model=Leaves
)
def leaves(
    caller: Reader,
    here: Here,
    start: Annotated[int, Query(ge=0, le=MOST, description="The first index wanted.")] = 0,
    limit: Limit = 100,
    kind: Annotated[list[Kind] | None, Query(max_length=32, description="Only these.")] = None,
    run: Annotated[
        str | None, Query(max_length=64, pattern=PRINTABLE, description="Only this run's.")
    ] = None,
) -> dict[str, Any]:
    """Leaves in order, page by page."""
    return views.leaves(here.store, start, limit, kinds=kind or (), run=run, sees=sight(caller))


@router.get(
    "/ledger/leaves/{index}",
    dependencies=[Depends(recorded("ledger leaf {index}"))],
    response_model=Leaf,
)
def leaf(index: LeafIndex, caller: Reader, here: Here) -> dict[str, Any]:
    """One leaf."""
    return views.leaf(here.store, index, sight(caller))


@router.get(
    "/ledger/leaves/{index}/proof",
    dependencies=[Depends(recorded("ledger leaf {index}"))],
    response_model=Inclusion,
)
def proof(index: LeafIndex, caller: Reader, here: Here) -> dict[str, Any]:
    """A proof that a leaf is in the ledger, without showing others."""
    views.leaf(here.store, index, sight(caller))
    return exports.prove(here.store, index)


@router.get(
    "/ledger/checkpoint",
    dependencies=[Depends(recorded("ledger checkpoint"))],
    response_model=Checkpoint,
)
def checkpoint(here: Here) -> dict[str, Any]:
    """The newest signed checkpoint, and the keys to know the ledger by."""
    return views.checkpoint(here.store)


@router.post(
    "/ledger/consistency",
    dependencies=[Depends(recorded("ledger checkpoint"))],
    response_model=Growth,
)
def consistency(since: Since, here: Here) -> dict[str, Any]:
    """A proof that the ledger only grew since a checkpoint."""
    return exports.prove_since(here.store, since.checkpoint)


@router.get(
    "/ledger/verification",
    dependencies=[Depends(recorded("ledger verification"))],
    response_model=Verified,
)
def verified(caller: Reader, here: Here) -> dict[str, Any]:
    """Whether the ledger held when it was last checked; POST has it checked again."""
    return _seen(verification(here).status(), caller)


@router.post(
    "/ledger/verification",
    status_code=202,
    dependencies=[Depends(recorded("ledger verification"))],
    response_model=Verified,
)
def verify(caller: Reader, here: Here) -> dict[str, Any]:
    """Has the ledger checked, unless it has not grown since the last check, or one is under way."""
    size = views.checkpoint(here.store)["size"]
    return _seen(verification(here).ask(size), caller)


@router.get(
    "/ledger/export",
    dependencies=[Depends(whole), Depends(recorded("ledger", "export"))],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A bundle, which tacit-verify checks anywhere.",
            "content": {"application/jsonl": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
def export(
    here: Here,
    artifacts: Annotated[
        Literal["none", "newest", "all"], Query(description="Models that go along.")
    ] = "none",
) -> StreamingResponse:
    """The whole ledger as one file."""
    turn = here.shared("export", threading.Lock)
    if not turn.acquire(blocking=False):
        raise problems.LimitedError(1.0)
    try:
        # Written before it is sent: a slow taker mustn't hold the database's old state, and what
        # can't be exported is an answer rather than half a file. Nobody else can open it.
        with explained("the bundle can't be written"), contextlib.ExitStack() as failing:
            file = failing.enter_context(tempfile.TemporaryFile(dir=here.store.home.root))
            said = exports.write(here.store, file, artifacts)
            length = file.tell()
            failing.pop_all()
    finally:
        turn.release()
    headers = {
        "Content-Length": str(length),
        "Content-Disposition": f'attachment; filename="ledger-{said["leaves"]}.jsonl"',
        "ETag": f'"{said["sha256"]}"',
    }
    return StreamingResponse(_sent(file), media_type="application/jsonl", headers=headers)


@router.get("/policies", dependencies=[Depends(recorded("policies"))], response_model=Policies)
def policies(caller: Reader, here: Here) -> dict[str, Any]:
    """What may be spent on each population: the policies in force."""
    return {"policies": views.policies(here.store, sight(caller))}


@router.get("/approvals", dependencies=[Depends(recorded("approvals"))], response_model=Approvals)
def approvals(caller: Reader, here: Here) -> dict[str, Any]:
    """What waits for a reviewer, and why."""
    governance = here.shared("governance", lambda: Governance(here.store))
    # It follows the ledger from where it was, and takes one at a time.
    with here.shared("governance's turn", threading.Lock):
        return {"waiting": views.waiting(here.store, sight(caller), governance)}


@router.get(
    "/approvals/{run}/statement",
    dependencies=[Depends(recorded("approval of {run}"))],
    response_model=Draft,
)
def draft(
    run: Run,
    caller: Reviewer,
    here: Here,
    verdict: Annotated[Literal["approved", "refused"], Query(description="Yes or no.")],
    key: Annotated[
        str,
        Query(
            min_length=1,
            max_length=300,
            pattern=PRINTABLE,
            description="The reviewer's public key, NAME+HASH+BASE64.",
        ),
    ],
    note: Annotated[str, Query(max_length=2000, pattern=TEXT, description="Why.")] = "",
    lifts: Annotated[
        int | None, Query(ge=0, le=MOST, description="The AUDIT leaf after which to go on.")
    ] = None,
) -> dict[str, Any]:
    """An APPROVAL for the reviewer to sign on their own machine: tacit ledger sign."""
    row = views.found(here.store, run, sight(caller))
    body = Governance(here.store).draft(row["id"], verdict, note, lifts, key)
    return {"body": body, "statement": log.statement(body).decode()}


@router.post("/approvals", status_code=201, response_model=Appended)
def approve(signed: Signed, caller: Reviewer, here: Here) -> dict[str, Any]:
    """Appends an APPROVAL that a reviewer signed."""
    views.found(here.store, signed.run, sight(caller))
    return {"leaf": Governance(here.store).accept(signed.model_dump())}


def _sent(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while piece := file.read(_CHUNK):
            yield piece


def _seen(status: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """A status; of its report only whether it holds, for who may not know of all models."""
    report = status["report"]
    if report is None or caller.covers(["*"]):
        return status
    shown = {k: report[k] for k in ("holds", "at", "origin", "size", "root")}
    return {**status, "report": {**shown, "findings": [], "notes": []}}
