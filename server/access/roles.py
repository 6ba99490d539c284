"""Roles: what a caller may do, and which models it may know of.

Guarantees: a role has all that the roles before it have, and nothing else; an action or a role
that isn't here is an error, never a yes. A caller sees the models that one of its globs fits and
no others.

A role isn't a signature: a policy's reviewers sign what they approve with keys of their own
(`tacit.server.governance`), whatever their tokens may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from tacit.privacy import validate
from tacit.privacy.errors import ConfigError

Role = Literal["viewer", "reviewer", "operator", "admin"]
Action = Literal["read", "score", "review", "operate", "erase", "administer"]

ROLES: tuple[str, ...] = get_args(Role)
ACTIONS: tuple[str, ...] = get_args(Action)
# The least role that may do it.
_LEAST = {
    "read": "viewer",
    "score": "viewer",
    "review": "reviewer",
    "operate": "operator",
    "erase": "operator",
    "administer": "admin",
}
_GLOBS, _LONGEST = 64, 200


def may(role: str, action: str) -> bool:
    """Whether a role may do something.

    Raises:
        ConfigError: there is no such role or action.
    """
    validate.one_of("role", role, ROLES)
    validate.one_of("action", action, ACTIONS)
    return ROLES.index(role) >= ROLES.index(_LEAST[action])


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever asks, as the token says.

    Attributes:
        tenant: whose ledger and models these are.
        name: what the token was issued as; leaves and records name it as actor.
        role: one of `ROLES`.
        models: globs of the models it may know of.
        token: the id of the token; not secret.
    """

    tenant: str
    name: str
    role: str
    models: tuple[str, ...]
    token: str

    def may(self, action: str) -> bool:
        """See `may`."""
        return may(self.role, action)

    def sees(self, model: str) -> bool:
        """Whether it may know of a model by this name, whether or not there is one."""
        return any(fnmatchcase(model, glob) for glob in self.models)

    def covers(self, globs: Sequence[str]) -> bool:
        """Whether all that other globs may fit is surely seen by this one.

        Sure, not exact: a glob with signs in it is covered by itself or by ``*`` alone.
        """
        if "*" in self.models:
            return True
        return all(g in self.models or (_plain(g) and self.sees(g)) for g in globs)


def check_globs(globs: Sequence[str]) -> tuple[str, ...]:
    """Globs of models' names, as a token may have them.

    Raises:
        ConfigError: there are none, or too many, or one is empty, too long or unprintable.
    """
    if not 0 < len(globs) <= _GLOBS:
        raise ConfigError(f"models={len(globs)} globs must be 1 to {_GLOBS}", "* is all models")
    for glob in globs:
        if not 0 < len(glob) <= _LONGEST or not glob.isprintable():
            raise ConfigError(f"models={glob[:40]!r} must be 1 to {_LONGEST} printable characters")
    return tuple(dict.fromkeys(globs))


def _plain(glob: str) -> bool:
    return not any(sign in glob for sign in "*?[")
