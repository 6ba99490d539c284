"""Sessions of the dashboard: a cookie stands for a token, for some hours.

Guarantees: the cookie is 256 bits from the system, of which the server keeps the digest; it ends
with its token at once, and by itself after `Limits.session`. Scripts can't read it, other sites
can't send it, and with TLS it goes over nothing else. A POST counts only with the form's ``csrf``,
or the header ``X-CSRF-Token``, which is made from the cookie and nobody has without it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import timedelta

import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from tacit.privacy.errors import AccessError
from tacit.server.access.roles import Caller
from tacit.server.access.tokens import Tokens, sessions
from tacit.server.api.settings import Settings

FIELD, HEADER = "csrf", "x-csrf-token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LENGTH = 43


class Sessions:
    """The sessions of a root.

    Args:
        tokens: that they stand for.
        settings: of the API.
    """

    def __init__(self, tokens: Tokens, settings: Settings) -> None:
        self._tokens, self._settings = tokens, settings
        # The prefix has browsers refuse one that was set otherwise; it asks for Secure.
        self.name = "__Host-tacit" if settings.tls else "tacit"

    def begin(self, token: str, response: Response) -> Caller:
        """Begins a session, whose cookie goes along with a response.

        Raises:
            AccessError: the token isn't valid.
        """
        caller = self._tokens.authenticate(token)
        cookie = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
        limits, at = self._settings.limits, self._tokens.clock()
        ends = (at + timedelta(seconds=limits.session)).strftime("%Y-%m-%dT%H:%M:%SZ")
        s = sessions.c
        with self._tokens.database.writing() as c:
            c.execute(sessions.delete().where(s.expires <= at.strftime("%Y-%m-%dT%H:%M:%SZ")))
            query = sa.select(s.digest).where(s.token == caller.token).order_by(s.expires.desc())
            for old in c.execute(query).scalars().all()[limits.sessions - 1 :]:
                c.execute(sessions.delete().where(s.digest == old))
            row = {"digest": _digest(cookie), "token": caller.token, "expires": ends}
            c.execute(sessions.insert().values(**row))
        response.set_cookie(
            self.name,
            cookie,
            max_age=int(limits.session),
            path="/",
            secure=self._settings.tls,
            httponly=True,
            samesite="strict",
        )
        return caller

    def end(self, request: Request, response: Response) -> None:
        """Ends the session of a request."""
        cookie = request.cookies.get(self.name, "")
        with self._tokens.database.writing() as c:
            c.execute(sessions.delete().where(sessions.c.digest == _digest(cookie)))
        response.delete_cookie(
            self.name, path="/", secure=self._settings.tls, httponly=True, samesite="strict"
        )

    def caller(self, cookie: str) -> Caller | None:
        """Whose session a cookie is, if it is one and its token is valid."""
        if len(cookie) != _LENGTH:
            return None
        query = sa.select(sessions).where(sessions.c.digest == _digest(cookie))
        with self._tokens.database.reading() as c:
            found = c.execute(query).first()
        now = self._tokens.clock().strftime("%Y-%m-%dT%H:%M:%SZ")
        if found is None or now >= found.expires:
            return None
        row = self._tokens.valid(found.token)
        return None if row is None else self._tokens.used(row)

    def csrf(self, request: Request) -> str:
        """What forms of this session's pages carry in a field named `FIELD`."""
        return _csrf(request.cookies.get(self.name, ""))

    async def check(self, request: Request) -> None:
        """Refuses what another site may have had a browser send.

        Raises:
            AccessError: what a form carries isn't this session's.
        """
        if request.method in SAFE:
            return
        given = request.headers.get(HEADER)
        kind = request.headers.get("content-type", "")
        if given is None and kind.startswith(
            ("application/x-www-form-urlencoded", "multipart/form-data")
        ):
            field = (await request.form()).get(FIELD)
            given = field if isinstance(field, str) else None
        if not hmac.compare_digest((given or "").encode(), self.csrf(request).encode()):
            raise AccessError("the form isn't of this session", "load the page again")


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(b"tacit session v1\x00" + cookie.encode()).digest()


def _csrf(cookie: str) -> str:
    # The cookie's own digest is in the database, so it isn't made from that.
    made = hmac.new(cookie.encode(), b"tacit csrf v1", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()
