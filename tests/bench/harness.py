"""Timings beside peers: interleaved rounds, medians and their ratios.

A bench module has `UNIT` and `run(plan)`, which returns rows. A run returns one value in that unit;
it raises Failed when it did not do all of its work, for then its time means nothing, and
Unavailable when it cannot be done on this machine.
"""

import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Run = Callable[[], float]
PROGRAM_FOLDERS = "/usr/bin:/usr/sbin:/usr/local/bin"  # not the venv's storescu, pynetdicom's


class Failed(Exception):
    """A run that lost or refused something, or answered wrongly."""


class Unavailable(Exception):
    """What a bench or a peer needs is not here."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where a bench may write, how many rounds it makes, and whether it is to be small."""

    folder: Path
    rounds: int
    quick: bool = False
    note: Callable[[str], None] = lambda _text: None  # is told what runs now


@dataclass(frozen=True, kw_only=True)
class Series:
    """One contestant's values of all rounds, or why it has none."""

    values: tuple[float, ...] = ()
    skipped: str | None = None

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: ours, and one peer's beside it if there is one."""

    name: str
    unit: str
    ours: Series
    peer: str | None = None
    theirs: Series = field(default_factory=Series)

    @property
    def ratio(self) -> float | None:
        """Our median over the peer's."""
        ours, theirs = self.ours.median, self.theirs.median
        return ours / theirs if ours is not None and theirs else None

    def record(self) -> dict[str, str | float | None]:
        """The row as it stands in the JSON; what was skipped is null."""
        return {
            "name": self.name,
            "unit": self.unit,
            "value": _rounded(self.ours.median),
            "peer": self.peer,
            "peer_value": _rounded(self.theirs.median),
            "ratio": _rounded(self.ratio),
        }


def interleave(name: str, runs: Mapping[str, Run], plan: Plan) -> dict[str, Series]:
    """Run every contestant once per round, A/B/A/B, so that a slow minute strikes all alike.

    One that is Unavailable takes part no more; Failed ends everything.
    """
    values: dict[str, list[float]] = {contestant: [] for contestant in runs}
    skipped: dict[str, str] = {}
    for number in range(1, plan.rounds + 1):
        for contestant, run in runs.items():
            if contestant in skipped:
                continue
            plan.note(f"{name} · round {number} of {plan.rounds} · {contestant}")
            try:
                values[contestant].append(run())
            except Unavailable as reason:
                skipped[contestant] = str(reason)
            except Failed as reason:
                raise Failed(f"{name}, {contestant}: {reason}") from reason
    return {
        contestant: Series(skipped=skipped[contestant])
        if contestant in skipped
        else Series(values=tuple(found))
        for contestant, found in values.items()
    }


def compare(name: str, unit: str, ours: Run, peers: Mapping[str, Run], plan: Plan) -> list[Row]:
    """Time ours and every peer in the same rounds: one row per peer, or one alone."""
    series = interleave(name, {"cxr-worker": ours, **peers}, plan)
    first = series.pop("cxr-worker")
    if not series:
        return [Row(name=name, unit=unit, ours=first)]
    return [
        Row(name=name, unit=unit, ours=first, peer=peer, theirs=theirs)
        for peer, theirs in series.items()
    ]


def program(name: str, package: str) -> str:
    """A peer's program where Debian installs it. Raises Unavailable."""
    path = shutil.which(name, path=PROGRAM_FOLDERS)
    if path is None:
        raise Unavailable(f"{name} is not installed (Debian: {package})")
    return path


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
