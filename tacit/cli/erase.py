"""``tacit erase``: clients that withdraw, from their statement to the report they are handed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, print_table

if TYPE_CHECKING:
    from tacit.server.erasure.cases import Case
    from tacit.server.erasure.proof import Asked
    from tacit.server.store import Store

app = typer.Typer(
    help="Clients that withdraw: exclude, look up, decide, destroy, report.", no_args_is_help=True
)
CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="Its id, or a prefix.")]
Which = Annotated[str | None, typer.Option(metavar="POPULATION:CLIENT")]


@app.command("list")
def list_(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the cases."""
    from tacit.server.erasure.cases import Cases

    found = Cases(open_store(home)).list()
    if as_json:
        print_json([case.brief() for case in found])
        return
    rows = [case.brief() for case in found]
    columns = ["case", "population", "state", "choice", "leaves"]
    print_table("withdrawals", columns, [[row[name] for name in columns] for row in rows])


@app.command("open")
def open_(
    statement: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The client's signed withdrawal.")
    ] = None,
    simulated: Which = None,
    without_proof: Which = None,
    reason: Annotated[str, typer.Option(help="Why, without a proof.")] = "",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Exclude a client from now on, and look up what it took part in."""
    from tacit.server import actors
    from tacit.server.erasure.cases import Cases

    store = open_store(home)
    asked = _asked(store, statement, simulated, without_proof, reason)
    made = Cases(store).open(asked, actors.current())
    if as_json:
        print_json(_open(store, made))
        return
    print(f"case {made.id}: client {asked.client} of {asked.population} isn't drawn any more")
    _print_open(_open(store, made))


@app.command()
def show(case: CaseArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show a case: of an open one what its client took part in, as of now."""
    from tacit.server.erasure.cases import Cases

    store = open_store(home)
    found = Cases(store).get(case)
    said = found.brief() if found.client is None else _open(store, found)
    said["file"] = found.body.get("closed")
    if as_json:
        print_json(said)
        return
    print(f"case {found.id} of {found.population}: {found.state}, leaves {said['leaves']}")
    if found.client is not None:
        _print_open(said)


@app.command()
def choose(
    case: CaseArgument,
    choice: Annotated[str, typer.Argument(metavar="retrain|keep", help="What to do.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Decide what to do about the versions: train anew, or keep them with epsilon as evidence."""
    from tacit.server import actors
    from tacit.server.erasure.cases import Cases

    store = open_store(home)
    cases = Cases(store)
    made = cases.choose(case, choice, reason, actors.current())
    now = cases.affected(made.id)
    if as_json:
        print_json({**_open(store, made), "choice": made.body["choice"]})
        return
    print(f"case {made.id}: {choice}")
    _print_evidence(made.body["choice"]["evidence"])
    if choice == "retrain":
        for model, number in now.clean.items():
            if number is None:
                print(f"no version of {model} is clean: train it anew, without initial=")
            else:
                print(f"tacit simulate initial={model}@{number} begins with the last that is clean")


@app.command()
def close(
    case: CaseArgument,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Although aliases name versions to be replaced.")
    ] = False,
    everyone: Annotated[
        bool, typer.Option("--everyone", help="Destroy all others' links to past cohorts too.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Destroy what links the client to cohorts: in the rows, and in the database's files."""
    from tacit.server import actors
    from tacit.server.erasure.cases import Cases

    made = Cases(open_store(home)).close(case, actors.current(), anyway, everyone)
    if as_json:
        print_json({**made.brief(), "file": made.body.get("closed")})
        return
    print(f"case {made.id} is closed by leaf {made.body['leaves']['closed']}")
    for alias in made.body["closed"]["aliases"]:
        print(f"{alias['model']}@{alias['alias']} still names version {alias['number']} of it")
    print(f"tacit erase report {made.id} --to FILE writes what to hand over")
    if not everyone:
        print("others' links are still there: see tacit erase close --everyone")
    print("backups made before have the link until they are destroyed")


@app.command()
def report(
    case: CaseArgument,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="Markdown; JSON beside it.")],
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write what is handed to the person: what was held, done and proved, and what remains."""
    from pathlib import Path

    from tacit.server.erasure import report as reports
    from tacit.server.erasure.cases import Cases

    store = open_store(home)
    text, beside = reports.write(reports.make(store, Cases(store).get(case)), Path(to))
    if as_json:
        print_json({"text": str(text), "json": str(beside)})
    else:
        print(f"{text}\n{beside}")


@app.command()
def forget(case: CaseArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Remove what is left of a closed case but its leaves, once its report is handed over."""
    from tacit.server.erasure.cases import Cases

    made = Cases(open_store(home)).forget(case)
    if as_json:
        print_json(made.brief())
    else:
        print(f"case {made.id} is forgotten; its leaves stay")


def _asked(
    store: Store, statement: str | None, simulated: str | None, without: str | None, reason: str
) -> Asked:
    from pathlib import Path

    from tacit.privacy.errors import ConfigError
    from tacit.protocol import withdrawal
    from tacit.server.erasure import proof

    given = [x for x in (statement, simulated, without) if x is not None]
    if len(given) != 1:
        raise ConfigError(
            "who withdraws?", "FILE of tacit withdraw, or --simulated, or --without-proof"
        )
    if reason and without is None:
        raise ConfigError(f"reason={reason[:40]!r} is for --without-proof")
    if statement is not None:
        return proof.by_key(store, withdrawal.load(Path(statement)))
    if simulated is not None:
        return proof.simulated(store, *proof.named(simulated))
    return proof.without(store, *proof.named(str(without)), reason)


def _open(store: Store, case: Case) -> dict[str, Any]:
    """An open case, with what its client took part in as of now."""
    from tacit.server.erasure.cases import Cases

    now = Cases(store).affected(case.id)
    return {
        **case.brief(),
        "client": case.client,
        "asked": case.body["opened"]["asked"]["kind"],
        "found": now.to_json(),
        "runs": now.runs(),
    }


def _print_open(said: dict[str, Any]) -> None:
    from rich.markup import escape

    found = said["found"]
    sure = len(found["charges"]) - found["uncertain"]
    print(f"it was drawn {sure} times")
    if found["uncertain"]:
        print(f"and may have been for {found['uncertain']} cohorts that nobody can look into")
    print_table(
        "versions that came of it",
        ["version", "run", "round", "released by leaf", "why"],
        [
            (f"{escape(v['name'])}@{v['number']}", v["run"], v["round"], v["release"], v["why"])
            for v in found["versions"]
        ],
    )
    for alias in found["aliases"]:
        print(f"{alias['model']}@{alias['alias']} names version {alias['number']} of them")
    for model, number in found["clean"].items():
        print(f"last clean version: {model}@{number}" if number else f"no clean version of {model}")
    for place in found["pending"]:
        print(f"round {place['round']} of run {place['run']} is under way, with it in the cohort")


def _print_evidence(rows: list[dict[str, Any]]) -> None:
    from tacit.cli.common import number

    print_table(
        "what taking part cost it",
        ["unit", "against", "counting on secret draws", "epsilon", "delta", "by"],
        [
            (
                row["unit"],
                row["adversary"],
                "yes" if row["amplified"] else "no",
                number(row["epsilon"]),
                f"{row['delta']:.3g}",
                row["method"],
            )
            for row in rows
        ],
    )
