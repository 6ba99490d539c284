"""The lineage of a model as a picture: a lane for each run, its versions in order, where it began.

Guarantees as `tacit.server.dashboard.charts`. The newest versions are shown, and how many aren't;
the table beside it has all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tacit.server.dashboard.formats import mark, url

MOST = 40
_PLAIN = ("released", "retired")
_STEP, _LANE, _LEFT, _TOP, _R = 44, 66, 36, 50, 13


@dataclass(frozen=True, slots=True)
class Graph:
    """A drawn lineage.

    Attributes:
        svg: the picture.
        left_out: how many older versions it doesn't show.
        lanes: the runs from top to bottom.
    """

    svg: Markup
    left_out: int
    lanes: list[str]


def graph(
    model: str, versions: Sequence[Mapping[str, Any]], begun: Mapping[str, Mapping[str, Any]]
) -> Graph:
    """Draws it.

    Args:
        model: whose versions these are.
        versions: as `views.models.versions` has them, in order.
        begun: the version that a run began with, by run.
    """
    shown = list(versions)[-MOST:]
    runs = list(dict.fromkeys(v["run"] for v in shown))
    place = {
        v["number"]: (_LEFT + i * _STEP, _TOP + runs.index(v["run"]) * _LANE)
        for i, v in enumerate(shown)
    }
    edges = [_edge(place, v["parent"]["number"], v["number"]) for v in shown if v["parent"]]
    edges += _beginnings(model, shown, begun, place)
    width = max(320, 2 * _LEFT + (len(shown) - 1) * _STEP)
    named = [v["number"] for v in shown if v["stage"] not in _PLAIN]
    nodes = [_node(model, v, *place[v["number"]], named, width) for v in shown]
    height = _TOP + (len(runs) - 1) * _LANE + 32
    head = mark(
        '<svg class="lineage" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-labelledby="lineage-t lineage-d"><title id="lineage-t">Lineage of {model}</title>'
        '<desc id="lineage-d">{text}</desc>',
        w=width,
        h=height,
        model=model,
        text=_said(shown, runs, begun),
    )
    svg = head + Markup("").join([*edges, *nodes]) + Markup("</svg>")
    return Graph(svg, len(versions) - len(shown), runs)


def _beginnings(
    model: str,
    shown: Sequence[Mapping[str, Any]],
    begun: Mapping[str, Mapping[str, Any]],
    place: Mapping[int, tuple[int, int]],
) -> list[Markup]:
    """From the version that a run began with to its first."""
    first = {v["run"]: v["number"] for v in reversed(shown) if not v["parent"]}
    return [
        _edge(place, begun[run]["number"], number)
        for run, number in first.items()
        if run in begun and begun[run]["model"] == model
    ]


def _edge(place: Mapping[int, tuple[int, int]], a: int, b: int) -> Markup:
    if a not in place or b not in place:
        return Markup("")
    (x0, y0), (x1, y1) = place[a], place[b]
    if y0 == y1:
        return mark('<path class="edge" d="M{} {}H{}"/>', x0 + _R, y0, x1 - _R)
    return mark(
        '<path class="edge begun" d="M{} {}C{} {} {} {} {} {}"/>',
        x0,
        y0 + _R,
        x0,
        y1,
        x1 - _R - 20,
        y1,
        x1 - _R,
        y1,
    )


def _node(
    model: str, version: Mapping[str, Any], x: int, y: int, named: Sequence[int], width: int
) -> Markup:
    stage = version["stage"]
    plain = stage in _PLAIN
    kind = stage if plain else "named"
    label = Markup("")
    if not plain:
        # Neighbours' names one above the other.
        raised = 14 * (named.index(version["number"]) % 2)
        # Where there is no room on one side it leans to the other.
        label = mark(
            '<text class="alias{}" x="{}" y="{}">{}</text>',
            " end" if x + 70 > width else " start" if x < 70 else "",
            x,
            y - _R - 6 - raised,
            stage if len(stage) <= 24 else stage[:23] + "…",
        )
    return mark(
        '<a href="{}"><title>{}</title><circle class="node {}" cx="{}" cy="{}" r="{}"/>'
        '<text class="number" x="{}" y="{}">{}</text></a>{}',
        url("/version", name=model, number=version["number"]),
        f"version {version['number']}, {stage}, leaf {version['leaf']}",
        kind,
        x,
        y,
        _R,
        x,
        y + 4,
        version["number"],
        label,
    )


def _said(
    shown: Sequence[Mapping[str, Any]],
    runs: Sequence[str],
    begun: Mapping[str, Mapping[str, Any]],
) -> str:
    text = f"{len(shown)} versions of {len(runs)} runs, a lane for each run. "
    for run in runs:
        numbers = [v["number"] for v in shown if v["run"] == run]
        text += f"Run {run}: versions {numbers[0]} to {numbers[-1]}"
        start = begun.get(run)
        text += f", begun with {start['model']} version {start['number']}. " if start else ". "
    return text
