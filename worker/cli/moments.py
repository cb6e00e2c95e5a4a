"""Points in time as people type them: "today", "2026-11-25 14:00", "90m" ago."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import click

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def parse(text: str, timezone: str, now: datetime | None = None) -> datetime:
    """A moment in UTC. Days and times without an offset are of `timezone`; raises ValueError."""
    zone = ZoneInfo(timezone)
    now = (now or datetime.now(UTC)).astimezone(zone)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if text == "today":
            moment = today
        elif text == "yesterday":
            moment = (today - timedelta(days=1)).replace(hour=0)
        elif ago := re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII):
            moment = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"expected a day or time such as 2026-11-25, 2026-11-25T14:00, today, yesterday, "
            f"90m, 8h or 7d, got {text!r}"
        ) from None


def parse_option(text: str | None, option: str, timezone: str) -> datetime | None:
    """The same for an option's value; raises click's error for it."""
    try:
        return None if text is None else parse(text, timezone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
