"""What every request passes, whatever it asks for: its id, its caller, its limits, its headers.

Guarantees: each answer has a request id of the server's own and headers that keep a browser from
running or embedding what isn't ours; nothing is kept by caches unless it says that it may. A body
above the limit, or one that takes too long, is refused as soon as that is known. Who has a valid
token is counted by the token, everybody else by address, in bounded memory. What another site had
a browser send changes nothing here. What goes wrong inside is an answer without its cause.

Addresses are those of the connection, of IPv6 the /64: behind a proxy all strangers are one. Who
has more addresses than are remembered isn't held back by them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tacit.privacy.errors import AccessError, TacitError
from tacit.server.access.roles import Caller
from tacit.server.access.tokens import Tokens
from tacit.server.api import problems
from tacit.server.api.sessions import SAFE, Sessions
from tacit.server.api.settings import Limits, Settings
from tacit.server.gateway.flow import Bucket

log = logging.getLogger("tacit.api")

_CSP = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ELSEWHERE = frozenset({"cross-site", "same-site"})
_HSTS = "max-age=31536000"


class Rates:
    """How often each may ask, in memory for so many of them.

    Args:
        limits: of the API.
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._known: OrderedDict[str, Bucket] = OrderedDict()
        self._strange: OrderedDict[str, Bucket] = OrderedDict()

    def token(self, identifier: str) -> None:
        """Counts a request of a token; raises `problems.LimitedError` if it is one too many."""
        limits = self._limits
        self._count(self._known, identifier, limits.rate, limits.burst)

    def stranger(self, address: str) -> None:
        """The same of an address without a valid token."""
        limits = self._limits
        if ":" in address:
            with suppress(ValueError):
                # Of these anybody has as many as they like.
                address = str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
        self._count(self._strange, address, limits.strange_rate, limits.strange_burst)

    def _count(self, of: OrderedDict[str, Bucket], name: str, rate: float, burst: float) -> None:
        bucket = of.get(name)
        if bucket is None:
            while len(of) >= self._limits.remembered:
                of.popitem(last=False)
            bucket = of[name] = Bucket(rate, burst, self._clock)
        of.move_to_end(name)
        if not bucket.allow(1.0):
            raise problems.LimitedError(1.0 / rate)


class _RefusedError(Exception):
    """A body that isn't read on."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Guard:
    """The outermost layer of the app; see the module.

    Puts into a request's state: ``request``, its id; ``caller``, a `Caller` or None; ``cookie``,
    whether it is known by a cookie.
    """

    def __init__(
        self, app: ASGIApp, tokens: Tokens, sessions: Sessions, settings: Settings, rates: Rates
    ) -> None:
        self._app, self._tokens, self._sessions = app, tokens, sessions
        self._settings, self._rates = settings, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = secrets.token_hex(16)
        body = _Body(receive, self._settings.limits)
        answer = _Answer(send, request, self._settings.tls, body)
        state = scope.setdefault("state", {})
        state |= {"request": request, "caller": None, "cookie": False}
        try:
            await self._known(scope)
            headers = Headers(scope=scope)
            body.declared(headers.get("content-length"))
            if scope["method"] not in SAFE and headers.get("sec-fetch-site", "") in _ELSEWHERE:
                raise AccessError("another site had this sent", "use this site's own pages")
            await self._app(scope, body, answer)
        except TacitError as error:
            await answer.instead(problems.answer(error, request), scope, receive)
        except _RefusedError as error:
            body.refused = None
            made = problems.problem(error.status, request, error.detail)
            made.headers["Connection"] = "close"
            await answer.instead(made, scope, receive)
        except Exception:
            log.exception("request %s failed", request)
            made = problems.problem(500, request, problems.INSIDE)
            await answer.instead(made, scope, receive)

    async def _known(self, scope: Scope) -> None:
        """Finds the caller, and counts the request to it or to where it comes from."""
        headers, state = Headers(scope=scope), scope["state"]
        given = headers.get("authorization", "")
        cookie = cookie_parser(headers.get("cookie", "")).get(self._sessions.name, "")
        caller: Caller | None = None
        if given:
            kind, _, token = given.partition(" ")
            if kind.lower() == "bearer":
                with suppress(AccessError):
                    caller = await run_in_threadpool(self._tokens.authenticate, token.strip())
        elif cookie:
            caller = await run_in_threadpool(self._sessions.caller, cookie)
            state["cookie"] = caller is not None
        if caller is None:
            self._rates.stranger((scope.get("client") or ("",))[0])
        else:
            self._rates.token(caller.token)
        state["caller"] = caller


class _Answer:
    """Sends what the app answers, with the headers."""

    def __init__(self, send: Send, request: str, tls: bool, body: _Body) -> None:
        self._send, self._request, self._tls, self._body = send, request, tls, body
        self._begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            refused, self._body.refused = self._body.refused, None
            if refused is not None:
                # Whoever read the body took it for a body that can't be parsed.
                raise refused
            self._begun = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers["X-Request-Id"] = self._request
            headers.setdefault("Cache-Control", "no-store")
            if self._tls:
                headers["Strict-Transport-Security"] = _HSTS
        await self._send(message)

    async def instead(self, response: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Answers otherwise, if nothing was sent yet."""
        if self._begun:
            # Cut off, so that nobody takes a piece for the whole.
            raise RuntimeError(f"request {self._request} failed after its answer had begun")
        await response(scope, receive, self)


class _Body:
    """Reads a request, up to a size and for a while."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._size, self._whole = 0, False
        self.refused: _RefusedError | None = None
        self._until = time.monotonic() + limits.patience

    def declared(self, length: str | None) -> None:
        """Refuses what says itself that it is too large."""
        if length is not None and length.isdecimal() and int(length) > self._limits.body:
            raise self._large()

    async def __call__(self) -> Message:
        if self._whole:
            # Waits for the caller to leave.
            return await self._receive()
        left = self._until - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, left))
        except TimeoutError:
            self.refused = _RefusedError(408, "the request took too long to arrive")
            raise self.refused from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > self._limits.body:
                self.refused = self._large()
                raise self.refused
        return message

    def _large(self) -> _RefusedError:
        return _RefusedError(413, f"a request has at most {self._limits.body} bytes")
