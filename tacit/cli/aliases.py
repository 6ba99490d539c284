"""``tacit models alias|promote|rollback|retire``: what names a version, moved by who says why.

Each command names the move that it follows: the one given with --expect, or the newest, which it
reads first and says what it replaced. If another comes between, nothing happens.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json

if TYPE_CHECKING:
    from tacit.server.lifecycle import Lifecycle, Move
    from tacit.server.store import Store

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Its name.")]
Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="NAME@NUMBER, NAME@ALIAS or a digest.")
]
Alias = Annotated[str, typer.Option(help="Which alias.")]
Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="In words, for whoever reads the ledger.")
]
Expect = Annotated[
    int | None,
    typer.Option(metavar="LEAF", help="The move you saw last; -1 if you saw none."),
]
Force = Annotated[bool, typer.Option("--force", help="Past a gate; the leaf says so.")]
Evidence = Annotated[
    list[int] | None,
    typer.Option(metavar="LEAF", help="A RELEASE of an evaluation that this rests on."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (alias, promote, rollback, retire):
        app.command()(command)


def alias(
    model: Model,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="Which alias.")],
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A number, or none.")],
    reason: Reason,
    expect: Expect = None,
    force: Force = False,
    evidence: Evidence = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Point an alias at a version, or at none."""
    from tacit.privacy.errors import ConfigError

    digits = version.removeprefix("v")
    if version != "none" and not (digits.isdecimal() and len(digits) < 10):
        raise ConfigError(f"VERSION={version} must be a number or none", "tacit models list")
    number = None if version == "none" else int(digits)
    _move(open_store(home), model, alias, number, reason, expect, force, evidence, as_json)


def promote(
    version: Version,
    reason: Reason,
    alias: Alias = "champion",
    expect: Expect = None,
    force: Force = False,
    evidence: Evidence = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a version the champion, or what another alias names."""
    from tacit.privacy.errors import ConfigError
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    registry = ModelRegistry(store.home, store)
    row = registry.find(version)
    if version == row["name"]:
        raise ConfigError(
            f"MODEL@VERSION={version} names no version",
            f"its newest is {row['name']}@{row['number']}",
        )
    # What is promoted will be used: it is what was released, or isn't promoted.
    registry.verified(row)
    _move(store, row["name"], alias, row["number"], reason, expect, force, evidence, as_json)


def rollback(
    model: Model,
    reason: Reason,
    alias: Alias = "champion",
    to: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="A version that it named before.")
    ] = None,
    expect: Expect = None,
    evidence: Evidence = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Point an alias back at the version it named before."""
    from tacit.server import actors
    from tacit.server.lifecycle import Lifecycle

    life = Lifecycle(open_store(home))
    before = life.current(model, alias)
    moved = life.rollback(
        model,
        alias,
        expected=_expected(before, expect),
        actor=actors.current(),
        reason=reason,
        number=to,
        evidence=evidence or (),
    )
    _said(life, moved, as_json)


def retire(
    version: Version, reason: Reason, as_json: JsonOption = False, home: HomeOption = None
) -> None:
    """End a version's life: no alias may name it again. Its file and its leaves stay."""
    from tacit.privacy.errors import ConfigError
    from tacit.server import actors
    from tacit.server.lifecycle import Lifecycle
    from tacit.server.registry import ModelRegistry

    store = open_store(home)
    row = ModelRegistry(store.home, store).find(version)
    model, number = row["name"], row["number"]
    if version == model:
        raise ConfigError(
            f"MODEL@VERSION={version} names no version", f"its newest is {model}@{number}"
        )
    leaf = Lifecycle(store).retire(model, number, actor=actors.current(), reason=reason)
    if as_json:
        print_json({"leaf": leaf, "model": model, "number": number})
    else:
        print(f"{model}@{number} is retired (leaf {leaf})")


def _move(
    store: Store,
    model: str,
    alias: str,
    number: int | None,
    reason: str,
    expect: int | None,
    force: bool,
    evidence: list[int] | None,
    as_json: bool,
) -> None:
    from tacit.server import actors
    from tacit.server.gates import Gates
    from tacit.server.lifecycle import Lifecycle

    life = Lifecycle(store)
    before = life.current(model, alias)
    if evidence is None and number is not None and not force:
        # Where a gate guards the alias: the newest evaluations that it reads.
        verdict = Gates(store).verdict(model, alias, number)
        evidence = verdict.evidence if verdict is not None else []
    moved = life.move(
        model,
        alias,
        number,
        expected=_expected(before, expect),
        actor=actors.current(),
        reason=reason,
        evidence=evidence or (),
        forced=force,
    )
    _said(life, moved, as_json)


def _expected(before: Move | None, expect: int | None) -> int | None:
    """The leaf that a move follows."""
    if expect is not None:
        return None if expect < 0 else expect
    return before.leaf if before is not None else None


def _said(life: Lifecycle, moved: Move, as_json: bool) -> None:
    """What was done, and what it replaced."""
    replaced = life.replaced(moved)
    if as_json:
        print_json({**dataclasses.asdict(moved), "replaced": _plain(replaced)})
        return
    place, named = f"{moved.model}@{moved.alias}", "nothing"
    if replaced is not None and replaced.number is not None:
        named = f"{moved.model}@{replaced.number} (leaf {replaced.leaf})"
    now = "nothing" if moved.number is None else f"{moved.model}@{moved.number}"
    print(f"{place} names {now} (leaf {moved.leaf}); before that it named {named}")


def _plain(move: Move | None) -> dict[str, Any] | None:
    return None if move is None else dataclasses.asdict(move)
