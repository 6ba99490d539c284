"""What a route asks for: who calls, whose place it is, whether it is allowed, that it is recorded.

For the routes of others::

    from tacit.server.api.context import Place, allowed, place, recorded, sees

    @router.get("/models/{name}", dependencies=[Depends(recorded("model {name}"))])
    def show(name: str, place: Annotated[Place, Depends(place)]) -> dict[str, Any]: ...

    @router.post("/models/{name}/aliases/{alias}")
    def move(name: str, ..., caller: Annotated[Caller, Depends(allowed("operate"))], ...):
        sees(caller, name)

Guarantees: a `Place` is of the caller's tenant and no other's. What a caller may not know of is
`problems.missing`, before anything is looked up, as is what isn't there. `recorded` has the record
durable before the route begins. A caller who is known by a cookie can change nothing without
the form's token.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from tacit.privacy.errors import AccessError, ConfigError
from tacit.server.access.records import Recorder, Sealer
from tacit.server.access.roles import Caller, may
from tacit.server.access.tenants import Tenants
from tacit.server.api import problems
from tacit.server.api.sessions import Sessions
from tacit.server.api.settings import Settings
from tacit.server.lifecycle import Lifecycle
from tacit.server.registry import ModelRegistry
from tacit.server.store import Store
from tacit.server.views.models import Sees, everything, exists

T = TypeVar("T")
# Path parameters that name a model.
_MODELS = ("name", "model")
# Reads of a place that wait for a commit at a time; they share one.
_RECORDING = 32


@dataclass
class Place:
    """One tenant's.

    Attributes:
        tenant: its name.
        store: its ledger and database.
        registry: its versions.
        lifecycle: its aliases.
        recorder: its record of reads and scores.
        closing: what is closed with it.
    """

    tenant: str
    store: Store
    registry: ModelRegistry
    lifecycle: Lifecycle
    recorder: Recorder
    closing: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _shared: dict[str, Any] = field(default_factory=dict, repr=False)

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What there is one of in a place, made when it is first asked for."""
        with self._lock:
            if name not in self._shared:
                self._shared[name] = make()
            found: T = self._shared[name]
            return found


class Places:
    """The places of a root, each opened when it is first asked for, and sealed now and then.

    Args:
        root: of the tenants.
        settings: of the API.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.tenants, self._settings = Tenants(root), settings
        self._lock, self._open = threading.Lock(), dict[str, Place]()

    def cached(self, tenant: str) -> Place | None:
        """A place that is open."""
        return self._open.get(tenant)

    def opened(self) -> list[Place]:
        """The places that are open."""
        with self._lock:
            return list(self._open.values())

    def open(self, tenant: str) -> Place:
        """A tenant's place.

        Raises:
            MissingError: there is no such tenant.
            StorageError: its home can't be opened.
        """
        with self._lock:
            if tenant not in self._open:
                self._open[tenant] = self._opened(tenant)
            return self._open[tenant]

    def close(self) -> None:
        """Seals and closes all of them."""
        with self._lock:
            while self._open:
                _, place = self._open.popitem()
                place.closing.close()

    def _opened(self, tenant: str) -> Place:
        store = Store(self.tenants.home(tenant))
        registry, lifecycle = ModelRegistry(store.home, store), Lifecycle(store)
        made = Place(tenant, store, registry, lifecycle, Recorder(store))
        made.closing.callback(store.close)
        limits = self._settings.limits
        made.closing.callback(Sealer(made.recorder, limits.seal, limits.seal_rows).stop)
        return made


def settings(request: Request) -> Settings:
    """Of the API."""
    found: Settings = request.app.state.settings
    return found


def sessions(request: Request) -> Sessions:
    """Of the dashboard."""
    found: Sessions = request.app.state.sessions
    return found


def visitor(request: Request) -> Caller | None:
    """Who calls, if it is known; for pages that send others to the login."""
    found: Caller | None = request.state.caller
    return found


async def caller(request: Request) -> Caller:
    """Who calls, by a token or a cookie.

    Raises:
        problems.UnauthenticatedError: nobody who is known.
        AccessError: a cookie's, in a form that isn't its session's.
    """
    found = visitor(request)
    if found is None:
        raise problems.UnauthenticatedError(
            "no valid token", "Authorization: Bearer TOKEN; tacit access token issue makes one"
        )
    if request.state.cookie:
        await sessions(request).check(request)
    return found


Known = Annotated[Caller, Depends(caller)]


async def place(request: Request, caller: Known) -> Place:
    """The place of the caller's tenant."""
    places: Places = request.app.state.places
    found = places.cached(caller.tenant)
    return await run_in_threadpool(places.open, caller.tenant) if found is None else found


Here = Annotated[Place, Depends(place)]


def known(here: Place, name: str) -> None:
    """Raises `MissingError` for a model that isn't in a place."""
    if not exists(here.store, name):
        raise problems.missing()


def allowed(action: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, whose role has to allow an action.

    Args:
        action: one of `roles.ACTIONS`.
    """
    may("admin", action)  # Raises for one that isn't.

    async def check(caller: Known) -> Caller:
        if not caller.may(action):
            raise AccessError(
                f"role={caller.role} may not {action}", "ask an administrator of your tenant"
            )
        return caller

    return check


def sees(caller: Caller, model: str) -> str:
    """A model's name, if the caller may know of such a model.

    Raises:
        MissingError: it may not; the same as for one that isn't there.
    """
    if not caller.sees(model):
        raise problems.missing()
    return model


def sight(caller: Caller) -> Sees:
    """Which models a caller may know of, for views; `everything` itself if it is all of them."""
    return everything if caller.covers(["*"]) else caller.sees


def recorded(subject: str, action: str = "read") -> Callable[..., Awaitable[str]]:
    """A dependency: the read is recorded, durably, and its model is one that the caller sees.

    Args:
        subject: what is read; ``{name}`` stands for the path's parameter of that name.
        action: what is done, for the record; "read" is what the role has to allow.

    Returns:
        The id under which it was recorded, the request's.
    """

    async def record(
        request: Request, caller: Annotated[Caller, Depends(allowed("read"))], place: Here
    ) -> str:
        for name in _MODELS:
            if name in request.path_params:
                sees(caller, str(request.path_params[name]))
        said = subject.format(**request.path_params)
        identifier: str = request.state.request
        try:
            # Threads of its own: whoever waits for a busy ledger holds up nobody who needs none.
            await anyio.to_thread.run_sync(
                place.recorder.read,
                *(caller.name, action, said, identifier, caller.token),
                limiter=place.shared("recording", lambda: anyio.CapacityLimiter(_RECORDING)),
            )
        except ConfigError:
            # Nothing here has such a name.
            raise problems.missing() from None
        return identifier

    return record
