"""``tacit backup`` and ``tacit restore``: a home in one file, and back."""

from __future__ import annotations

from typing import Annotated

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


def restore(
    archive: Annotated[str, typer.Argument(metavar="FILE", help="The backup.")],
    to: Annotated[str, typer.Option("--to", metavar="HOME", help="A folder that isn't there yet.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="NOTE", help="The newest checkpoint of the ledger that anybody has."),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Go on although charges may be lost: runs begun before are over, policies must "
            "be set anew.",
        ),
    ] = False,
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
    if as_json:
        print_json(found)
        return
    print(f"{found['leaves']} leaves -> {found['home']}; leaf {found['leaf']} says so")
    for run in found["runs"]:
        print(f"run {run} is over: what it charged since the backup isn't known")
    print("invitations and revocations since the backup are lost too: see docs/operate.md")
