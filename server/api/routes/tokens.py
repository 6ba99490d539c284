"""Tokens of the caller's tenant: issue, list, revoke; and who the caller is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field

from tacit.privacy.errors import AccessError
from tacit.server.access import tokens as held
from tacit.server.access.roles import Caller, Role
from tacit.server.access.tokens import Tokens
from tacit.server.api import problems
from tacit.server.api.context import Known, allowed

router = APIRouter(tags=["access"])
Admin = Annotated[Caller, Depends(allowed("administer"))]


class Wanted(BaseModel):
    """A token to issue."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=64, description="Whom it is for; records and leaves name it.")
    role: Role
    models: list[str] = Field(
        default=["*"], max_length=64, description="Globs of the models that it may know of."
    )
    days: int = Field(ge=1, le=366, description="Until it expires.")


def _tokens(request: Request) -> Tokens:
    found: Tokens = request.app.state.tokens
    return found


Held = Annotated[Tokens, Depends(_tokens)]


@router.get("/whoami")
def whoami(caller: Known) -> dict[str, Any]:
    """Who the token says that the caller is, and what it may do."""
    return _caller(caller)


@router.get("/tokens")
def list_(caller: Admin, tokens: Held) -> dict[str, Any]:
    """The tokens of the tenant, without their secrets."""
    return {"tokens": [row for row in tokens.list(caller.tenant) if caller.covers(row["models"])]}


@router.post("/tokens", status_code=201)
def issue(wanted: Wanted, caller: Admin, tokens: Held) -> dict[str, Any]:
    """Issues a token for the caller's tenant; the answer is the only one that has it."""
    if not caller.covers(wanted.models):
        raise AccessError("models: a token can't know of more than its issuer's does")
    text, row = tokens.issue(
        wanted.name,
        wanted.role,
        tenant=caller.tenant,
        models=wanted.models,
        lifetime=held.days(wanted.days),
    )
    return {"token": text, **row}


@router.delete("/tokens/{identifier}")
def revoke(identifier: str, caller: Admin, tokens: Held) -> dict[str, Any]:
    """Ends a token of the tenant at once."""
    mine = [row for row in tokens.list(caller.tenant) if row["id"] == identifier]
    if not mine or not caller.covers(mine[0]["models"]):
        raise problems.missing()
    return tokens.revoke(identifier, caller.tenant)


def _caller(caller: Caller) -> dict[str, Any]:
    return {
        "tenant": caller.tenant,
        "name": caller.name,
        "role": caller.role,
        "models": list(caller.models),
        "token": caller.token,
    }
