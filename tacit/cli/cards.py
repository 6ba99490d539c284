"""``tacit models card`` and ``bom``: a version described, for people and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tacit.cli.common import HomeOption, open_store, recorded, written

if TYPE_CHECKING:
    from tacit.server.registry import ModelRegistry
    from tacit.server.store import Row

Reference = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME, NAME@NUMBER, NAME@ALIAS or a digest's prefix.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="FILE", help="Write it there; else to stdout.")
]
AboutOption = Annotated[
    str | None,
    typer.Option("--about", metavar="FILE", help="TOML or YAML: what the operator states."),
]


def card(
    model: Reference, to: ToOption = None, about: AboutOption = None, home: HomeOption = None
) -> None:
    """Write a version's model card: Markdown, with the front matter that model hubs read."""
    from tacit.server import cards

    registry, row, said = _found(home, model, about, "card")
    _written(to, cards.card(registry.store, row, said))


def bom(
    model: Reference, to: ToOption = None, about: AboutOption = None, home: HomeOption = None
) -> None:
    """Write a version's bill of materials: CycloneDX 1.6 JSON, with its attestation."""
    import json

    from tacit.server import boms

    registry, row, said = _found(home, model, about, "bom")
    _written(to, json.dumps(boms.bom(registry, row, said), indent=2) + "\n")


def register(app: typer.Typer) -> None:
    """Adds the commands to ``tacit models``."""
    app.command()(card)
    app.command()(bom)


def _found(
    home: str | None, model: str, about: str | None, action: str
) -> tuple[ModelRegistry, Row, dict[str, str] | None]:
    from pathlib import Path

    from tacit.server import statements
    from tacit.server.registry import ModelRegistry

    said = statements.read_about(Path(about)) if about is not None else None
    store = open_store(home)
    registry = ModelRegistry(store.home, store)
    row = registry.find(model)
    recorded(store, action, f"model {row['name']}@{row['number']}")
    return registry, row, said


def _written(to: str | None, text: str) -> None:
    if to is None:
        print(text, end="")
    else:
        written(to, text.encode())
