"""Charts as SVG, made by the server: axes, steps, lines, bands, and links to the leaves.

Guarantees: no chart has a style or script of its own, so that a strict policy lets it show; all
text is escaped; each has a title and a description. Beside each there is a table with the same
numbers for whoever reads no pictures: points are no stops of the keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tacit.server.dashboard.formats import mark

WIDTH, HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 44
# How often a style comes before it is used again.
STYLES = 6


@dataclass(frozen=True, slots=True)
class Point:
    """One number of a series.

    Attributes:
        x: where.
        y: how much; None leaves a gap.
        low: of a band.
        high: of a band.
        link: where the number comes from; empty for none.
        title: what is said of it.
        marked: whether it stands out.
    """

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    link: str = ""
    title: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers that belong together.

    Attributes:
        label: in the legend.
        points: in order of x.
        steps: whether a number holds until the next.
    """

    label: str
    points: Sequence[Point]
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A line across: a cap, a floor."""

    label: str
    y: float
    link: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart.

    Attributes:
        name: unique on its page, a word.
        title: of the chart.
        text: what it shows, in a sentence or two.
        series: what is drawn.
        levels: lines across.
        ticks: places on the x axis with their labels.
        x: what the x axis is.
        y: what the y axis is.
        zero: whether the y axis begins at 0.
        top: the least that the y axis reaches.
        most: the most that it does; what is above is drawn at its edge.
    """

    name: str
    title: str
    text: str
    series: Sequence[Series]
    levels: Sequence[Level] = ()
    ticks: Sequence[tuple[float, str]] = ()
    x: str = ""
    y: str = ""
    zero: bool = True
    top: float = 0.0
    most: float = math.inf

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Style and label of each series."""
        return [(i % STYLES, series.label) for i, series in enumerate(self.series)]

    def svg(self) -> Markup:
        """The picture."""
        scale = _Scale.of(self)
        parts = [
            _frame(self, scale),
            *(_level(level, scale) for level in self.levels),
            *(_series(series, i % STYLES, scale) for i, series in enumerate(self.series)),
        ]
        head = mark(
            '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-t {n}-d">'
            '<title id="{n}-t">{title}</title><desc id="{n}-d">{text}</desc>',
            w=WIDTH,
            h=HEIGHT,
            n=self.name,
            title=self.title,
            text=self.text,
        )
        return head + Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True, slots=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float
    step: float

    @classmethod
    def of(cls, chart: Chart) -> _Scale:
        points = [p for series in chart.series for p in series.points]
        xs = [p.x for p in points] or [0.0]
        said = [v for p in points for v in (p.y, p.low, p.high)]
        ys = [v for v in said if v is not None and math.isfinite(v)]
        ys += [level.y for level in chart.levels] + ([chart.top] if chart.top else [])
        low = 0.0 if chart.zero or not ys else min(ys)
        high = max(ys, default=1.0)
        high = min(high, chart.most)
        if high <= low:
            high = low + 1.0
        step = _nice((high - low) / 5)
        y0 = math.floor(low / step + 1e-9) * step
        y1 = min(math.ceil(high / step - 1e-9) * step, chart.most)
        x0, x1 = min(xs), max(xs)
        pad = 0.5 if x1 == x0 else (x1 - x0) * 0.02
        return cls(x0 - pad, x1 + pad, y0, y1, step)

    def x(self, value: float) -> float:
        part = (value - self.x0) / (self.x1 - self.x0)
        return round(_LEFT + part * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        part = (min(max(value, self.y0), self.y1) - self.y0) / (self.y1 - self.y0)
        return round(HEIGHT - _BOTTOM - part * (HEIGHT - _TOP - _BOTTOM), 1)


def hours(times: Sequence[str], most: int = 5) -> list[tuple[float, str]]:
    """Ticks where a new hour of the ledger begins, of places numbered from 1; not too many."""
    places = [i for i, at in enumerate(times) if i == 0 or at != times[i - 1]]
    step = max(1, -(-len(places) // most))
    return [(i + 1.0, times[i][5:16].replace("T", " ")) for i in places[::step]]


def _nice(step: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, no smaller."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * f for f in (1, 2, 5, 10) if power * f >= step * (1 - 1e-9))


def _frame(chart: Chart, scale: _Scale) -> Markup:
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    count = round((scale.y1 - scale.y0) / scale.step)
    digits = max(0, -math.floor(math.log10(scale.step) + 1e-9))
    for i in range(count + 1):
        value = scale.y0 + i * scale.step
        y = scale.y(value)
        parts.append(
            mark(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick end" x="{}" y="{}">{}</text>',
                _LEFT,
                right,
                y,
                y,
                _LEFT - 6,
                y + 4,
                f"{value:.{digits}f}",
            )
        )
    for value, label in chart.ticks:
        parts.append(
            mark(
                '<text class="tick mid" x="{}" y="{}">{}</text>', scale.x(value), floor + 17, label
            )
        )
    names = mark(
        '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="name mid" x="{}" y="{}">{}</text>'
        '<text class="name mid" transform="translate(13 {}) rotate(-90)">{}</text>',
        _LEFT,
        right,
        floor,
        floor,
        (_LEFT + right) / 2,
        HEIGHT - 8,
        chart.x,
        (_TOP + floor) / 2,
        chart.y,
    )
    return Markup("").join(parts) + names


def _level(level: Level, scale: _Scale) -> Markup:
    y = scale.y(level.y)
    line = mark(
        '<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="level-name end" x="{}" y="{}">{}</text>',
        _LEFT,
        WIDTH - _RIGHT,
        y,
        y,
        WIDTH - _RIGHT - 2,
        y - 5,
        level.label,
    )
    return _linked(line, level.link, level.label)


def _series(series: Series, style: int, scale: _Scale) -> Markup:
    parts = [_band(piece, style, scale) for piece in _pieces(series.points, "low")]
    parts += [
        mark('<path class="line s{}" d="{}"/>', style, _path(piece, series.steps, scale))
        for piece in _pieces(series.points, "y")
    ]
    dots = [p for p in series.points if p.y is not None]
    radius = 3.5 if len(dots) <= 60 else 2
    for p in dots:
        assert p.y is not None
        dot = mark(
            '<circle class="dot s{}{}" cx="{}" cy="{}" r="{}"/>',
            style,
            " marked" if p.marked else "",
            scale.x(p.x),
            scale.y(p.y),
            radius,
        )
        parts.append(_linked(dot, p.link, p.title))
    return Markup("").join(parts)


def _pieces(points: Sequence[Point], name: str) -> list[list[Point]]:
    """Runs of points that have a value, without the gaps between them."""
    found: list[list[Point]] = [[]]
    for point in points:
        if getattr(point, name) is None:
            found.append([])
        else:
            found[-1].append(point)
    return [piece for piece in found if piece]


def _path(piece: Sequence[Point], steps: bool, scale: _Scale) -> str:
    made = ""
    for p in piece:
        assert p.y is not None
        x, y = scale.x(p.x), scale.y(p.y)
        if not made:
            made = f"M{x} {y}"
        else:
            made += f"H{x}V{y}" if steps else f"L{x} {y}"
    return made


def _band(piece: Sequence[Point], style: int, scale: _Scale) -> Markup:
    if len(piece) == 1:
        # A band of no width would not be seen.
        p = piece[0]
        return mark(
            '<path class="whisker s{}" d="M{} {}V{}"/>',
            style,
            scale.x(p.x),
            scale.y(p.low or 0.0),
            scale.y(p.high or 0.0),
        )
    up = [f"{scale.x(p.x)} {scale.y(p.high or 0.0)}" for p in piece]
    down = [f"{scale.x(p.x)} {scale.y(p.low or 0.0)}" for p in reversed(piece)]
    return mark('<path class="band s{}" d="M{}Z"/>', style, "L".join([*up, *down]))


def _linked(inner: Markup, link: str, title: str) -> Markup:
    said = mark("<title>{}</title>", title) if title else Markup("")
    if not link:
        return Markup("<g>{}{}</g>").format(said, inner)
    return mark('<a href="{}" tabindex="-1">{}{}</a>', link, said, inner)
