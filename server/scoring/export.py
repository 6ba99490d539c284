"""``python -m tacit.server.scoring.export MODEL@NUMBER``: makes a version's graph and keeps it.

A server starts it for versions whose graph isn't there yet, with the home in ``TACIT_HOME``.
"""

from __future__ import annotations

import os
import sys

from tacit.privacy.errors import TacitError
from tacit.server.home import Home
from tacit.server.registry import ModelRegistry
from tacit.server.scoring.model import Loader
from tacit.server.store import Store


def main(reference: str) -> int:
    """Makes one graph; returns the exit status."""
    # Whoever answers comes first.
    os.nice(10)
    try:
        store = Store(Home())
        registry = ModelRegistry(store.home, store)
        Loader(store, registry).load(registry.find(reference))
        store.close()
    except TacitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
