"""What a person sees of a long run: a bar on a terminal, a log line now and then elsewhere."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_EVERY_STEPS = 10

logger = logging.getLogger(__name__)


@contextmanager
def steps_shown(
    epoch: int, epochs: int, steps: int
) -> Iterator[Callable[[int, float, float], None]]:
    """Yields what is to be called after each step with its number, loss and learning rate."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:

        def log(step: int, loss: float, rate: float) -> None:
            if step % LOG_EVERY_STEPS == 0:
                logger.info(
                    "epoch %d/%d step %d/%d loss %.4f learning rate %.2g",
                    *(epoch + 1, epochs, step + 1, steps, loss, rate),
                )

        yield log
        return

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bar:
        task = bar.add_task(f"epoch {epoch + 1}/{epochs}", total=steps)

        def draw(step: int, loss: float, rate: float) -> None:
            text = f"epoch {epoch + 1}/{epochs}  loss {loss:.4f}  rate {rate:.1e}"
            bar.update(task, completed=step + 1, description=text)

        yield draw
