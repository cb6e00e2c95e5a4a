"""What the documents say is what the code does."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from worker.cli import cli
from worker.settings import PREFIX, SECRETS, Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])


def _setting_rows() -> dict[str, str]:
    rows = re.findall(r"^\| `(CXR_\w+)` \|.*?\| (.*) \|$", _read("docs/SETTINGS.md"), re.MULTILINE)
    return dict(rows)


def _read(name: str) -> str:
    return (ROOT / name).read_text()


def test_every_setting_is_documented_in_the_codes_own_words() -> None:
    fields = Settings.model_fields
    assert _setting_rows() == {
        PREFIX + name.upper(): field.description for name, field in fields.items()
    }


def test_no_page_names_a_setting_that_does_not_exist() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    for page in PAGES:
        named = set(re.findall(r"\bCXR_[A-Z_]+[A-Z]\b", page.read_text()))
        assert named - known <= {"CXR_WORKER", "CXR_SEND"}, page.name


def test_every_command_the_readme_shows_exists() -> None:
    known = set(cli.list_commands(None))  # type: ignore[arg-type]  # it asks no context
    shown = set(re.findall(r"(?:^|`|0 )cxr-worker ([a-z]+)", _read("README.md"), re.M))
    assert shown <= known
    assert {"up", "results", "show", "status", "send", "predict", "check"} <= shown


def test_every_promise_names_tests_and_files_that_exist() -> None:
    page = _read("docs/RELIABILITY.md")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 20
    for path, test in named:
        assert re.search(rf"^def {test}\(", _read(path), re.MULTILINE), f"{path}::{test}"
    for path in re.findall(r"`((?:worker|db|dicom_io|model)/[\w/]+\.py)`", page):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_direct_dependency_is_explained() -> None:
    text = _read("docs/ARCHITECTURE.md")
    explained = {
        name.strip()
        for row in re.findall(r"^\| ([a-z0-9-, ]+) \|", text, re.MULTILINE)
        for name in row.split(",")
    }
    assert _dependencies() - explained == set()


def _dependencies() -> set[str]:
    project = tomllib.loads(_read("pyproject.toml"))
    listed = project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        listed += extra
    listed += project["dependency-groups"]["dev"]
    return {re.split(r"[\[<>= ;]", name)[0] for name in listed}


def test_nothing_that_is_committed_names_a_registry_host() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert "index-url" not in _read("requirements.lock")
    for name in tracked:
        if name.endswith((".lock", ".toml", "Makefile", ".yml", ".json")):
            assert "extra-index" not in _read(name), name
