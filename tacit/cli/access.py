"""``tacit access``: tenants, tokens, and the records of who read what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from tacit.server.access.tokens import Tokens

app = typer.Typer(help="Tenants, tokens, and records of who read what.", no_args_is_help=True)
tenant = typer.Typer(help="Tenants: each has a home of its own.", no_args_is_help=True)
token = typer.Typer(help="Tokens: who may do what through the API.", no_args_is_help=True)
app.add_typer(tenant, name="tenant")
app.add_typer(token, name="token")

RootOption = Annotated[
    str | None,
    typer.Option(
        "--home", metavar="DIR", help="Root of the tenants, or one home; TACIT_HOME, else .tacit."
    ),
]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="A request's id.")]


def root_of(home: str | None) -> Path:
    """The root that an option names."""
    import os
    from pathlib import Path

    from tacit.server.home import DEFAULT

    return Path(home or os.environ.get("TACIT_HOME") or DEFAULT)


def _tokens(home: str | None) -> Tokens:
    """The tokens of a root; looking for some must not make it."""
    from tacit.privacy.errors import MissingError
    from tacit.server.access.tokens import FILE, Tokens

    root = root_of(home)
    if not (root / FILE).is_file():
        raise MissingError(f"home={root} holds no tokens", "tacit access token issue makes one")
    return Tokens(root)


@tenant.command("add")
def tenant_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new tenant.")],
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A PostgreSQL database of its own; left out, SQLite."),
    ] = None,
    as_json: JsonOption = False,
    home: RootOption = None,
) -> None:
    """Make a tenant, with an empty ledger and its key."""
    from tacit.server.access.tenants import Tenants

    made = Tenants(root_of(home)).create(name, database)
    if as_json:
        print_json({"tenant": name, "home": str(made.root)})
    else:
        print(f"tenant {name} -> {made.root}")


@tenant.command("list")
def tenant_list(as_json: JsonOption = False, home: RootOption = None) -> None:
    """List the tenants."""
    from tacit.server.access.tenants import Tenants

    tenants = Tenants(root_of(home))
    rows = [{"tenant": name, "home": str(tenants.home(name).root)} for name in tenants.list()]
    if as_json:
        print_json(rows)
    else:
        print_table("tenants", ["tenant", "home"], [list(row.values()) for row in rows])


@token.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom it is for; records name it.")],
    role: Annotated[str, typer.Option(help="viewer, reviewer, operator or admin.")],
    days: Annotated[int, typer.Option(help="Until it expires; at most 366.")],
    tenant: Annotated[str, typer.Option(help="Whose data it is for.")] = "default",
    models: Annotated[
        list[str] | None,
        typer.Option("--models", metavar="GLOB", help="Models it may know of; left out, all."),
    ] = None,
    as_json: JsonOption = False,
    home: RootOption = None,
) -> None:
    """Issue a token; what is printed is the only copy of it."""
    import sys
    from contextlib import closing

    from tacit.server.access import tokens
    from tacit.server.access.tenants import Tenants

    Tenants(root_of(home)).home(tenant)
    with closing(tokens.Tokens(root_of(home))) as held:
        text, row = held.issue(
            name, role, tenant=tenant, models=models or ["*"], lifetime=tokens.days(days)
        )
    if as_json:
        print_json({"token": text, **row})
        return
    print(f"{role} of {tenant}, until {row['expires']}; its id is {row['id']}", file=sys.stderr)
    print(text)


@token.command("list")
def token_list(
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    as_json: JsonOption = False,
    home: RootOption = None,
) -> None:
    """List tokens by their ids; nobody can list the tokens themselves."""
    from contextlib import closing

    with closing(_tokens(home)) as held:
        rows = held.list(tenant)
    if as_json:
        print_json(rows)
        return
    columns = ("id", "tenant", "name", "role", "models", "expires", "used", "revoked", "valid")
    cells = [{**row, "models": " ".join(row["models"])} for row in rows]
    print_table("tokens", columns, [[row[name] for name in columns] for row in cells])


@token.command()
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Of the token.")],
    as_json: JsonOption = False,
    home: RootOption = None,
) -> None:
    """End a token at once, also in a server that runs."""
    from contextlib import closing

    with closing(_tokens(home)) as held:
        row = held.revoke(identifier)
    if as_json:
        print_json(row)
    else:
        print(f"token {row['id']} of {row['name']} ended at {row['revoked']}")


@app.command()
def log(
    subject: Annotated[
        str | None, typer.Argument(help='Only of this, such as "model digits" or "ledger".')
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 100,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show who read what, newest first."""
    from rich.markup import escape

    from tacit.privacy import validate
    from tacit.server.access.records import Recorder

    validate.at_least("limit", limit, 1)
    rows = Recorder(open_store(home)).reads(subject, limit)
    if as_json:
        print_json(rows)
        return
    columns = ("at", "actor", "action", "subject", "via", "request")
    cells = [[escape(row["body"][name]) for name in columns] for row in rows]
    print_table("reads", columns, cells)


@app.command()
def find(
    request: Request,
    proof: Annotated[
        bool, typer.Option("--proof", help="Prove that it is under its ACCESS leaf (JSON).")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show what was recorded under a request's id: a read, or a score's receipt."""
    from tacit.privacy.errors import MissingError
    from tacit.server.access.records import Recorder

    recorder = Recorder(open_store(home))
    if proof:
        print_json(recorder.inclusion(request))
        return
    found = recorder.find(request)
    if found is None:
        raise MissingError(f"request={request[:80]!r} isn't here", "is it of another home?")
    if as_json:
        print_json(found)
        return
    shown: dict[str, Any] = {**found["body"], "leaf": found["leaf"]}
    print_table(f"access {found['id']}", ["field", "value"], shown.items())


@app.command()
def seal(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Put the accesses that no leaf covers yet under one; a server does it by itself."""
    from tacit.server.access.records import Recorder

    leaf = Recorder(open_store(home)).seal()
    if as_json:
        print_json({"leaf": leaf})
    else:
        print("all are under a leaf already" if leaf is None else f"leaf {leaf}")
