"""Make the virtual environment that `make` works in. Needs Python alone: `setup_venv.py FOLDER`.

Installs exactly what requirements.lock says, hashes checked, with uv (itself from the lock) and
with pip where uv cannot. Two that start at once take turns, and the second finds it done.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = ROOT / "requirements.lock"
SUPPORTED = ((3, 11), (3, 14))
STARTED = time.monotonic()


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    if not SUPPORTED[0] <= sys.version_info[:2] < SUPPORTED[1]:
        sys.exit(
            f"cxr-worker runs on Python 3.11 to 3.13, this is {sys.version.split()[0]}: "
            "run make PYTHON=python3.12 (or another that you have)"
        )
    with Path(f"{folder}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        stamp = folder / "installed"
        wanted = digest()
        if stamp.is_file() and stamp.read_text() == wanted:
            stamp.touch()
            return
        say("setting up .venv: about 600 MB are downloaded, which takes a minute or two")
        python = folder / "bin" / "python"
        if not python.exists():
            create(folder)
        install(python)
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-build-isolation", "--no-deps", "--editable", str(ROOT))  # fmt: skip
        stamp.write_text(wanted)
        say("done")


def digest() -> str:
    content = LOCK_FILE.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def create(folder: Path) -> None:
    if subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False).returncode:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("cannot make a virtual environment: on Debian and Ubuntu, install python3-venv")


def install(python: Path) -> None:
    exact = ["--require-hashes", "--no-deps", "--requirement", str(LOCK_FILE)]
    say("installing from requirements.lock")
    if install_uv(python):
        uv = [str(python.parent / "uv"), "pip", "install", "--python", str(python)]
        # Compiled now, or (with PYTHONDONTWRITEBYTECODE, read-only folders) at every start anew.
        if subprocess.run([*uv, "--compile-bytecode", *exact], check=False).returncode == 0:
            return
        say("uv could not: falling back to pip, which takes some minutes")
    run(python, "-m", "pip", "install", "--disable-pip-version-check", *exact)


def install_uv(python: Path) -> bool:
    """uv alone first, by its own hashes in the lock."""
    pin = re.search(r"^uv==.*\\\n(?:.*\\\n)*.*", LOCK_FILE.read_text(), re.MULTILINE)
    if pin is None:
        return False
    requirement = python.parent.parent / "uv.txt"
    requirement.write_text(pin[0] + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--require-hashes", "--no-deps", "--requirement", str(requirement)]  # fmt: skip
    return subprocess.run(command, check=False).returncode == 0


def run(*command: object) -> None:
    completed = subprocess.run([str(part) for part in command], check=False)
    if completed.returncode:
        sys.exit(f"failed: {' '.join(str(part) for part in command)}")


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


if __name__ == "__main__":
    main()
