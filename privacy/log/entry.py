"""Where ``tacit-verify`` begins: the command, or what to install to have it."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command; exit status 2 if a package that it needs isn't installed."""
    try:
        from tacit.privacy.log import command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "tacit":
            raise
        print(f"tacit-verify: {error.name} isn't installed", file=sys.stderr)
        print("              pip install 'tacit[verify]'", file=sys.stderr)
        sys.exit(2)
    command.main()
