"""Known weaknesses of what the locks pin, by pip-audit: part of `make check`, asked once a day.

Exit status 1 when there are any. Where the service cannot be reached, or does not know the
packages, that is said, and is no failure: a machine without it must still be able to check.
"""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = [ROOT / "requirements.lock", ROOT / "deploy" / "locks" / "gpu.txt"]
ANSWER = Path(sys.prefix) / "audited.json"
WITHIN_S = 120
SERVICE_TIMEOUT_S = 10


def main() -> int:
    asked = f"{datetime.now(UTC):%Y-%m-%d} {_digest()}"
    answer = _kept(asked)
    if answer is None:
        said, weaknesses = _ask()
        answer = {"asked": asked, "said": said, "weaknesses": weaknesses}
        ANSWER.write_text(json.dumps(answer))
    print(f"audit: {answer['said']}")
    for line in answer["weaknesses"]:
        print(f"audit: {line}", file=sys.stderr)
    return 1 if answer["weaknesses"] else 0


def _kept(asked: str) -> dict[str, Any] | None:
    """The answer of today to the same question, if there is one."""
    try:
        answer: dict[str, Any] = json.loads(ANSWER.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return answer if answer["asked"] == asked else None


def _ask() -> tuple[str, list[str]]:
    """What is said, and a line for each weakness."""
    argv = [Path(sys.executable).parent / "pip-audit", "--require-hashes", "--disable-pip",
            "--progress-spinner", "off", "--timeout", str(SERVICE_TIMEOUT_S), "--format", "json",
            *(part for lock in LOCKS for part in ("--requirement", lock))]  # fmt: skip
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WITHIN_S)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return "the vulnerability service cannot be reached: nothing was audited", []
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        return "the vulnerability service knows none of the packages: nothing was audited", []
    weaknesses = {
        f"{package['name']} {package['version']}: {weakness['id']}, mended in "
        + (", ".join(weakness["fix_versions"]) or "no version yet")
        for package in known
        for weakness in package["vulns"]
    }
    return f"{len(known)} packages, {len(weaknesses)} known weaknesses", sorted(weaknesses)


def _digest() -> str:
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
