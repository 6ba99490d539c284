"""Leaves: what the log says, one canonical JSON object each.

A leaf is RFC 8785 JSON, hashed as a leaf of an RFC 9162 tree, and never changed. Kinds:

* **KEY**: the key that signs checkpoints from here on; the first is the ledger's birth, each
  later one is signed with the key before it.
* **PLAN**: a run, with its whole privacy plan, before anything is charged to it.
* **STATUS**: a run began, ended, waits or was refused.
* **CHARGE**, **RELEASE**, **ABANDON**: what `tacit.privacy.ledger` adds up.
* **POLICY**: what may be spent on a population from here on.
* **APPROVAL**: a reviewer's signed yes or no to a run, or to going on after an audit.
* **AUDIT**: a commitment to canaries, or what an audit with them found.
* **DEPLOY**, **ROLLBACK**: an alias of a model names another version from here on.
* **RETIRE**: a version that no alias may name again.
* **GATE**: what a version has to show before an alias of its model may name it.
* **ACCESS**: the root of a tree over reads of models and ledger, and receipts of scores.
* **ERASURE**: a client withdrew, and what was done about it.
* **RESTORE**: the leaves before it were put back from a backup; those that came after the backup
  are lost, and what they charged with them.

Nothing in a leaf names a client. What only the operator may know (who was drawn, how many
answered, why a run failed) is there as a keyed commitment: without the key it says nothing,
so erasing the key erases the link; with it the operator can show that a row wasn't changed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import rfc8785

from tacit.privacy.claims import Claim

Purpose = Literal["train", "evaluate"]
Body = dict[str, Any]

SPENDING = ("CHARGE", "RELEASE", "ABANDON")
MOVES = ("DEPLOY", "ROLLBACK")
LIFE = (*MOVES, "RETIRE", "GATE")
CUSTODY = ("ACCESS", "ERASURE")
KINDS = (
    *("KEY", "PLAN", "STATUS", *SPENDING, "POLICY", "APPROVAL", "AUDIT", "RESTORE"),
    *LIFE,
    *CUSTODY,
)


def leaf_bytes(body: Mapping[str, Any]) -> bytes:
    """The leaf as it is hashed, stored and exported."""
    return rfc8785.dumps(dict(body))


def digest(value: Any) -> str:
    """SHA-256 of a value in canonical JSON, in hex."""
    return hashlib.sha256(rfc8785.dumps(value)).hexdigest()


def commit(salt: bytes, members: Sequence[int] | Sequence[str]) -> str:
    """Commitment to a cohort: SHA-256 over a domain tag, a 32-byte salt and the members.

    Members are random handles, or in ledgers from before there were any, clients' numbers.
    """
    tag = b"tacit cohort commitment v1"
    return hashlib.sha256(tag + salt + rfc8785.dumps(sorted(members))).hexdigest()


def opening(key: bytes, label: str) -> bytes:
    """The key of one commitment, which opens it and no other."""
    return hmac.new(key, b"tacit commitment key v1\x00" + label.encode(), hashlib.sha256).digest()


def sealed(key: bytes, label: str, value: Any) -> str:
    """Commitment to a value under a run's secret key: HMAC-SHA256 with the label's own key.

    Args:
        key: of the run, 32 bytes.
        label: of the value, used once in a run, such as ``"round 3"``.
        value: JSON.
    """
    return hmac.new(opening(key, label), rfc8785.dumps(value), hashlib.sha256).hexdigest()


def charge(
    *,
    run: str,
    round: int,
    attempt: int,
    purpose: Purpose,
    plan_digest: str,
    cohort: str,
    claims: Sequence[Claim],
    participations: int,
    noise_source: str,
) -> Body:
    """The leaf that must be durable before any client is instructed.

    Args:
        run: the run's id.
        round: the round, from 1.
        attempt: counts the charges for this round and purpose, from 0.
        purpose: what the clients are asked to do.
        plan_digest: of the privacy plan.
        cohort: commitment to the members.
        claims: what this release claims, from the plan.
        participations: bound on any client's participations for this purpose, so far.
        noise_source: where the noise comes from.
    """
    return {
        "kind": "CHARGE",
        "run": run,
        "round": round,
        "attempt": attempt,
        "purpose": purpose,
        "plan": plan_digest,
        "cohort": cohort,
        "participations": participations,
        "noise_source": noise_source,
        "claims": [claim.to_json() for claim in claims],
    }


def key(origin: str, verifier: str, previous: str | None, signature: str | None) -> Body:
    """The leaf that names the key of all later checkpoints.

    Args:
        origin: the ledger's name.
        verifier: the key as C2SP signed notes write it.
        previous: the key before it; None for the first.
        signature: of `rotation` with that key, in base64.
    """
    return {
        "kind": "KEY",
        "run": "",
        "origin": origin,
        "key": verifier,
        "previous": previous,
        "signature": signature,
    }


def restore(size: int, known: int | None) -> Body:
    """The leaf that a home goes on with after it was put back from a backup.

    Args:
        size: leaves of the backup, which is this leaf's index.
        known: leaves of the newest checkpoint that anybody kept; None if nobody has one.
    """
    return {"kind": "RESTORE", "run": "", "size": size, "known": known}


def rotation(origin: str, verifier: str, previous: str) -> bytes:
    """What the old key signs."""
    return b"tacit key rotation v1\n" + rfc8785.dumps(
        {"origin": origin, "key": verifier, "previous": previous}
    )


def statement(body: Mapping[str, Any]) -> bytes:
    """What a reviewer signs of a POLICY or an APPROVAL: all but the signature and the time."""
    rest = {k: v for k, v in body.items() if k not in ("signature", "at")}
    return b"tacit signed leaf v1\n" + rfc8785.dumps(rest)
