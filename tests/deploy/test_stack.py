"""`make deploy-test`: the images and deploy/compose.yaml on a real engine, from nothing to nothing.

The tests are one story and run in this order: the first builds and brings up, each goes on with
what the one before has left. DEPLOY_SEED chooses who is killed when.
"""

import os
import random
import shutil
import subprocess
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from tests.support import dicom
from tests.support.stack import OURS, ROOT, Stack, docker, require_engine, say
from tests.support.system import wait_for

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3600)]
STUDIES = 20
WITHIN_S = 1200
SIZE_MAX_MB = {"listener": 300, "inference-cpu": 1600}
VICTIMS = (*OURS, "postgres", "redis")
NOW, NEXT = "deploy-test", "deploy-test-next"


def build(folder: Path, tag: str) -> dict[str, float]:
    """`make images` of a tree; returns the seconds that each took."""
    took = {}
    for target in ("listener", "dicom-worker", "web", "inference-cpu"):
        started = time.monotonic()
        argv = ["make", "images", f"IMAGES={target}", f"IMAGE_TAG={tag}"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        took[target] = time.monotonic() - started
    return took


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    require_engine()
    for target, took in build(ROOT, NOW).items():
        say(f"built {target} in {took:.1f} s: {size_mb(target, NOW):.0f} MB")
    made = Stack(
        tmp_path_factory.mktemp("stack"),
        f"cxr-deploy-test-{os.getpid()}",
        NOW,
        STUDY_SETTLE_S=2,
        MAX_STUDY_AGE_DAYS=100_000,
        SPOOL_RESERVE_MB=100,
        BAND_REVIEW_FROM=0.0001,  # every study gets a picture of where the model looked
    )
    try:
        yield made
    finally:
        made.down("--volumes")
        assert made.leftovers() == []
        say("everything is down: no container, volume or network is left")


@pytest.fixture(scope="module")
def sent(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Twenty studies in Orthanc, half by DIMSE, half by REST, while containers are killed."""
    stack.up()
    stack.wait_until_healthy()
    say("up, and every container is healthy")
    began = stack.orthanc("/system") and time.gmtime()
    folder = tmp_path_factory.mktemp("studies")
    draw = random.Random(int(os.environ.get("DEPLOY_SEED", "8")))
    victims = draw.sample(VICTIMS, len(VICTIMS))
    studies = {}
    with ThreadPoolExecutor(1) as killer:
        for number in range(STUDIES):
            ds = dicom.chest(pixels=dicom.chest_pixels(512, seed=number), PatientID=f"P{number}")
            path = dicom.write(ds, folder)
            if number % 2:
                stack.orthanc("/instances", path.read_bytes())
            else:
                stack.store(path)
            studies[str(ds.StudyInstanceUID)] = ds
            if number == STUDIES // 2:
                stack.up("--no-recreate", "--scale", "inference=3")
                say("scaled to 3 inference workers")
            if number % 3 == 0 and victims:
                killer.submit(stack.kill, victims.pop())
            time.sleep(draw.uniform(0.5, 3))
    say(f"{len(studies)} studies are in Orthanc, half by DIMSE, half by REST")
    stack.wait_until_healthy()
    # Orthanc only logs a forward that failed.
    said = resend(stack, time.strftime("%Y-%m-%dT%H:%M:%S", began))
    say(f"resend.py: {said.splitlines()[-1]}")
    return studies


def resend(stack: Stack, since: str) -> str:
    key = {"ORTHANC_USER": "orthanc", "ORTHANC_PASSWORD": stack.secret("orthanc_password")}
    script = stack.folder / "orthanc" / "resend.py"
    argv = ["python3", script, stack.url("orthanc", 8042), "--since", since]
    done = subprocess.run(
        argv, env=os.environ | key, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def size_mb(target: str, tag: str) -> float:
    return int(docker("image", "inspect", "-f", "{{.Size}}", f"cxr-worker/{target}:{tag}")) / 1e6


def wait_until_complete(stack: Stack, studies: dict[str, Dataset]) -> None:
    """One report and one picture of each study, in the study whose image it is about."""

    def complete() -> bool:
        try:
            held = stack.in_orthanc()
        except OSError:  # a container is just starting again
            return False
        return all(held.get(uid) == ["CR", "OT", "SR"] for uid in studies)

    try:
        wait_for("a report and a picture in every study", complete, WITHIN_S)
    except AssertionError:
        print(stack.logs())
        print("\n".join(stack.results()))
        raise


def test_images_are_small_and_confined(stack: Stack) -> None:
    for target, limit in SIZE_MAX_MB.items():
        assert size_mb(target, NOW) < limit
    image = f"cxr-worker/listener:{NOW}"
    assert docker("image", "inspect", "-f", "{{.Config.User}}", image).strip() == "10001:10001"
    probe = "import importlib.util as u; print(u.find_spec('tensorflow'), u.find_spec('numpy'))"
    run = ("run", "--rm", "--entrypoint", "python", image, "-c", probe)
    assert docker(*run).split() == ["None", "None"]
    bill = docker("run", "--rm", "--entrypoint", "cat", image, "/opt/venv/sbom.cdx.json")
    assert '"bomFormat": "CycloneDX"' in bill and '"pynetdicom"' in bill


def test_a_report_and_a_picture_of_every_study_reach_orthanc(
    stack: Stack, sent: dict[str, Dataset]
) -> None:
    wait_until_complete(stack, sent)
    say(f"{len(sent)} reports and {len(sent)} pictures are in Orthanc, each in its study")
    stack.up("--no-recreate", "--scale", "inference=1")
    say("scaled back to 1 inference worker")
    for study in stack.orthanc("/studies?expand"):
        for series in study["Series"]:
            for instance in stack.orthanc(f"/series/{series}")["Instances"]:
                tags = stack.orthanc(f"/instances/{instance}/simplified-tags")
                assert tags["PatientID"] == sent[tags["StudyInstanceUID"]].PatientID
                if tags["Modality"] == "SR":
                    (evidence,) = tags["CurrentRequestedProcedureEvidenceSequence"]
                    assert evidence["StudyInstanceUID"] == tags["StudyInstanceUID"]


def test_every_study_has_its_row_and_the_page_shows_it(
    stack: Stack, sent: dict[str, Dataset]
) -> None:
    rows = stack.sql(
        "SELECT study_instance_uid, state, delivered_at IS NOT NULL FROM study_results"
    )
    assert sorted(rows) == sorted(f"{uid}|reported|t" for uid in sent)
    stack.wait_until_healthy()
    with urllib.request.urlopen(stack.url("web", 8080), timeout=30) as page:
        assert page.status == 200 and page.url.endswith("/login")
    listed = stack.api("/api/v1/studies?limit=100")
    assert {it["study_instance_uid"] for it in listed["studies"]} == set(sent)
    say(f"{len(rows)} rows in PostgreSQL; page and API answer")


def test_a_stopped_container_ends_by_itself_in_time(stack: Stack) -> None:
    for service in OURS:
        started = time.monotonic()
        stack.compose("stop", service)
        (state,) = [it for it in stack.containers() if it["Service"] == service]
        assert state["ExitCode"] != 137, f"{service} had to be killed"
        say(f"{service} ended {time.monotonic() - started:.1f} s after SIGTERM")
    stack.up()
    stack.wait_until_healthy()


def test_nothing_is_lost_when_the_whole_stack_restarts(
    stack: Stack, sent: dict[str, Dataset], tmp_path: Path
) -> None:
    before, in_orthanc = stack.results(), stack.in_orthanc()
    stack.down()
    stack.up()
    stack.wait_until_healthy()
    assert (stack.results(), stack.in_orthanc()) == (before, in_orthanc)
    say("whole stack down and up with its volumes: the same results, the same objects")
    add(stack, sent, tmp_path)


def add(stack: Stack, sent: dict[str, Dataset], folder: Path) -> str:
    """One more study goes the whole way."""
    ds = dicom.chest(pixels=dicom.chest_pixels(512, seed=len(sent)), PatientID=f"P{len(sent)}")
    stack.orthanc("/instances", dicom.write(ds, folder).read_bytes())
    sent[str(ds.StudyInstanceUID)] = ds
    wait_until_complete(stack, sent)
    say("one more study: reported")
    return str(ds.StudyInstanceUID)


def test_inference_runs_on_a_machine_of_its_own(
    stack: Stack, sent: dict[str, Dataset], tmp_path: Path
) -> None:
    """A second project that knows the first by address alone stands for another machine."""
    gateway = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
    stack.lines |= {f"PUBLISH_{it}": f"{gateway.strip()}:0" for it in ("DATABASE", "BROKER")}
    stack.use(NOW)
    files = ("-f", "compose.yaml", "-f", "compose.cluster.yaml")
    # Healthy, as Orthanc forwards a study once and only logs that nobody listened.
    stack.compose(*files, "up", "-d", "--no-build", "--wait", "--scale", "inference=0")
    other = Stack(tmp_path / "other", f"{stack.project}-other", NOW, BAND_REVIEW_FROM=0.0001)
    for secret, service, port in (
        ("database_url", "postgres", 5432),
        ("broker_url", "redis", 6379),
    ):
        host, published = stack.compose(*files, "port", service, port).strip().rsplit(":", 1)
        url = stack.secret(secret).replace(f"{service}:{port}", f"{host}:{published}")
        (other.folder / "secrets" / secret).write_text(url)
    there = ("-f", "compose.inference.yaml")
    try:
        other.compose(*there, "up", "-d", "--no-build", "--scale", "inference=2")
        add(stack, sent, tmp_path)
        say("reported by inference workers of another project, over published ports")
    finally:
        other.compose(*there, "down")
        assert other.leftovers() == []
    stack.up("--scale", "inference=1", "--force-recreate")
    docker("network", "rm", f"{stack.project}_cluster")
    stack.wait_until_healthy()


def test_a_backup_restored_into_an_empty_stack_gives_the_same_results(
    stack: Stack, sent: dict[str, Dataset], tmp_path: Path
) -> None:
    everything = ("SELECT * FROM instance_results ORDER BY sop_instance_uid",
                  "SELECT * FROM deliveries ORDER BY 1, 2")  # fmt: skip
    stack.script("backup.sh", tmp_path / "backup")
    before = [stack.results(), *(stack.sql(query) for query in everything)]
    stack.down()
    empty = Stack(tmp_path / "empty", f"{stack.project}-empty", NOW)
    try:
        empty.script("restore.sh", tmp_path / "backup")
        assert [empty.results(), *(empty.sql(query) for query in everything)] == before
        empty.up("web", "listener")
        wait_for("the restored page", lambda: studies_shown(empty) == set(sent), 120)
        uid = next(iter(sent))
        listing = ("exec", "-T", "listener", "sh", "-c", "find spool/files -name '*.dcm' | wc -l")
        assert int(empty.compose(*listing)) >= len(sent)
        say(f"restored into an empty stack: {len(before[0])} rows of study_results, all the same")
        assert uid in studies_shown(empty)
    finally:
        empty.down("--volumes")
        assert empty.leftovers() == []
    stack.up()
    stack.wait_until_healthy()


def studies_shown(stack: Stack) -> set[str]:
    try:
        listed = stack.api("/api/v1/studies?limit=100")
    except (OSError, AssertionError):
        return set()
    return {it["study_instance_uid"] for it in listed["studies"]}


def test_an_upgrade_serves_what_was_there_and_can_be_rolled_back(
    stack: Stack, sent: dict[str, Dataset], tmp_path: Path
) -> None:
    """The next version is this one with a migration more, as the next release will be."""
    tree = next_version(tmp_path / "next")
    for target, took in build(tree, NEXT).items():
        say(f"code changed: rebuilt {target} in {took:.1f} s")
    before = stack.results()
    stack.script("backup.sh", tmp_path / "backup")

    stack.use(NEXT)
    stack.up()
    stack.wait_until_healthy()
    assert stack.sql("SELECT version_num FROM alembic_version") == ["9999"]
    assert stack.results() == before
    say("upgraded: schema 9999, the same results")
    arrived = add(stack, sent, tmp_path)

    stack.use(NOW)  # the older version refuses the newer schema rather than harm it
    old = ["docker", "compose", "run", "--rm", "--no-deps", "listener"]
    refused = subprocess.run(
        old, cwd=stack.folder, env=stack.environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "the database is at schema 9999" in refused.stderr

    stack.down()
    docker("volume", "rm", f"{stack.project}_database")
    stack.script("restore.sh", tmp_path / "backup", "database")
    assert stack.results() == before
    stack.up()
    stack.wait_until_healthy()
    # What came after the back-up lies in the spool: the listener adopts it.
    wait_for("the study that came in between", lambda: is_reported(stack, arrived), WITHIN_S)
    assert [row for row in stack.results() if arrived not in row] == before
    say("rolled back: the results of before, and what came in between is reported anew")
    docker(
        "image", "rm", *(f"cxr-worker/{it}:{NEXT}" for it in (*OURS[:2], "web", "inference-cpu"))
    )


def is_reported(stack: Stack, uid: str) -> bool:
    query = f"SELECT state FROM study_results WHERE study_instance_uid = '{uid}'"
    return stack.sql(query) == ["reported"]


def next_version(folder: Path) -> Path:
    """This tree with a migration more."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.split():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    schema = folder / "db" / "schema.py"
    current = schema.read_text().split('VERSION = "')[1].split('"')[0]
    schema.write_text(schema.read_text().replace(f'VERSION = "{current}"', 'VERSION = "9999"'))
    (folder / "db" / "migrations" / "versions" / "9999_next.py").write_text(
        f'''"""A column more."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{current}"
branch_labels = depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("next_version_note", sa.Text))
'''
    )
    pyproject = folder / "pyproject.toml"
    version = tomllib.loads(pyproject.read_text())["project"]["version"]
    pyproject.write_text(pyproject.read_text().replace(f'"{version}"', '"9999.0"', 1))
    return folder
