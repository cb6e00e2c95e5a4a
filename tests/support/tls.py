"""A certificate for tests."""

import subprocess
from pathlib import Path


def make_certificate(cert: Path, key: Path) -> None:
    """A certificate of localhost that is its own CA."""
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key,
            "-out", cert]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
