"""A headless Chromium, Debian's, and the rules of accessibility that it holds pages to."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

AXE = "axe-core@4.14.1"
_SERIOUS = {"serious", "critical"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; skips the test, with a reason, where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def axe_script(folder: Path) -> str:
    """The source of axe-core, fetched from npm; skips the test, with a reason, without it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and axe-core comes from there")
    try:
        packed = subprocess.run(
            [npm, "pack", "--silent", AXE],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm does not answer, and axe-core comes from there")
    if packed.returncode != 0:
        pytest.skip("npm does not give axe-core")
    with tarfile.open(folder / packed.stdout.split()[-1]) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds serious or critical on a page."""
    page.evaluate(axe)  # not a script element, which the page's own policy would refuse
    found: dict[str, Any] = page.evaluate("async () => await axe.run()")
    return [
        f"{it['id']}: {node['html'][:120]} ({node['failureSummary'][:200]})"
        for it in found["violations"]
        if it["impact"] in _SERIOUS
        for node in it["nodes"]
    ]
