"""How long and how often a destination is tried before its deliveries are given up."""

import random
from datetime import datetime, timedelta

BACKOFF_MIN_S = 5.0
BACKOFF_MAX_S = 3600.0
DELIVERY_AGE_MAX_DAYS = 14
REFUSALS_MAX = 8


def backoff_s(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: doubling, jittered by a quarter, capped."""
    wait_s = min(BACKOFF_MIN_S * 2 ** min(attempts - 1, 20), BACKOFF_MAX_S)
    return float(wait_s * random.uniform(0.75, 1.25))  # noqa: S311


def is_too_old(now: datetime, queued_at: datetime) -> bool:
    return now - queued_at > timedelta(days=DELIVERY_AGE_MAX_DAYS)
