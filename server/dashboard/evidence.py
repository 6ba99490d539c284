"""The ledger itself: its leaves, one leaf with its proof, and whether all of it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from tacit.privacy.log.leaves import KINDS, leaf_bytes
from tacit.server import exports
from tacit.server.api import problems
from tacit.server.api.context import Here, Known
from tacit.server.api.routes.ledger import verification
from tacit.server.dashboard.figures import figures
from tacit.server.dashboard.pages import Page, Reader, download, reading, render, sight
from tacit.server.views import ledger

router = APIRouter(route_class=Page)
PAGE = 100
_MOST = 2**53
# Fields of leaves that are the number of another.
_LINKS = ("charge", "parent", "release", "previous", "lifts", "leaf")


@router.get("/ledger", dependencies=[Depends(reading("ledger leaves"))])
def leaves(
    request: Request,
    caller: Reader,
    place: Here,
    start: str = "",
    kind: str = "",
    run: str = "",
) -> Response:
    """A page of leaves; the newest if nothing else is asked for."""
    if kind and kind not in KINDS:
        raise problems.missing()
    size = ledger.checkpoint(place.store)["size"]
    whole = not kind and not run
    first = max(0, size - PAGE) if whole else 0
    if start.isascii() and start.isdigit() and len(start) < 16:
        first = int(start)
    found = ledger.leaves(
        place.store,
        first,
        PAGE,
        kinds=(kind,) if kind else (),
        run=run or None,
        sees=sight(caller),
    )
    rows = [{**row, "what": _what(row["body"])} for row in found["leaves"]]
    return render(
        request,
        "leaves.html",
        leaves=rows,
        size=size,
        start=start,
        first=first,
        next=found["next"],
        before=max(0, first - PAGE) if whole and first else None,
        kind=kind,
        run=run,
        kinds=KINDS,
    )


@router.get("/ledger/{index}", dependencies=[Depends(reading("ledger leaf", "index"))])
def leaf(request: Request, index: int, caller: Reader, place: Here) -> Response:
    """One leaf, with the proof that it is in the ledger."""
    row, sees = _leaf(place, caller, index), sight(caller)
    near = ledger.leaves(place.store, max(0, index - 3), 7, sees=sees)["leaves"]
    return render(
        request,
        "leaf.html",
        leaf=row,
        text=leaf_bytes(row["body"]).decode(),
        fields=[(name, _field(name, value)) for name, value in row["body"].items()],
        proof=exports.prove(place.store, index),
        near=[{**n, "what": _what(n["body"])} for n in near if abs(n["leaf"] - index) <= 3],
        checkpoint=ledger.checkpoint(place.store),
    )


@router.get("/ledger/{index}/proof", dependencies=[Depends(reading("ledger leaf", "index"))])
def proof(index: int, caller: Reader, place: Here) -> Response:
    """The proof of one leaf, for tacit-verify."""
    _leaf(place, caller, index)
    made = exports.prove(place.store, index)
    return download(json.dumps(made, indent=2) + "\n", f"leaf-{index}.json", "application/json")


@router.get("/verification", dependencies=[Depends(reading("ledger verification"))])
def verified(request: Request, caller: Reader, place: Here) -> Response:
    """Whether the ledger holds, and the checkpoint to keep."""
    return render(
        request,
        "verification.html",
        found=figures(place, caller),
        checkpoint=ledger.checkpoint(place.store),
    )


@router.post("/verification")
def verify(caller: Known, place: Here) -> Response:
    """Has it checked again."""
    verification(place).ask()
    return RedirectResponse("/verification", 303)


@router.get("/verification/checkpoint", dependencies=[Depends(reading("ledger checkpoint"))])
def checkpoint(caller: Reader, place: Here) -> Response:
    """The newest checkpoint, as a file to keep."""
    made = ledger.checkpoint(place.store)
    return download(made["note"], f"checkpoint-{made['size']}.note", "text/plain; charset=utf-8")


def _leaf(place: Here, caller: Reader, index: int) -> dict[str, Any]:
    if not 0 <= index <= _MOST:
        raise problems.missing()
    return ledger.leaf(place.store, index, sight(caller))


def _field(name: str, value: Any) -> dict[str, Any]:
    """One field of a leaf, with the leaves that it names."""
    links: list[int] = []
    if name in _LINKS and type(value) is int:
        links = [value]
    elif name == "evidence" and isinstance(value, list):
        links = [found for found in value if type(found) is int]
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return {"text": text, "links": links, "long": isinstance(value, dict | list) and bool(value)}


def _what(body: Mapping[str, Any]) -> str:
    """A leaf in a few words."""
    kind = body["kind"]
    if kind in ("CHARGE", "ABANDON"):
        return f"round {body['round']}, {body['purpose']}"
    if kind == "RELEASE":
        text = f"round {body['round']}, {body['purpose']}"
        return f"{text}: {body['name']}@{body['number']}" if "artifact" in body else text
    if kind in ("DEPLOY", "ROLLBACK"):
        named = "nothing" if body["number"] is None else f"version {body['number']}"
        return f"{body['model']}@{body['alias']} names {named} ({body['actor']})"
    told = {
        "PLAN": ("name", "population"),
        "STATUS": ("status",),
        "POLICY": (),
        "APPROVAL": ("verdict", "note"),
        "AUDIT": ("stage", "method"),
        "KEY": ("key",),
        "RETIRE": ("model", "number", "reason"),
        "GATE": ("model", "alias"),
        "ACCESS": ("count",),
        "ERASURE": ("stage", "choice"),
    }
    words = [str(body[name]) for name in told.get(kind, ()) if body.get(name) is not None]
    if kind == "POLICY":
        words = [str(body["policy"].get("population"))]
    if kind == "ACCESS":
        words.append("reads and scores")
    return ", ".join(words)
