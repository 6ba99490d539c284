"""A privacy statement as text: sections that Markdown and HTML both are made of.

Guarantees: `markdown` shows no text of the ledger or the operator as markup and no control
character of theirs; every field of a statement is in one of its `sections`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tacit.privacy.statement.registry import BY_OPERATOR, NOT_CLAIMED

_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: f"\\{c}" for c in "\\`*[]|~#"}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a statement: a title, paragraphs and a table.

    Attributes:
        title: its heading.
        paragraphs: before the table.
        columns: of the table; empty without one.
        rows: of the table.
    """

    title: str
    paragraphs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def markdown(made: Mapping[str, Any]) -> str:
    """A statement in Markdown."""
    lines = [f"# Privacy statement of {escaped(made['model']['version'])}", ""]
    for warning in made["warnings"]:
        lines += [f"> **Warning:** {escaped(warning)}", ""]
    lines += [" ".join(escaped(sentence) for sentence in made["summary"]), ""]
    return "\n".join([*lines, *laid_out(sections(made))])


def laid_out(parts: Sequence[Section]) -> list[str]:
    """Sections as lines of Markdown."""
    lines: list[str] = []
    for section in parts:
        lines += [f"## {escaped(section.title)}", ""]
        for paragraph in section.paragraphs:
            lines += [escaped(paragraph), ""]
        if section.columns:
            lines += [_line(section.columns), _line(["---"] * len(section.columns), raw=True)]
            lines += [*(_line(row) for row in section.rows), ""]
    return lines


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return "".join(_MARKUP.get(c, c) for c in printable)


def sections(made: Mapping[str, Any]) -> list[Section]:
    """The parts of a statement, in order."""
    together = made["composition"]
    return [
        _pairs("The version", made["model"]),
        _guarantees(made),
        _many("Units of privacy", made["units"]),
        _pairs("Neighbouring relation", made["relation"]),
        _pairs("Mechanism", made["mechanism"]),
        _pairs("Sampling", made["sampling"]),
        _pairs("Rounds up to this version", made["rounds"]),
        _pairs("Survivors and collusion", made["trust"]),
        Section("Who sees what", tuple(made["actors"])),
        _pairs("Accounting", made["accounting"]),
        Section("Composition", (together["in_words"],)),
        *_together("by this version", together["at_release"]),
        *_together("by the checkpoint", together["at_checkpoint"]),
        _pairs("Policies in force", made["policies"]),
        _many("Approvals", made["approvals"]),
        _many("Audits", made["audits"], ("An audit that finds nothing proves nothing.",)),
        _many("Audits that freeze releases", [{"audit": leaf} for leaf in made["frozen_by"]]),
        _pairs("Provenance", made["provenance"]),
        _pairs("Checkpoint, and how to verify", made["checkpoint"]),
        Section("What is not protected", tuple(made["not_protected"])),
        _deployment(made["deployment"]),
    ]


def _guarantees(made: Mapping[str, Any]) -> Section:
    names = ("unit", "adversary", "amplified", "epsilon", "delta", "method", "cross_check",
             "guess_at_most", "accountant", "assumes")  # fmt: skip
    rows = tuple(tuple(_cell(name, row[name]) for name in names) for row in made["guarantees"])
    heads = ("unit", "against", "amplified by sampling", "epsilon", "delta", "by", "cross-check",
             "a guess is right at most", "accountant", "assuming")  # fmt: skip
    headline = made["headline"]
    said = f"The figure of the summary: {NOT_CLAIMED}."
    if headline != NOT_CLAIMED:
        said = (
            f"The figure of the summary: {headline['unit']} against {headline['adversary']}, "
            f"epsilon {_cell('epsilon', headline['epsilon'])} at delta {headline['delta']:.3g}."
        )
    more = (
        "A guess: whether one unit's data was used, where a fair coin decided, by somebody who "
        "knows all other data; (exp(epsilon) + delta)/(1 + exp(epsilon)), 50% being blind."
    )
    return Section("What is promised", (said, more), heads, rows)


def _together(when: str, total: Mapping[str, Any]) -> list[Section]:
    return [
        _many(f"Runs on the population {when}", total["runs"]),
        _many(f"Total of the population {when}", total["rows"]),
    ]


def _deployment(fields: Mapping[str, Mapping[str, str]]) -> Section:
    rows = tuple((name, field["value"], field["source"]) for name, field in fields.items())
    return Section(
        "Deployment", (f"{BY_OPERATOR}.".capitalize(),), ("field", "value", "source"), rows
    )


def _pairs(title: str, fields: Mapping[str, Any]) -> Section:
    return Section(title, (), ("field", "value"), tuple(_flat(fields)))


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _cell(name, value)


def _many(title: str, rows: Sequence[Mapping[str, Any]], said: tuple[str, ...] = ()) -> Section:
    """A table with the fields of its rows as columns."""
    if not rows:
        return Section(title, (*said, "None in the ledger."))
    columns = tuple(rows[0])
    table = tuple(tuple(_cell(name, row[name]) for name in columns) for row in rows)
    return Section(title, said, columns, table)


def _cell(name: str, value: Any) -> str:
    """A value for a reader; bounds are rounded up, never down."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, float):
        if name in ("epsilon", "cross_check", "guess_at_most"):
            return f"{math.ceil(value * 1e4 - 1e-6) / 1e4:.4f}"
        return f"{value:.6g}"
    return str(value)


def _line(cells: Sequence[str], raw: bool = False) -> str:
    return f"| {' | '.join(cell if raw else escaped(cell) for cell in cells)} |"
