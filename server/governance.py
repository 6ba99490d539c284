"""The ledger's policies, asked within the transaction that would append a charge.

Guarantees: what `check` let through is appended before any other writer's leaf, so two runs
can't both spend the last of a population's budget; what it refuses was never sent.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tacit.privacy.errors import ConfigError
from tacit.privacy.governor import Governor
from tacit.privacy.log import leaves
from tacit.privacy.log.leaves import Body
from tacit.privacy.log.notes import SignerKey
from tacit.privacy.policy import Policy
from tacit.server import log as logs
from tacit.server import tables as t
from tacit.server.store import Store

_RULING = ("POLICY", "AUDIT", "RESTORE")
_KINDS = ("KEY", "PLAN", "CHARGE", "RELEASE", "APPROVAL", *_RULING)
_SIGNED = {
    *("kind", "run", "plan", "verdict", "lifts", "note"),
    *("ledger", "nonce", "key", "signature"),
}


class Governance:
    """Follows a ledger's leaves, once each; reads none while there is neither policy nor audit.

    Args:
        store: of the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._governor, self._seen = store, Governor(), -1

    def check(self, c: Connection, run: str, charges: Sequence[Body], at: str) -> None:
        """Raises `BudgetError` if a policy or an audit forbids these charges of a run at a time."""
        if self._follow(c):
            self._governor.check(run, charges, at)

    def check_release(self, c: Connection) -> None:
        """Raises `BudgetError` if an audit froze releases."""
        if self._follow(c):
            self._governor.check_frozen()

    def awaits_review(self, run: str) -> str | None:
        """Why a run waits; see `Governor.awaits_review`."""
        with self._store.database.reading() as c:
            return self._governor.awaits_review(run) if self._follow(c) else None

    def policy(self, population: str) -> Policy | None:
        """The policy in force."""
        with self._store.database.reading() as c:
            return self._governor.policy(population) if self._follow(c) else None

    def adopt(self, policy: Policy, signer: SignerKey | None) -> int:
        """Appends a POLICY leaf.

        Args:
            policy: from now on.
            signer: a reviewer, whom the policy before asks for if it has any.

        Raises:
            ConfigError: that signature is missing.
        """
        body: Body = {"kind": "POLICY", "run": "", "policy": policy.to_json()}
        with self._store.appending() as (c, log):
            self._follow(c, needed=True)
            signed_body = signed({**body, **_once(c)}, signer)
            self._governor.check_policy(signed_body)
            return log.append(signed_body)

    def approve(
        self, run: str, verdict: str, note: str, lifts: int | None, signer: SignerKey
    ) -> int:
        """Appends an APPROVAL leaf; see `Governor.check_approval` for who may sign it.

        Args:
            run: its id.
            verdict: "approved" or "refused".
            note: in words, for whoever reads the ledger.
            lifts: the AUDIT leaf after which releases go on; None approves the run's plan.
            signer: the reviewer.

        Raises:
            ConfigError: the verdict is neither, or the signer isn't one who may.
            StorageError: there is no such run.
        """
        plan = self._store.run(run)["plan_digest"]
        body = _approval(run, plan, verdict, note, lifts)
        with self._store.appending() as (c, log):
            self._follow(c, needed=True)
            signed_body = signed({**body, **_once(c)}, signer)
            self._governor.check_approval(signed_body)
            return log.append(signed_body)

    def draft(self, run: str, verdict: str, note: str, lifts: int | None, key: str) -> Body:
        """An APPROVAL for a reviewer to sign elsewhere, with their own key; `accept` takes it back.

        Args:
            run: its id.
            verdict: "approved" or "refused".
            note: in words.
            lifts: as in `approve`.
            key: the reviewer's public one.

        Raises:
            StorageError: there is no such run.
        """
        body = _approval(run, self._store.run(run)["plan_digest"], verdict, note, lifts)
        with self._store.database.reading() as c:
            return {**body, **_once(c), "key": key}

    def accept(self, body: Mapping[str, Any]) -> int:
        """Appends an APPROVAL that was signed elsewhere: what `draft` gave, with its signature.

        Raises:
            ConfigError: it isn't of that form, or the signer isn't one who may.
        """
        if set(body) != _SIGNED or body["kind"] != "APPROVAL":
            raise ConfigError(
                f"fields={sorted(body)} aren't an approval's", f"it has {sorted(_SIGNED)}"
            )
        texts = _SIGNED - {"lifts"}
        if not all(isinstance(body[name], str) for name in texts):
            raise ConfigError("an approval's fields are text, but lifts, which is a leaf or null")
        if body["lifts"] is not None and type(body["lifts"]) is not int:
            raise ConfigError(f"lifts={body['lifts']!r} must be a leaf, or null")
        with self._store.appending() as (c, log):
            self._follow(c, needed=True)
            self._governor.check_approval(body)
            return log.append(body)

    def frozen(self) -> list[tuple[int, Body]]:
        """The AUDIT leaves that freeze releases, which nobody lifted."""
        with self._store.database.reading() as c:
            if not self._follow(c):
                return []
            return [(index, dict(leaf)) for index, leaf in self._governor.frozen.items()]

    def _follow(self, c: Connection, needed: bool = False) -> bool:
        """Takes in what is new; whether there is anything that rules."""
        if self._seen < 0 and not needed:
            ruling = sa.select(t.leaves.c.index).where(t.leaves.c.kind.in_(_RULING)).limit(1)
            if c.execute(ruling).first() is None:
                return False
        for index, body in logs.bodies(c, _KINDS, self._seen):
            self._governor.note(index, body)
            self._seen = index
        return True


def signed(body: dict[str, Any], signer: SignerKey | None) -> Body:
    """A leaf with its signer's key and signature."""
    named = {**body, "key": str(signer.verifier) if signer else None}
    signature = signer.sign(leaves.statement(named)) if signer else b""
    return {**named, "signature": base64.b64encode(signature).decode() or None}


def resigned(body: Mapping[str, Any], signer: SignerKey) -> Body:
    """An APPROVAL that `Governance.draft` gave, signed.

    The statement is made anew from its fields: what is signed is what they say.

    Raises:
        ConfigError: it isn't one, or is for another key.
    """
    if set(body) != _SIGNED - {"signature"} or body["kind"] != "APPROVAL":
        raise ConfigError(f"fields={sorted(body)} aren't an approval's")
    if body["key"] != str(signer.verifier):
        raise ConfigError(f"key={body['key']} isn't the key that would sign", "ask with your own")
    return signed(dict(body), signer)


def _approval(run: str, plan: str, verdict: str, note: str, lifts: int | None) -> Body:
    said = {"verdict": verdict, "lifts": lifts, "note": note}
    return {"kind": "APPROVAL", "run": run, "plan": plan, **said}


def _once(c: Connection) -> dict[str, str]:
    """What keeps a signed leaf from being said again, here or in another ledger."""
    return {"ledger": logs.first_key(c)["origin"], "nonce": secrets.token_hex(16)}
