"""Why the gateway refuses somebody or something: a word for machines, a text for people."""

from __future__ import annotations

from tacit.privacy.errors import TacitError

# Of `RefusedError.reason`; docs/edge_protocol.md says what each means, and what a device does.
REASONS = frozenset(
    {
        "MALFORMED",
        "VERSION",
        "TOKEN_UNKNOWN",
        "TOKEN_USED",
        "TOKEN_EXPIRED",
        "PROOF",
        "KEY",
        "IDENTITY",
        "TAKEN",
        "FULL",
        "CERTIFICATE",
        "EXPIRED",
        "SUPERSEDED",
        "REVOKED",
        "TOO_SOON",
        "BUSY",
        "DRAINING",
        "REPLACED",
        "ORDER",
        "TOO_LARGE",
        "TOO_SLOW",
        "SIGNATURE",
        "NOT_FOUND",
        "BACKWARD",
    }
)


class RefusedError(TacitError):
    """Somebody or something the gateway refuses.

    Args:
        reason: one of `REASONS`.
        text: what is wrong; holds no token, no key and no byte of an answer.
    """

    def __init__(self, reason: str, text: str) -> None:
        assert reason in REASONS
        super().__init__(text)
        self.reason = reason

    @property
    def why(self) -> str:
        """Reason and text as they go over the wire."""
        return f"{self.reason}: {self.message}"
