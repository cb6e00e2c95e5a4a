"""Run a decoder in a process of its own: GDCM ends its process on some broken streams.

A fork costs milliseconds, where a worker's death would cost its row three leases.
"""

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

DEADLINE_S = 10  # a 10 MB picture takes a third of a second


class DecoderDied(Exception):
    """The decoder crashed, hung or raised; there is nothing more to be known of it."""


def decode(work: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return what `work` returns; it runs in a forked child. Raises DecoderDied."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(work, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123  # a descriptor
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise DecoderDied
    array: NDArray[Any] = pickle.loads(answer)  # noqa: S301  # from our own child
    return array


def _child(work: Callable[[], NDArray[Any]], writing: int) -> None:
    """Never returns: whatever else this process was, its child does nothing but this."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the patient's picture
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(DEADLINE_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        array = work()
        with open(writing, "wb") as pipe:
            pipe.write(pickle.dumps(array, protocol=5))
        os._exit(0)
    finally:
        os._exit(1)
