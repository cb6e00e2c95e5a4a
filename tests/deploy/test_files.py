"""The files of deploy/ agree with the code and with each other; no engine is needed."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from db import schema
from db.engine import Database
from dicom_io.tls import server_context
from model.bundle import read_bundle, shipped_bundle_path
from tests.support.peers import tool
from tests.support.tls import Authority
from worker.home import spool_folder
from worker.metrics import Collector
from worker.settings import PREFIX, SECRETS, Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
OURS = {"migrate", "listener", "dicom-worker", "inference", "web"}


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def _compose(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return found


def test_env_example_has_every_setting_in_the_codes_own_words() -> None:
    spec = importlib.util.spec_from_file_location("render_env", DEPLOY / "render_env.py")
    assert spec is not None and spec.loader is not None
    render_env = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render_env)
    assert (DEPLOY / "env.example").read_text() == render_env.render(), "run `make env-example`"


def test_compose_reads_no_variable_that_env_example_does_not_explain() -> None:
    explained = set(re.findall(r"^#?([A-Z_]+)=", (DEPLOY / "env.example").read_text(), re.M))
    for file in DEPLOY.glob("compose*.yaml"):
        assert set(re.findall(r"\$\{([A-Z_]+)", file.read_text())) <= explained, file.name


@pytest.mark.parametrize("name", ["listener", "base", "cpu"])
def test_images_install_what_is_pinned_and_tested(name: str) -> None:
    pinned, image = _pins("requirements.lock"), _pins(f"deploy/locks/{name}.txt")
    assert image.items() <= pinned.items(), "run `make image-locks`"


def test_the_listeners_image_has_what_it_loads_and_no_pixels() -> None:
    image = set(_pins("deploy/locks/listener.txt"))
    assert not image & {"tensorflow", "tensorflow-cpu", "keras", "numpy", "opencv-python-headless"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.split(r"[\[<>= ]", it)[0] for it in project["project"]["dependencies"]}
    assert {re.split(r"[\[]", it)[0] for it in project["dependency-groups"]["listener"]} <= names
    owners = importlib.metadata.packages_distributions()
    absent = {
        module
        for module, of in owners.items()
        if not {it.lower().replace("_", "-") for it in of} & (image | {"cxr-worker"})
    }
    code = f"""
import sys

class Absent:
    def find_spec(self, name, *_):
        if name in {absent}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import alembic.command, db.schema, worker.cli.serve, worker.listener, worker.probe
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_dockerfile_is_of_this_version_and_needs_nothing_unusual() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in text
    assert "syntax=" not in text
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.MULTILINE)
    assert {"listener", "dicom-worker", "inference-cpu", "inference-gpu", "web"} <= {
        stage for _, stage in stages
    }
    assert {base for base, _ in stages} - {stage for _, stage in stages} == {
        "python:3.11-slim-bookworm"
    }


