"""Who acts: the name that leaves carry as ``actor``."""

from __future__ import annotations

import os
from pwd import getpwuid


def current() -> str:
    """``TACIT_ACTOR``, else the user that this process runs as."""
    if name := os.environ.get("TACIT_ACTOR"):
        return name
    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
