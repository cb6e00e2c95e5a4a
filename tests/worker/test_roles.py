"""The processes of the roles, where no other test starts them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.system import lives, wait_for
from worker.roles import GIVES_MEMORY_BACK

PICTURES = """
import psutil
first = bytearray(10_000_000)
del first
before = psutil.Process().memory_info().rss
for _ in range(3):
    several = [bytearray(10_000_000) for _ in range(3)]
    del several
print((psutil.Process().memory_info().rss - before) // 1_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize(("environment", "keeps"), [({}, True), (GIVES_MEMORY_BACK, False)])
def test_a_child_gives_a_pictures_memory_back(environment: dict[str, str], keeps: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PICTURES],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert (int(done.stdout) > 5) is keeps


# Celery's process forks and dies before the child has started.
ORPHAN = """
import os, sys, time
from worker import roles
celery_pid = os.getpid()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    while os.getppid() == celery_pid:
        time.sleep(0.01)
    roles._on_child_start(celery_pid)
    time.sleep(60)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel, as Linux can be asked")
def test_a_child_whose_parent_died_before_it_started_does_not_live_on(tmp_path: Path) -> None:
    printed = tmp_path / "pid"
    with printed.open("w") as file:
        subprocess.run([sys.executable, "-c", ORPHAN], stdout=file, check=True, env=os.environ)
    pid = int(wait_for("the child's pid", printed.read_text))
    wait_for("the child to end", lambda: not lives(pid), 20)
