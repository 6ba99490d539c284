"""What every benchmark prints beside its figures: machine, versions; table and JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def one_thread() -> None:
    """Starts this process anew with one thread for numpy's and torch's libraries, if need be."""
    if any(os.environ.get(name) != "1" for name in _THREADS):
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            {**os.environ, **dict.fromkeys(_THREADS, "1")},
        )


def machine() -> dict[str, str]:
    """Where the figures were measured."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
        model = names[0].strip() if names else model
    except OSError:
        pass
    packages = ("tacit", "torch", "opacus", "flwr", "dp-accounting", "numpy", "cryptography")
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def show(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    result: dict[str, Any],
    as_json: bool,
) -> None:
    """Prints a table, then, if asked, one JSON object last on stdout."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console()
    console.print(table)
    console.print(" ".join(f"{key}={value}" for key, value in machine().items()), soft_wrap=True)
    if as_json:
        print(json.dumps({**result, "machine": machine()}))
