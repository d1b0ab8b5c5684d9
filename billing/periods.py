"""Stretches of time that pages show: whole hours and days of UTC, as calls are billed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
HOURLY_UP_TO = 2 * DAY


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` until just before `until`; both are the start of a day."""

    since: datetime
    until: datetime

    @property
    def step(self) -> timedelta:
        return HOUR if self.until - self.since <= HOURLY_UP_TO else DAY

    @property
    def last_day(self) -> date:
        return (self.until - DAY).date()

    def steps(self, now: datetime) -> list[datetime]:
        """The start of each hour or day that has begun."""
        steps = []
        moment = self.since
        while moment < min(self.until, now):
            steps.append(moment)
            moment += self.step
        return steps

    def days(self, now: datetime) -> list[date]:
        count = (min(self.until, now) - self.since + DAY - timedelta(microseconds=1)) // DAY
        return [self.since.date() + timedelta(days=number) for number in range(count)]


def start_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def of_days(first: date, last: date) -> Period:
    """Both days included."""
    return Period(start_of(first), start_of(last) + DAY)


def last_days(days: int, *, now: datetime) -> Period:
    """Today and the days before it."""
    today = now.astimezone(UTC).date()
    return of_days(today - timedelta(days=days - 1), today)


def month_of(day: date) -> Period:
    first = day.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    return Period(start_of(first), start_of(following))


def month_before(day: date) -> Period:
    return month_of(day.replace(day=1) - DAY)
