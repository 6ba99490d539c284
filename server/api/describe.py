"""How the API describes itself: the OpenAPI document.

Guarantees: every answer that isn't a success is described, as problem+json, on every route; each
route asks for a bearer token.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="about:blank: the title says it.")
    title: str = Field(description="Of the status.", examples=["Not Found"])
    status: int = Field(description="Of HTTP.", examples=[404])
    detail: str = Field(description="What is wrong, in words.")
    request: str = Field(description="The request's id, which the operator's log has too.")


RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Not done, and why. 401: no valid token. 403: the role may not. 404: there "
        "is no such thing, or it isn't the caller's to see. 409: it was changed meanwhile, or "
        "can't be done as things are. 422: not as described here. 429: too often.",
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }
}
_TAGS = [
    {"name": "models", "description": "Versions, where each came from, and aliases."},
    {"name": "ledger", "description": "Leaves, proofs, verification, policies and approvals."},
    {"name": "runs", "description": "Runs, what each released and spent."},
]


async def strict(request: Request) -> None:
    """A dependency of every route: a query has no parameters that aren't described.

    Else one that is misspelt would be left out without a word.

    Raises:
        RequestValidationError: it has.
    """
    if not request.url.query:
        return
    known = request.app.state.queries[request.scope["endpoint"]]
    odd = [name for name in request.query_params if name not in known]
    if odd:
        said = "there is no such parameter"
        raise RequestValidationError([{"loc": ("query", odd[0][:80]), "msg": said}])


def queries(router: APIRouter) -> dict[Callable[..., Any], frozenset[str]]:
    """The query parameters of each of a router's endpoints, and of what these depend on."""
    return {
        route.endpoint: frozenset(
            field.alias for field in get_flat_dependant(route.dependant).query_params
        )
        for route in router.routes
        if isinstance(route, APIRoute)
    }


def document() -> str:
    """The description as it is kept in ``docs/openapi.json``."""
    from tacit.server.api.app import make_app
    from tacit.server.api.settings import Settings

    with tempfile.TemporaryDirectory() as nowhere:
        app = make_app(Path(nowhere), Settings())
        try:
            made = app.openapi()
        finally:
            app.state.tokens.close()
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def described(app: FastAPI) -> None:
    """Has an app describe itself with its security, once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                routes=app.routes,
                tags=_TAGS,
            )
            schemes = made.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["token"] = {
                "type": "http",
                "scheme": "bearer",
                "description": "tacit access token issue makes one; or a session of the dashboard.",
            }
            made["security"] = [{"token": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
