"""The app: its routes, and what is around all of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from tacit.server import dashboard
from tacit.server.access.tokens import Tokens, now
from tacit.server.api import describe, health, problems
from tacit.server.api.context import Places
from tacit.server.api.routes import (
    accesses,
    erasures,
    ledger,
    models,
    rollouts,
    runs,
    score,
    tokens,
)
from tacit.server.api.security import Guard, Rates
from tacit.server.api.sessions import Sessions
from tacit.server.api.settings import Settings

PREFIX = "/v1"
ROUTES: tuple[APIRouter, ...] = (
    models.router,
    ledger.router,
    runs.router,
    score.router,
    erasures.router,
    rollouts.router,
    tokens.router,
    accesses.router,
)


def make_app(
    root: Path,
    settings: Settings,
    clock: Callable[[], datetime] = now,
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
    app.state.queries = {}
    app.include_router(health.router, responses=describe.RESPONSES)
    for router in ROUTES:
        app.state.queries |= describe.queries(router)
        app.include_router(
            router,
            prefix=PREFIX,
            responses=describe.RESPONSES,
            dependencies=[Depends(describe.strict)],
        )
    app.include_router(dashboard.router)
    describe.described(app)
    return app
