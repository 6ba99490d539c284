"""The command line. Messages and progress go to stderr, results to stdout."""

from __future__ import annotations

import sys

from tacit.privacy.errors import TacitError

# What the API, the dashboard and scoring take beside the rest.
_EXTRA = ("fastapi", "multipart", "onnx", "onnxruntime", "onnxscript", "uvicorn")


def main() -> None:
    """Runs the command line; a user's mistake is a message and a hint, never a traceback."""
    try:
        from tacit.cli.root import app
    except ModuleNotFoundError as error:
        # Installed for reviewing only.
        print(f"tacit: {error.name} isn't installed", file=sys.stderr)
        print("       pip install 'tacit[all]'; tacit-verify works without", file=sys.stderr)
        sys.exit(2)
    try:
        app()
    except TacitError as error:
        print(f"tacit: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"       {error.hint}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(f"tacit: {error.name} isn't installed", file=sys.stderr)
        print("       pip install 'tacit[all,api]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("tacit: interrupted; tacit simulate --resume last goes on", file=sys.stderr)
        sys.exit(130)


__all__ = ["main"]
