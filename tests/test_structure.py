"""The arrows between the packages, and what must never be loaded where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "worker": {"dicom_io", "model", "db"},
    "training": {"dicom_io", "model"},
    "dicom_io": set(),
    "model": set(),
    "db": set(),
}


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    forbidden = set(MAY_IMPORT) - {package} - MAY_IMPORT[package] | {"tests"}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for line, name in _imports(file)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_the_leaves_never_read_the_environment() -> None:
    wrong = [
        str(file.relative_to(ROOT))
        for package in ("dicom_io", "db")
        for file in (ROOT / package).rglob("*.py")
        if "os.environ" in file.read_text()
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "modules",
    [
        "worker.listener",
        "worker.cli.query, worker.health",
        "worker.cli.admin",
        "worker.cli.transfer",
        "worker.up",
        "worker.reconcile",
        "worker.tasks",
        "worker.web.server",
        "worker.metrics",
    ],
)
def test_tensorflow_is_loaded_only_by_who_infers(modules: str) -> None:
    code = (
        f"import sys, {modules}\n"
        "loaded = {'tensorflow', 'keras', 'jax', 'torch'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


# Each costs a process 20 to 60 MB.
@pytest.mark.parametrize(
    ("modules", "not_needed"),
    [
        ("worker.listener", {"cv2", "highdicom", "scipy"}),
        ("worker.tasks, worker.infer, worker.challenger", {"pydicom", "highdicom", "pynetdicom"}),
        ("worker.web.server", {"highdicom", "pynetdicom"}),
    ],
)
def test_a_process_loads_no_library_that_it_has_no_use_for(
    modules: str, not_needed: set[str]
) -> None:
    code = (
        f"import sys, {modules}\n"
        f"loaded = {not_needed!r} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("command", ["results", "show 1.2.3", "status"])
def test_commands_that_query_load_neither_tensorflow_nor_a_dicom_library(
    command: str, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from worker.cli import main\n"
        "try:\n"
        f"    main({command.split()!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "loaded = {'tensorflow', 'keras', 'cv2', 'pydicom', 'pynetdicom'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    env = {"CXR_HOME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    upgrade = [sys.executable, "-m", "worker.cli", "db", "upgrade"]
    subprocess.run(upgrade, check=True, cwd=tmp_path, env=env, timeout=60)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env, timeout=60)
