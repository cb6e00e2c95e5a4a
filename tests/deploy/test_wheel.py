"""The wheel, installed where nothing of ours is: `make deploy-test` runs it, no engine needed."""

import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from dicom_io import scu
from dicom_io.destination import Destination
from tests.support import dicom
from tests.support.system import wait_for
from worker import home

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]


def test_the_wheel_runs_from_a_clean_environment_with_its_bundle(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = [Path(sys.executable).parent / "uv", "pip", "install", "--python", python,
               "--constraint", ROOT / "requirements.lock", f"{wheel}[cpu]"]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    program = tmp_path / "venv" / "bin" / "cxr-worker"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CXR_")},
        "CXR_DICOM_PORT": "0",
        "CXR_WEB_PORT": "0",
        "CXR_STUDY_SETTLE_S": "1",
        "CXR_SPOOL_RESERVE_MB": "10",
    }
    with subprocess.Popen([program, "up"], cwd=tmp_path, env=env) as up:
        try:
            port = wait_for("the listener", lambda: home.published_port(tmp_path / "var"), 600)
            to = Destination(ae_title="CXR_WORKER", host="127.0.0.1", port=port)
            (sent,) = scu.send_files([dicom.write(dicom.chest(), tmp_path)], to, "SENDER")
            assert sent.status == 0

            def reported() -> bool:
                asked = [program, "results", "--format", "csv"]
                listed = subprocess.run(
                    asked, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
                )
                return "reported" in listed.stdout

            wait_for("the report", reported, 600)
        finally:
            up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
