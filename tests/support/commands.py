"""The command line, called within the test's process."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from tacit.cli import main


def told(line: Sequence[str]) -> int:
    """Runs ``tacit`` and returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tacit", *line])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0