def test_every_service_of_ours_is_confined() -> None:
    services = _compose()["services"]
    services |= {"other": _compose("compose.inference.yaml")["services"]["inference"]}
    for name in (*OURS, "other", "postgres", "redis"):
        service = services[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_only_who_speaks_dicom_is_on_that_side_and_data_has_no_way_out() -> None:
    compose = _compose()
    on = {name: set(it["networks"]) for name, it in compose["services"].items()}
    assert compose["networks"]["data"] == {"internal": True}
    assert {name for name in OURS if "dicom" in on[name]} == {"listener", "dicom-worker"}
    assert on["postgres"] == on["redis"] == on["inference"] == {"data"}
    assert on["orthanc"] == {"dicom"}


def test_secrets_are_files_that_the_script_makes_once(tmp_path: Path) -> None:
    script = shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    subprocess.run([script], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    wanted = {Path(it["file"]).name for it in _compose()["secrets"].values()}
    assert wanted <= set(made)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert len(set(made.values())) == len(made)
    subprocess.run([script], check=True, capture_output=True)
    assert made == {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    text = (DEPLOY / "compose.yaml").read_text()
    for name in SECRETS:
        assert f"{PREFIX}{name.upper()}_FILE: /run/secrets/{name}" in text


def _listener_has_tls(environment: dict[str, str], files: dict[str, Path], folder: Path) -> None:
    """Settings and listener take these variables, the files being what openssl has made."""
    settings = Settings.from_env(environment)
    assert settings.listener_tls_port == 2762
    assert settings.listener_plain
    authority = Authority(folder)
    listener = authority.issue("listener")
    made = {
        "listener.pem": listener.cert,
        "listener-key.pem": listener.key,
        "ca.pem": authority.cert,
    }
    named = [settings.listener_tls_cert, settings.listener_tls_key, settings.listener_tls_ca]
    cert, key, ca = (made[files[str(path)].name] for path in named)
    server_context(cert, key, ca)


def test_compose_gives_the_listener_alone_its_tls_port_and_files(tmp_path: Path) -> None:
    added = _compose("compose.tls.yaml")
    assert set(added["services"]) == {"listener"}
    listener = added["services"]["listener"]
    assert listener["ports"] == ["${PUBLISH_DICOM_TLS:-2762}:2762"]
    assert set(listener["secrets"]) == set(added["secrets"])
    assert not set(added["secrets"]) & set(_compose()["secrets"])
    files = {f"/run/secrets/{it}": Path(of["file"]) for it, of in added["secrets"].items()}
    assert {path.parent.name for path in files.values()} == {"secrets"}
    _listener_has_tls(listener["environment"], files, tmp_path)


@pytest.mark.parametrize(
    "name", ["namespace.yaml", "spool.yaml", "inference.yaml", "services.yaml", "network.yaml"]
)
def test_kubernetes_knows_every_field_of_the_manifests(name: str) -> None:
    for document in yaml.safe_load_all((DEPLOY / "kubernetes" / "base" / name).read_text()):
        _validate(document)


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_kustomize_puts_the_manifests_together(overlay: str) -> None:
    argv = [tool("kubectl"), "kustomize", DEPLOY / "kubernetes" / overlay]
    rendered = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    documents = list(yaml.safe_load_all(rendered.stdout))
    for document in documents:
        _validate(document)
    assert {"StatefulSet", "Deployment", "PodDisruptionBudget", "NetworkPolicy"} <= {
        it["kind"] for it in documents
    }
    assert ("nvidia.com/gpu" in rendered.stdout) == (overlay == "gpu")


def _fenced(word: str) -> str:
    """The YAML block of the Kubernetes page that has this word."""
    page = (DEPLOY / "kubernetes" / "README.md").read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    (block,) = (it for it in blocks if word in it)
    return textwrap.dedent(block)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What the page's overlay renders to, with files of settings and TLS, by kind and name."""
    folder = tmp_path_factory.mktemp("my-site")
    near = os.path.relpath(DEPLOY, folder)
    parts = [_fenced("resources:"), _fenced("secretGenerator:"), _fenced("op: remove")]
    parts.append(f"components: [{near}/kubernetes/tls]\n")
    (folder / "kustomization.yaml").write_text("".join(parts).replace("../deploy", near))
    for name in ("destinations.toml", "hospital-ca.pem"):
        (folder / name).touch()
    argv = [tool("kubectl"), "kustomize", folder]
    rendered = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    documents = list(yaml.safe_load_all(rendered.stdout))
    for document in documents:
        _validate(document)
    return {(it["kind"], it["metadata"]["name"]): it for it in documents}


def test_every_container_of_kubernetes_sees_the_files_that_settings_name(
    site: dict[tuple[str, str], dict[str, Any]],
) -> None:
    (config,) = (name for kind, name in site if kind == "Secret")
    assert config.startswith("cxr-worker-config-")  # by its content: a change renews the pods
    for workload in (site["StatefulSet", "spool"], site["Deployment", "inference"]):
        volumes = {it["name"]: it for it in workload["spec"]["template"]["spec"]["volumes"]}
        assert volumes["config"]["secret"] == {"secretName": config, "optional": True}
        for container in _containers(workload):
            assert _mounts(container)["/etc/cxr-worker"] == "config", container["name"]


def test_kubernetes_gives_the_listener_alone_its_tls_port_and_files(
    site: dict[tuple[str, str], dict[str, Any]], tmp_path: Path
) -> None:
    assert site["Service", "dicom"]["spec"]["ports"] == [
        {"name": "dicom-tls", "port": 2762, "targetPort": "dicom-tls"}
    ]
    (rule,) = site["NetworkPolicy", "spool"]["spec"]["ingress"]
    assert {it["port"] for it in rule["ports"]} == {"dicom-tls", "web", "metrics"}
    spool, folder = site["StatefulSet", "spool"], "/run/secrets/listener-tls"
    (listener,) = (it for it in _containers(spool) if folder in _mounts(it))
    assert listener["name"] == "listener"
    assert {"name": "dicom-tls", "containerPort": 2762} in listener["ports"]
    page = (DEPLOY / "kubernetes" / "README.md").read_text()
    keys = re.findall(r"--from-file=([a-z.]+)=([a-z-]+\.pem)", page)
    environment = {it["name"]: it["value"] for it in listener["env"] if "_TLS_" in it["name"]}
    _listener_has_tls(environment, {f"{folder}/{key}": Path(pem) for key, pem in keys}, tmp_path)


def _mounts(container: dict[str, Any]) -> dict[str, str]:
    return {it["mountPath"]: it["name"] for it in container["volumeMounts"]}


def _validate(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.31", strict=True)
    for container in _containers(document):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] and container["resources"]["limits"]


def _containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    found: list[dict[str, Any]] = [*pod.get("containers", []), *pod.get("initContainers", [])]
    return found


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    verify = tool("systemd-analyze")
    shutil.copytree(DEPLOY / "systemd", tmp_path / "units")
    units = sorted((tmp_path / "units").glob("*.service"))
    assert len(units) == 6
    for unit in units:  # the program is not installed here
        unit.write_text(unit.read_text().replace("/opt/cxr-worker/bin/cxr-worker", "/bin/true"))
    done = subprocess.run(
        [verify, "verify", *units],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_alerts_speak_of_metrics_that_there_are(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'cxr.db'}")
    schema.upgrade(database)
    settings = Settings.model_validate({"home_dir": tmp_path})
    spool_folder(tmp_path).mkdir()
    families = Collector(settings, database, read_bundle(shipped_bundle_path())).collect()
    there = {family.name for family in families}
    database.dispose()
    for rule in _alerts():
        named = set(re.findall(r"\bcxr_\w+", rule["expr"]))
        families_named = {re.sub("_(total|bucket)$", "", name) for name in named}
        assert families_named <= there, rule["alert"]


def test_prometheus_accepts_its_configuration() -> None:
    argv = [tool("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml"]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


def test_alerts_fire_when_they_should_and_not_before() -> None:
    script = Path(__file__).with_name("alerts_test.yml")
    names = {it["alert"] for it in _alerts()}
    tested = yaml.safe_load(script.read_text())["tests"]
    assert {it["alertname"] for test in tested for it in test["alert_rule_test"]} == names
    argv = [tool("promtool"), "test", "rules", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def _alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]
