"""What can go wrong between a request and its answer."""

from __future__ import annotations

from tacit.privacy.errors import EngineError


class BusyError(EngineError):
    """No answer within the budget; asking again may help.

    Args:
        message: why.
        seconds: after which.
    """

    def __init__(self, message: str, seconds: int = 1) -> None:
        super().__init__(message, f"ask again in {seconds} s")
        self.seconds = seconds
