"""Stacked bars of money over time: where everything lies. The template draws it.

Coordinates are those of the picture's own box; amounts are pico-USD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing import money
from billing.periods import HOUR

WIDTH, HEIGHT = 800, 270
LEFT, RIGHT, TOP, BOTTOM = 76, 8, 16, 28
LABELS = 6
SERIES = 5  # With a colour of their own; the rest is one more.


@dataclass(frozen=True, slots=True)
class Segment:
    series: int  # From 1 on: its colour.
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    width: float
    moment: datetime
    amounts: Sequence[int]
    so_far: bool
    segments: list[Segment]

    @property
    def total(self) -> int:
        return sum(self.amounts)


@dataclass(frozen=True, slots=True)
class Label:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    names: list[str]
    bars: list[Bar]
    ticks: list[Label]
    labels: list[Label]
    hourly: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM

    @property
    def total(self) -> int:
        return sum(bar.total for bar in self.bars)

    @property
    def highest(self) -> Bar:
        return max(self.bars, key=lambda bar: bar.total)


def stacked(
    *,
    names: Sequence[str],
    moments: Sequence[datetime],
    amounts: Mapping[datetime, Sequence[int]],
    step: timedelta,
    now: datetime,
) -> Chart:
    """A bar for each moment; one without amounts is zero. The bar of the step that is not over is marked."""
    empty = [0] * len(names)
    columns = [amounts.get(moment, empty) for moment in moments]
    top = _top(max((sum(column) for column in columns), default=0))
    share = (WIDTH - LEFT - RIGHT) / max(len(moments), 1)
    width = max(min(share * 0.8, 48), 1)
    bars = [
        Bar(
            x=round(LEFT + number * share + (share - width) / 2, 2),
            width=round(width, 2),
            moment=moment,
            amounts=column,
            so_far=moment + step > now,
            segments=_segments(column, top),
        )
        for number, (moment, column) in enumerate(zip(moments, columns, strict=True))
    ]
    every = -(-len(bars) // LABELS) or 1
    form = "%H:%M" if step == HOUR and len(bars) <= 24 else "%m-%d %H:%M" if step == HOUR else "%m-%d"
    return Chart(
        names=list(names),
        bars=bars,
        ticks=[Label(round(_y(tick, top), 2), _short(tick)) for tick in (0, top // 4, top // 2, top * 3 // 4, top)],
        labels=[Label(round(bar.x + bar.width / 2, 2), f"{bar.moment:{form}}") for bar in bars[::every]],
        hourly=step == HOUR,
    )


def _segments(column: Sequence[int], top: int) -> list[Segment]:
    segments = []
    below = 0
    for number, amount in enumerate(column, start=1):
        if amount:
            upper, lower = _y(below + amount, top), _y(below, top)
            # What is there is seen, however small.
            segments.append(Segment(number, round(min(upper, lower - 1), 2), round(max(lower - upper, 1), 2)))
        below += amount
    return segments


def _y(amount: int, top: int) -> float:
    return HEIGHT - BOTTOM - amount / top * (HEIGHT - BOTTOM - TOP)


def _top(highest: int) -> int:
    """The end of the axis: little more than the highest bar, and a number whose quarters are short."""
    power = 10
    while True:
        for number in (10, 12, 16, 20, 24, 32, 40, 60, 80):
            if highest <= number * power:
                return number * power
        power *= 10


def _short(tick: int) -> str:
    whole, _, decimals = money.usd(tick).partition(".")
    return f"${int(whole):,}.{decimals:0<2}" if decimals else f"${int(whole):,}"
