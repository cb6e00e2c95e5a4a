"""The processes of the roles, where no other test starts them."""

import platform
import subprocess
import sys

import pytest

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
