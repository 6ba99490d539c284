"""``tacit backup`` and ``tacit restore``: a home in one file, and back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tacit.cli.common import HomeOption, JsonOption, open_store, print_json, read_text


def backup(
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="Where to write it.")],
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Leave the home's keys out; keep them apart.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Write a verified backup of a home, while runs go on; never of clients' vaults."""
    from tacit.server import backup as backups

    made = backups.make(open_store(home), to, not without_keys)
    if as_json:
        print_json(made)
        return
    print(f"{made['leaves']} leaves, {made['files']} files -> {made['path']}")
    print(f"sha256 {made['sha256']}")
    print("it holds secrets: keep it as you keep the home")


Newest = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", metavar="NOTE", help="The newest one of the ledger that anybody has."
    ),
]
AcceptLoss = Annotated[
    bool,
    typer.Option(
        "--accept-loss",
        help="Go on although charges may be lost: runs begun before are over, policies must be "
        "set anew.",
    ),
]


def restore(
    archive: Annotated[str, typer.Argument(metavar="FILE", help="The backup.")],
    to: Annotated[str, typer.Option("--to", metavar="HOME", help="A folder that isn't there yet.")],
    checkpoint: Newest = None,
    accept_loss: AcceptLoss = False,
    key: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The ledger's key, where the backup has none."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a home back from a backup; its ledger says so from then on."""
    from tacit.server.restore import restore as put_back

    note = read_text(checkpoint) if checkpoint is not None else None
    found = put_back(archive, to, note, accept_loss, key)
    _say(found, as_json, f"{found['leaves']} leaves -> {found['home']}")


def restored(
    checkpoint: Newest = None,
    accept_loss: AcceptLoss = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Say in the ledger that other tools put its database back; tacit restore does so itself."""
    from tacit.server.restore import declare

    note = read_text(checkpoint) if checkpoint is not None else None
    found = declare(open_store(home), note, accept_loss)
    _say(found, as_json, f"the ledger was put back with {found['leaves']} leaves")


def _say(found: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        print_json(found)
        return
    print(f"{what}; leaf {found['leaf']} says so")
    for run in found["runs"]:
        print(f"run {run} is over: what it charged since the backup isn't known")
    print("invitations and revocations since the backup are lost too: see docs/operate.md")
