"""The leaves of a store as `tacit.privacy.ancestry` asks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tacit.privacy.errors import MessageError
from tacit.server import tables as t

if TYPE_CHECKING:
    from tacit.server.store import Store

Leaf = Mapping[str, Any]


class Past:
    """`tacit.privacy.ancestry.Past` over a database.

    Args:
        store: whose.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def planned(self, run: str) -> tuple[int, Leaf]:
        """The PLAN leaf; a run of before there were any began with no version."""
        for row in self._store.leaves(run, ("PLAN",)):
            return row["index"], row["body"]
        raise MessageError(f"run={run} has no PLAN leaf")

    def spent(self, run: str, before: int) -> list[dict[str, Any]]:
        """Its charges, releases and abandonments below an index."""
        return [row["body"] for row in self._store.spending(run) if row["index"] < before]

    def run_of(self, release: int) -> str:
        """The run of a leaf."""
        query = sa.select(t.leaves.c.body).where(t.leaves.c.index == release)
        with self._store.database.reading() as c:
            found = c.execute(query).scalar()
        body = {} if found is None else json.loads(found)
        if body.get("kind") != "RELEASE":
            raise MessageError(f"leaf {release} is no RELEASE")
        return str(body["run"])
