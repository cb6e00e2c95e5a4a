"""`make chaos`: thousands of studies while everything breaks, and whether anything was lost.

    python -m tests.chaos --database postgresql --studies 2000 --faults 120 --minutes 10 --seed 7

Prints every fault as it strikes and the verdict; writes var/chaos/DATABASE.json.
"""

import secrets
import shutil
import signal
import sys

import click

from tests.chaos.run import free_folder, run
from tests.chaos.site import ROOT


@click.command()
@click.option(
    "--database",
    "databases",
    multiple=True,
    type=click.Choice(["sqlite", "postgresql"]),
    default=("postgresql", "sqlite"),
)
@click.option("--studies", default=2000)
@click.option("--faults", "count", default=120)
@click.option("--minutes", default=12.0, help="How long studies come and faults strike.")
@click.option("--seed", type=int, help="Of the schedule and the studies; else drawn.")
@click.option("--keep", is_flag=True, help="Leave the run's folder, with every log.")
def main(
    databases: tuple[str, ...],
    studies: int,
    count: int,
    minutes: float,
    seed: int | None,
    keep: bool,
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and everything is taken down
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    var = ROOT / "var" / "chaos"
    clean = True
    for database in databases:
        folder = free_folder(var)
        print(f"{database}, seed {seed}, in {folder}", flush=True)
        result = run(folder, database=database, studies=studies, faults_count=count,
                     over_s=minutes * 60, seed=seed)  # fmt: skip
        result.save(var / f"{database}.json")
        print(result.text(), flush=True)
        clean = clean and result.clean
        if result.clean and not keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
