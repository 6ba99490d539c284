"""What the commands share: the home option, tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tacit.server.store import Store

HomeOption = Annotated[
    str | None,
    typer.Option("--home", metavar="DIR", help="State folder; TACIT_HOME, else .tacit."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def open_store(home: str | None) -> Store:
    """The database of an existing home.

    Raises:
        StorageError: there is none; looking must not make one.
    """
    import os
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.server.home import DEFAULT, Home
    from tacit.server.store import Store

    root = Path(home or os.environ.get("TACIT_HOME") or DEFAULT)
    if not any((root / name).is_file() for name in ("tacit.db", "database.url")):
        raise StorageError(f"home={root} holds no tacit database", "tacit simulate makes one")
    return Store(Home(root))


def open_or_make_store(home: str | None) -> Store:
    """The database of a home, which is made if it isn't there."""
    from tacit.server.home import Home
    from tacit.server.store import Store

    return Store(Home(home))


def recorded(store: Store, action: str, subject: str) -> None:
    """Records that this user is about to be shown something, durably.

    Where no server seals the records, every hundredth command does.
    """
    from tacit.server import actors
    from tacit.server.access.records import Recorder

    recorder = Recorder(store)
    recorder.read(actors.current(), action, subject, via="cli")
    if recorder.unsealed() >= 100:
        recorder.seal()


def written(to: str, data: bytes) -> None:
    """Writes a result to a file that isn't there yet, and says so."""
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.server.home import write_durably

    if Path(to).exists():
        raise StorageError(f"{to} is there already", "choose another name, or remove it")
    write_durably(Path(to), data)
    print(to)


def read_text(name: str) -> str:
    """A file somebody kept.

    Raises:
        StorageError: it can't be read, or isn't text.
    """
    from pathlib import Path

    from tacit.privacy.errors import StorageError
    from tacit.server.home import explained

    try:
        with explained(f"{name} can't be read"):
            return Path(name).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{name} isn't a checkpoint: it isn't text") from error


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)


def number(value: float | None, digits: int = 4, none: str = "not claimed") -> str:
    """A figure for a table."""
    return none if value is None else f"{value:.{digits}f}"


def print_claims(title: str, table: list[dict[str, Any]]) -> None:
    """Rows of `Spending.table`; what they assume is below, since it is too long for a column."""
    notes: list[str] = []
    rows = []
    for c in table:
        if c["assumes"] not in notes:
            notes.append(c["assumes"])
        figures = (number(c["epsilon"]), c["method"] or "", number(c["cross_check"], none=""))
        amplified = "yes" if c["amplified"] else "no"
        note = f"[{notes.index(c['assumes']) + 1}]"
        rows.append((c["unit"], c["adversary"], amplified, *figures, f"{c['delta']:.3g}", note))
    columns = ["unit", "against", "amp.", "epsilon", "by", "check", "delta", "note"]
    print_table(title, columns, rows)
    for i, note in enumerate(notes, 1):
        print(f"[{i}] {note}")
