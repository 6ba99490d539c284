"""The agent of ``jvm/``, built once."""

from __future__ import annotations

import java
import pytest


@pytest.fixture(scope="session")
def path() -> str:
    """Its class path."""
    return java.build()
