"""Whether the server lives and can answer, for whoever starts and stops it; needs no token."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from tacit.privacy.errors import StorageError
from tacit.server import log
from tacit.server.access.tokens import Tokens
from tacit.server.api.context import Places

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That it is well; what isn't is a problem."""

    status: str = Field(examples=["ok"])


@router.get("/healthz", response_model=Health, openapi_extra={"security": []})
async def healthz() -> Health:
    """The server answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, openapi_extra={"security": []})
def readyz(request: Request) -> Health:
    """The tokens and each ledger that is open can be read; else 409 or 503."""
    tokens: Tokens = request.app.state.tokens
    places: Places = request.app.state.places
    with tokens.database.reading() as c:
        c.exec_driver_sql("SELECT 1 FROM tokens LIMIT 1").first()
    for place in places.opened():
        with place.store.database.reading() as c:
            if log.size(c) == 0:
                raise StorageError("the ledger is empty")
    return Health(status="ok")
