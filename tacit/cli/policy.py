"""``tacit ledger policy|approve|keygen|rotate``: what may be spent, and who says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_or_make_store, open_store, print_json

if TYPE_CHECKING:
    from tacit.privacy.policy import Policy

KeyFile = Annotated[
    str | None, typer.Option("--key", metavar="FILE", help="The reviewer's key file.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``tacit ledger``."""
    for command in (policy, approve, sign, keygen, rotate):
        app.command()(command)


def policy(
    population: Annotated[str, typer.Argument(help="Name of the population.")],
    epsilon: Annotated[
        float | None, typer.Option(help="Cap on what all its runs together spend.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="At which every epsilon here is stated.")
    ] = None,
    window_days: Annotated[
        float | None, typer.Option(help="The cap holds for every span of so many days.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Whose epsilon: client or record.")] = "client",
    amplified: Annotated[
        bool, typer.Option(help="Whether the secrecy of draws is counted on.")
    ] = True,
    run_epsilon: Annotated[float | None, typer.Option(help="Cap on one run.")] = None,
    separation_hours: Annotated[
        float | None, typer.Option(help="Least time between the charges of two runs.")
    ] = None,
    review_epsilon: Annotated[
        float | None, typer.Option(help="A run planned to spend more waits for a reviewer.")
    ] = None,
    reviewer: Annotated[
        list[str] | None, typer.Option(help="A reviewer's key (NAME+HASH+BASE64).")
    ] = None,
    key: KeyFile = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Set what may be spent on a population; without options, show what is in force."""
    from tacit.privacy.errors import ConfigError
    from tacit.privacy.policy import Policy, best_order

    caps = (epsilon, delta, window_days, run_epsilon, separation_hours, review_epsilon, reviewer)
    if all(value is None for value in caps):
        if unit != "client" or not amplified or key is not None:
            raise ConfigError(
                f"population={population}: there is no cap to set",
                "leave all options out to see the policy in force",
            )
        _show(population, home)
        return
    order = best_order(epsilon, delta) if epsilon is not None and delta is not None else None
    made = Policy(
        population=population,
        unit=unit,
        amplified=amplified,
        epsilon=epsilon,
        delta=delta,
        window_days=window_days,
        order=order,
        run_epsilon=run_epsilon,
        separation_hours=separation_hours,
        review_epsilon=review_epsilon,
        reviewers=tuple(reviewer or ()),
    )
    _set(made, key, as_json, home)


def _show(population: str, home: str | None) -> None:
    """Prints the policy in force."""
    from tacit.server.governance import Governance

    found = Governance(open_store(home)).policy(population)
    print_json(found.to_json() if found else None)


def _set(made: Policy, key: str | None, as_json: bool, home: str | None) -> None:
    """Puts a policy in force, signed with a reviewer's key if there is one."""
    from tacit.server.governance import Governance

    signer = _signer(key)
    leaf = Governance(open_or_make_store(home)).adopt(made, signer)
    if as_json:
        print_json({"leaf": leaf, "policy": made.to_json()})
    else:
        print(f"leaf {leaf}: the policy of population={made.population} is in force")


def approve(
    run: Annotated[str, typer.Argument(help="The run's id, a prefix, or last.")],
    key: Annotated[str, typer.Option("--key", metavar="FILE", help="The reviewer's key file.")],
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no.")] = False,
    lifts: Annotated[
        int | None,
        typer.Option(metavar="LEAF", help="The audit after which releases may go on."),
    ] = None,
    note: Annotated[str, typer.Option(help="Why, for whoever reads the ledger.")] = "",
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Sign a yes (or no) to a run that waits for a review."""
    from tacit.server.governance import Governance

    store, signer = open_store(home), _signer(key)
    assert signer is not None
    identifier = store.run(run)["id"]
    verdict = "refused" if refuse else "approved"
    leaf = Governance(store).approve(identifier, verdict, note, lifts, signer)
    if as_json:
        print_json({"leaf": leaf, "run": identifier, "verdict": verdict})
    else:
        what = f"run {identifier}" if lifts is None else f"going on after leaf {lifts}"
        print(f"leaf {leaf}: {what} is {verdict}")


def sign(
    draft: Annotated[
        str, typer.Argument(metavar="FILE", help="What the API gave to sign (JSON); - is stdin.")
    ],
    key: Annotated[str, typer.Option("--key", metavar="FILE", help="The reviewer's key file.")],
) -> None:
    """Sign an approval on the reviewer's own machine; POST what is printed to /v1/approvals."""
    import json
    import sys

    from tacit.cli.common import read_text
    from tacit.privacy.errors import ConfigError
    from tacit.server.governance import resigned

    text = sys.stdin.read() if draft == "-" else read_text(draft)
    try:
        found = json.loads(text)
        body = dict(found["body"])
    except (ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"draft={draft} isn't what /v1/approvals/RUN/statement gives") from error
    signer = _signer(key)
    assert signer is not None
    made = resigned(body, signer)
    what = f"run {made['run']}" if made["lifts"] is None else f"going on after {made['lifts']}"
    print(f"{what}: {made['verdict']}, by {made['key'].partition('+')[0]}", file=sys.stderr)
    print_json(made)


def keygen(
    file: Annotated[str, typer.Argument(help="Where to write the secret key.")],
    name: Annotated[str, typer.Option(help="Whose it is; without blanks and +.")],
    as_json: JsonOption = False,
) -> None:
    """Make a reviewer's key pair; prints the public half, for --reviewer."""
    from pathlib import Path

    from tacit.privacy.log import keyfile

    made = str(keyfile.create(Path(file), name).verifier)
    if as_json:
        print_json({"key": made, "file": file})
    else:
        print(made)


def rotate(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Give the ledger a new signing key, announced by a leaf that the old one signs."""
    from tacit.server import keys

    store = open_store(home)
    made = str(keys.rotate(store.home, store.database, store.signer).verifier)
    if as_json:
        print_json({"key": made})
    else:
        print(made)


def _signer(file: str | None) -> Any:
    from pathlib import Path

    from tacit.privacy.log import keyfile

    return keyfile.load(Path(file)) if file is not None else None
