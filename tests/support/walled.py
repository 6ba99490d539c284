"""A command as on a machine that has only so much installed: ``walled.py NAMES MODULE:NAME ...``.

NAMES are the packages that may be imported, with commas, beside the standard library.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

BASE = frozenset({"tacit", "cryptography", "_cffi_backend", "numpy", "rfc8785"})
# The extras, with what their packages need.
VERIFY = BASE | {
    "absl", "attr", "attrs", "dm_tree", "dp_accounting", "mpmath", "scipy", "tree", "wrapt"
}  # fmt: skip
EDGE = BASE | {"google", "grpc", "onnxruntime", "flatbuffers", "packaging", "typing_extensions"}


class Wall(MetaPathFinder):
    """Finds no package that is installed and not allowed."""

    def __init__(self, allowed: set[str]) -> None:
        self._allowed = allowed
        self._places = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        top = name.partition(".")[0]
        theirs = any([*place.glob(top), *place.glob(f"{top}.*")] for place in self._places)
        if theirs and top not in self._allowed and not top.startswith("__editable__"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def command(allowed: frozenset[str], *words: str) -> list[str]:
    """The words of a command line, for this Python."""
    return [str(Path(__file__).resolve()), ",".join(sorted(allowed)), *words]


def main() -> None:
    sys.meta_path.insert(0, Wall(set(sys.argv[1].split(","))))
    sys.argv = sys.argv[2:]
    # Not the tests' own modules.
    sys.path.remove(str(Path(__file__).resolve().parent))
    module, _, name = sys.argv[0].partition(":")
    getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    main()
