"""What is handed to a person who withdrew: what was held, done and proved, and what remains.

Guarantees: the JSON opens the ledger's commitments to the case files that it has, and proves that
its leaves are in the ledger, to whoever knows the ledger's key (`tacit-verify FILE --key KEY`). The
text says no more than the JSON.

While a case is open its report has all that it was drawn for; once it is closed nobody has that any
more, and the report has the file that was closed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import sqlalchemy as sa

from tacit.privacy.errors import ConflictError, StorageError
from tacit.privacy.log.leaves import opening
from tacit.server import exports
from tacit.server import tables as t
from tacit.server.erasure.cases import Case
from tacit.server.home import write_durably
from tacit.server.store import Store

VERSION = 1
REMAINS = (
    "The versions listed were trained with a sum that this client's clipped, noised update was "
    "part of. A sum can't be unmixed; epsilon bounds what anybody learns of the client from it.",
    "The ledger's leaves stay as they are: they name nobody, and the commitments to the cohorts "
    "say nothing of this client without what was destroyed.",
    "Backups, replicas and disk snapshots from before this case was closed have the link until "
    "they are destroyed.",
    "What the client itself keeps (its key, its own ledger) is the client's.",
)
_ELIMINATED = (
    "All other clients' links are still there. Whoever has them can tell by elimination that some "
    "erased client was in a cohort; where one client alone was erased, that is this one."
)
_EVERYONE = "Everybody's links to the cohorts up to leaf {leaf} were destroyed with this client's."
_SEEDED = (
    "Draws of the runs {runs} came from a seed in their configuration, as a simulation's do: "
    "whoever has it can draw the cohorts again, whatever is erased."
)
_NUMBERED = (
    "{count} cohorts from before there were handles name the client by its number, in a table that "
    "is only appended to; they can't be unlinked."
)


def make(store: Store, case: Case) -> dict[str, Any]:
    """The report of a case.

    Raises:
        ConflictError: it was forgotten.
    """
    if case.key is None:
        raise ConflictError(f"case={case.id} was forgotten", "whoever was handed the report has it")
    files = {stage: case.body[stage] for stage in ("opened", "closed") if stage in case.body}
    return {
        "tacit": "erasure",
        "version": VERSION,
        "case": case.id,
        "population": case.population,
        "ledger": next(iter(files.values()))["ledger"],
        "key": str(store.signer.verifier),
        "state": case.state,
        "choice": case.body.get("choice"),
        "files": files,
        "openings": {stage: opening(case.key, stage).hex() for stage in files},
        "proofs": {
            stage: exports.prove(store, leaf) for stage, leaf in case.body["leaves"].items()
        },
        "remains": _remains(store, case),
    }


def _remains(store: Store, case: Case) -> list[str]:
    """What is left, and why."""
    found = list(REMAINS)
    if case.body.get("everyone"):
        found.append(_EVERYONE.format(leaf=case.body["leaves"]["closed"]))
    else:
        found.append(_ELIMINATED)
    r = t.runs.c
    query = sa.select(r.id, r.spec).where(r.population == case.population).order_by(r.id)
    with store.database.reading() as c:
        seeded = [run for run, spec in c.execute(query) if json.loads(spec).get("seed") is not None]
    if seeded:
        found.append(_SEEDED.format(runs=", ".join(seeded)))
    file = case.body.get("closed") or case.body["opened"]["found"]
    if file["numbered"]:
        found.append(_NUMBERED.format(count=file["numbered"]))
    return found


def markdown(made: dict[str, Any]) -> str:
    """The report as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tacit.server", "templates"),
        autoescape=False,  # noqa: S701 - it is Markdown, and what is quoted is escaped below
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _plain
    return environment.get_template("erasure.md").render(made=made)


def write(made: dict[str, Any], to: Path) -> tuple[Path, Path]:
    """Writes the text to ``to`` and the JSON beside it, with the suffix ``.json``.

    Raises:
        StorageError: one is there already, or they can't be written.
    """
    beside = to.with_suffix(".json")
    if beside == to:
        to = to.with_suffix(".md")
    for path in (to, beside):
        if path.exists():
            raise StorageError(f"{path} is there already", "choose another name, or remove it")
    write_durably(beside, json.dumps(made, indent=1).encode() + b"\n")
    write_durably(to, markdown(made).encode())
    return to, beside


def _plain(text: object) -> str:
    """A value within a line of Markdown: nothing of it is markup, or starts a line."""
    said = " ".join(str(text).split())
    return "".join(f"\\{k}" if k in "\\`*_{}[]<>#|!~" else k for k in said)
