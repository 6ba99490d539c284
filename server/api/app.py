"""The app: its routes, and what is around all of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, FastAPI
from starlette.concurrency import run_in_threadpool

from tacit.server.access import tokens
from tacit.server.access.tokens import Tokens
from tacit.server.api import describe, health, problems
from tacit.server.api.context import Places
from tacit.server.api.security import Guard, Rates
from tacit.server.api.sessions import Sessions
from tacit.server.api.settings import Settings

PREFIX = "/v1"
ROUTES = ("models", "ledger", "runs", "score", "erasures", "rollouts", "tokens", "accesses")
DASHBOARD = "tacit.server.dashboard"


def make_app(
    root: Path,
    settings: Settings,
    clock: Callable[[], datetime] = tokens.now,
    rates: Rates | None = None,
) -> FastAPI:
    """The API of the tenants under a root, and its dashboard.

    Its state has ``settings``, ``tokens``, ``sessions`` and ``places``.

    Args:
        root: of the tenants, or one home.
        settings: of the API.
        clock: by which tokens expire.
        rates: of requests; None takes the settings'.

    Raises:
        StorageError: the tokens' database can't be opened.
    """
    held = Tokens(root, clock)
    places = Places(root, settings)

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(places.close)
        held.close()

    app = FastAPI(
        title="tacit",
        version=version("tacit"),
        summary="Versions under governance: models, their ledger, and who may do what.",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
        lifespan=living,
    )
    app.state.settings, app.state.tokens, app.state.places = settings, held, places
    app.state.sessions = Sessions(held, settings)
    problems.register(app)
    app.add_middleware(
        Guard,
        tokens=held,
        sessions=app.state.sessions,
        settings=settings,
        rates=rates or Rates(settings.limits),
    )
    app.include_router(health.router, responses=describe.RESPONSES)
    for name in ROUTES:
        router = _router(f"tacit.server.api.routes.{name}")
        if router is not None:
            app.include_router(router, prefix=PREFIX, responses=describe.RESPONSES)
    dashboard = _router(DASHBOARD)
    if dashboard is not None:
        app.include_router(dashboard)
    describe.described(app)
    return app


def _router(name: str) -> APIRouter | None:
    """The router of a module, if there is that module."""
    if importlib.util.find_spec(name) is None:
        return None
    found = getattr(importlib.import_module(name), "router", None)
    return found if isinstance(found, APIRouter) else None
