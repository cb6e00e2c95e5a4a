"""Real peers: found where Debian installs them, skipped with a reason where they are not."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """A peer's program; DCMTK's, not the one of the same name that pynetdicom installs."""
    path = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if path is None:
        pytest.skip(f"{name} is not installed (see .ci/run for the packages)")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def validate(path: Path) -> str:
    """What dciodvfy says of a file."""
    argv = [tool("dciodvfy"), "-new", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.stderr + done.stdout
