"""The dashboard: server-rendered pages over the same views as the API.

Guarantees: every number of a page links to the leaf that states it, or to the charges that it is
composed of; nothing is loaded from elsewhere, and no page needs a script. What a caller may not
know of is a page like that of what isn't there. Every read of a model or of the ledger is recorded
before the page is made. What a page changes takes a form of the session's own, and is a
compare-and-swap where the API's is.

No private key is ever asked for: approvals are signed on the reviewer's machine.
"""

from __future__ import annotations

from fastapi import APIRouter

from tacit.server.dashboard import (
    custody,
    evidence,
    home,
    models,
    moves,
    populations,
    quality,
    review,
    runs,
    session,
)
from tacit.server.dashboard.pages import Page

router = APIRouter(include_in_schema=False, route_class=Page)
for part in (
    session,
    home,
    models,
    moves,
    runs,
    populations,
    quality,
    review,
    evidence,
    custody,
):
    router.include_router(part.router)
