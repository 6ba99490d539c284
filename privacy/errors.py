"""The errors a user of tacit can meet, each with a hint of what to do.

Every failure that is somebody's to mend is a `TacitError`; the command line prints its
message and hint and no traceback. Anything else that escapes is a bug in tacit.
"""

from __future__ import annotations


class TacitError(Exception):
    """Base of tacit's errors.

    Args:
        message: what is wrong, in one line, with the offending ``name=value``.
        hint: what to do next; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(TacitError):
    """A value that no run can have: misspelt, of the wrong type, or out of range."""


class DataError(TacitError):
    """A dataset that is absent, malformed, or unfit for the task."""


class ModelError(TacitError):
    """A model that can't be trained with the guarantee that was asked for."""


class AccountingError(TacitError):
    """A spend that can't be computed soundly."""


class BudgetError(TacitError):
    """A policy refused a release; nothing was sent to any client."""


class StorageError(TacitError):
    """State that can't be read or written, or that isn't what was written."""


class MissingError(StorageError):
    """There is nothing here by that name."""


class ConflictError(StorageError):
    """What somebody wanted to change was changed by somebody else meanwhile.

    Attributes:
        current: the state as it is now; what it is depends on what was to be changed.
    """

    current: object = None


class AccessError(TacitError):
    """A caller who may not do this, or isn't known; says no more than that."""


class RoundError(TacitError):
    """A round that ended without a release; its charge stands."""


class ShortfallError(RoundError):
    """A round that fell short of clients; another attempt, newly charged, may succeed."""


class EngineError(TacitError):
    """A simulation's worker that died or failed; the round's charge stands."""


class MessageError(TacitError):
    """Bytes that aren't a message of tacit's protocol."""
