"""``tacit client-ledger``: what a client's own ledger says, beside any coordinator's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.common import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from tacit.client.caps import UnitSpent


def client_ledger(
    path: Annotated[str, typer.Argument(metavar="FILE", help="The ledger, such as 0.ledger.")],
    floors: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Floors with the limits; floors.json beside it, else."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a client took part in and what that cost it, by its own record."""
    from pathlib import Path

    from tacit.client.floors import Floors
    from tacit.client.ledger import ClientLedger
    from tacit.privacy.errors import StorageError

    file = Path(path)
    if not file.is_file():
        raise StorageError(f"there is no ledger {path}", "a client makes one in its home")
    limits = Floors.load(Path(floors) if floors is not None else file.with_name("floors.json"))
    ledger = ClientLedger(file, limits.caps())
    try:
        spent = ledger.spent()
    finally:
        ledger.close()
    if as_json:
        print_json(spent.to_json())
        return
    most = f" of at most {spent.caps.rounds}" if spent.caps.rounds is not None else ""
    print(f"{spent.participations} participations{most}, in {spent.rounds} rounds")
    refused = ", ".join(f"{reason} {count}" for reason, count in sorted(spent.refused.items()))
    print(f"refused: {refused or 'nothing'}")
    rows = [_row("all of its data", spent.client), _row("one record", spent.record)]
    print_table("epsilon", ["of", "spent", "limit", "delta"], rows)


def _row(of: str, spent: UnitSpent) -> list[object]:
    said = spent.to_json()
    epsilon, delta = said["epsilon"], said["delta"]
    shown = f"{epsilon:.4g}" if isinstance(epsilon, float) else epsilon
    return [of, shown, said["cap"], None if delta is None else f"{delta:g}"]
