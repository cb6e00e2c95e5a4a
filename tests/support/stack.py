"""deploy/compose.yaml brought up for real, under a project of its own, on ports of its own."""

import base64
import json
import os
import random
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dicom_io import scu
from dicom_io.destination import Destination
from tests.support.system import wait_for

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = os.environ.get("POSTGRES_IMAGE", "postgres:16-bookworm")  # compose reads it as well
BASE_IMAGES = ("python:3.11-slim-bookworm", POSTGRES, "redis:7.2-bookworm",
               "orthancteam/orthanc:latest")  # fmt: skip
OURS = ("listener", "dicom-worker", "inference", "web")
STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def docker(*arguments: object, **options: Any) -> str:
    """Run docker to its end; returns its output, AssertionError with what it said if it failed."""
    argv = ["docker", *(str(part) for part in arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr[-3000:]}"
    return done.stdout


def require_engine() -> None:
    """Skip, with a reason, where there is no engine or no base image."""
    if shutil.which("docker") is None:
        pytest.skip("no container engine: docker is not installed")
    for argv in (["info"], ["compose", "version"]):
        if subprocess.run(["docker", *argv], capture_output=True, check=False).returncode:
            pytest.skip(f"no container engine: docker {' '.join(argv)} fails")
    for image in BASE_IMAGES:
        argv = ["docker", "image", "inspect", image]
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            continue
        pulled = subprocess.run(["docker", "pull", "-q", image], capture_output=True, check=False)
        if pulled.returncode:
            pytest.skip(f"the engine cannot get {image}")


class Stack:
    """One compose project in a copy of deploy/."""

    def __init__(self, folder: Path, project: str, tag: str, **settings: object) -> None:
        self.folder = folder / "deploy"
        self.project = project
        ignored = shutil.ignore_patterns("secrets", "config", ".env")
        shutil.copytree(ROOT / "deploy", self.folder, ignore=ignored)
        self.lines = {
            **{f"PUBLISH_{name}": "127.0.0.1:0" for name in
               ("DICOM", "WEB", "ORTHANC", "ORTHANC_DICOM")},
            **{f"CXR_{name}": value for name, value in settings.items()},
        }  # fmt: skip
        self.use(tag)
        subprocess.run([self.folder / "make-secrets.sh"], check=True, capture_output=True)

    def use(self, tag: str) -> None:
        """Write .env: env.example with our lines after it, which win."""
        lines = {**self.lines, "IMAGE_TAG": tag}
        text = (self.folder / "env.example").read_text()
        text += "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.folder / ".env").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "COMPOSE_PROJECT_NAME": self.project}

    def compose(self, *arguments: object, **options: Any) -> str:
        return docker("compose", *arguments, cwd=self.folder, env=self.environment, **options)

    def script(self, name: str, *arguments: object) -> str:
        argv = [str(self.folder / name), *(str(part) for part in arguments)]
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def up(self, *arguments: object) -> None:
        self.compose("up", "--detach", "--no-build", *arguments)

    def wait_until_healthy(self, within_s: float = 900) -> None:
        wait_for("every container's health", self._all_healthy, within_s)

    def _all_healthy(self) -> bool:
        states = self.containers()
        running = {state["Service"] for state in states if state["State"] == "running"}
        ill = [
            it for it in states if it["State"] != "exited" and it["Health"] not in ("healthy", "")
        ]
        return running >= {*OURS, "postgres", "redis", "orthanc"} and not ill

    def containers(self) -> list[dict[str, Any]]:
        listed = self.compose("ps", "--all", "--format", "json")
        return [json.loads(line) for line in listed.splitlines()]

    def kill(self, service: str) -> None:
        """End a container without warning. Ours start again by their restart policy, the others,
        whose first process the kernel shields from within, by hand after a moment."""
        victims = [it["Name"] for it in self.containers() if it["Service"] == service]
        name = random.choice(victims)
        say(f"kill -9: {name}")
        if service in OURS:
            subprocess.run(
                ["docker", "exec", name, "sh", "-c", "kill -9 -1"], capture_output=True, check=False
            )
        else:
            docker("kill", name)
            time.sleep(2)
            docker("start", name)

    def address(self, service: str, port: int) -> tuple[str, int]:
        host, _, published = self.compose("port", service, port).strip().rpartition(":")
        return host, int(published)

    def url(self, service: str, port: int) -> str:
        host, published = self.address(service, port)
        return f"http://{host}:{published}"

    def get(self, url: str, authorization: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(url, body, {"Authorization": authorization})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def orthanc(self, path: str, body: bytes | None = None) -> Any:
        """Orthanc's REST API, by whatever port it has at the moment."""
        key = base64.b64encode(f"orthanc:{self.secret('orthanc_password')}".encode()).decode()
        return self.get(self.url("orthanc", 8042) + path, f"Basic {key}", body)

    def api(self, path: str) -> Any:
        return self.get(self.url("web", 8080) + path, f"Bearer {self.secret('web_token')}")

    def store(self, path: Path) -> None:
        """C-STORE to Orthanc, by its published port."""
        host, port = self.address("orthanc", 4242)
        to = Destination(ae_title="ORTHANC", host=host, port=port)
        (result,) = scu.send_files([path], to, calling_ae_title="MODALITY")
        assert result.status == 0, result

    def sql(self, query: str) -> list[str]:
        """Rows as text, columns separated by |."""
        argv = ("exec", "-T", "postgres", "psql", "-U", "cxr", "-d", "cxr", "-Atc", query)
        return self.compose(*argv).splitlines()

    def results(self) -> list[str]:
        return self.sql("SELECT * FROM study_results ORDER BY study_instance_uid")

    def in_orthanc(self) -> dict[str, list[str]]:
        """Modality of each instance, by Study Instance UID."""
        found: dict[str, list[str]] = {}
        for study in self.orthanc("/studies?expand"):
            modalities = found.setdefault(study["MainDicomTags"]["StudyInstanceUID"], [])
            for series in study["Series"]:
                held = self.orthanc(f"/series/{series}")
                modalities += [held["MainDicomTags"]["Modality"]] * len(held["Instances"])
        return {study: sorted(modalities) for study, modalities in found.items()}

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "60")

    def down(self, *arguments: object) -> None:
        self.compose("--profile", "*", "down", "--timeout", "30", *arguments)

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of this project that are still there."""
        mine = f"label=com.docker.compose.project={self.project}"
        return [
            line
            for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
            for line in docker(*kind, "--quiet", "--filter", mine).split()
        ]
