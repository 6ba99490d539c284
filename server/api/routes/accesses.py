"""Records of reads: who read what, and proofs that a record is under its leaf.

For administrators who may know of all models, since records name what was read. Looking at them is
a read too.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from tacit.server.api import problems
from tacit.server.api.context import Here, allowed, recorded
from tacit.server.api.routes.ledger import whole
from tacit.server.api.shapes import PRINTABLE, Limit

router = APIRouter(tags=["access"], dependencies=[Depends(allowed("administer")), Depends(whole)])
Request = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9_-]{8,64}$", description="Id of a request, its X-Request-Id.")
]
Subject = Annotated[
    str | None,
    Query(max_length=500, pattern=PRINTABLE, description='Only of this, such as "model digits".'),
]


@router.get("/accesses", dependencies=[Depends(recorded("accesses"))])
def list_(here: Here, subject: Subject = None, limit: Limit = 100) -> dict[str, Any]:
    """Who read what, newest first."""
    return {"accesses": here.recorder.reads(subject, limit)}


@router.get("/accesses/{request_id}", dependencies=[Depends(recorded("access {request_id}"))])
def one(request_id: Request, here: Here) -> dict[str, Any]:
    """What was recorded under a request's id: a read, or a score."""
    found = here.recorder.find(request_id)
    if found is None:
        raise problems.missing()
    return found


@router.get("/accesses/{request_id}/proof", dependencies=[Depends(recorded("access {request_id}"))])
def proof(request_id: Request, here: Here) -> dict[str, Any]:
    """A proof that a record is under its ACCESS leaf, without showing others."""
    return here.recorder.inclusion(request_id)
