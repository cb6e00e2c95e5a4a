import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from worker import log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("cxr")
    before = (root.handlers[:], root.level, own.level)
    hooks = (sys.excepthook, threading.excepthook)
    with warnings.catch_warnings():
        yield
    root.handlers[:], level, own_level = before
    sys.excepthook, threading.excepthook = hooks
    root.setLevel(level)
    own.setLevel(own_level)


def test_a_json_line_carries_the_uid_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", "json")
    log.get("test").info("stored", extra={"sop_instance_uid": "1.2.3"})
    entry = json.loads(capsys.readouterr().err)
    assert (entry["message"], entry["sop_instance_uid"]) == ("stored", "1.2.3")
    assert (entry["level"], entry["logger"]) == ("INFO", "cxr.test")


def test_libraries_say_nothing_below_warning_even_at_debug(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("DEBUG", "text")
    logging.getLogger("pynetdicom.acse").info("data set of Canary")
    logging.getLogger("pydicom").warning("unknown encoding Canary")
    log.get("test").debug("ours")
    said = capsys.readouterr().err
    assert "Canary" not in said
    assert "DEBUG   test: ours" in said


def test_an_error_is_told_by_type_and_place_and_never_by_its_text() -> None:
    try:
        raise ValueError("Canary^Yellow")
    except ValueError as error:
        said = log.where(error)
    assert said.startswith("ValueError at test_log.py:")
    assert "Canary" not in said


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_of_an_exception_that_a_library_logs_only_type_and_places_are_shown(
    capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    log.configure("DEBUG", fmt)
    try:
        raise ValueError("Canary^Yellow")
    except ValueError as error:
        logging.getLogger("celery.app.trace").exception("raised unexpected: %r", error)
        log.get("test").exception("ours")
    first, second = capsys.readouterr().err.splitlines()
    assert "ValueError at test_log.py:" in first
    assert "ours: ValueError at test_log.py:" in second
    assert "Canary" not in first + second


def test_a_peers_text_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", "text")
    log.get("test").info("%s", "1.2\n2026 ERROR", extra={"sop_instance_uid": "1.2\r\nforged"})
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("where", ["run()", "threading.Thread(target=run).start()"])
def test_a_crash_reports_its_places_and_not_its_text(where: str) -> None:
    code = (
        "import threading\n"
        "from worker import log\n"
        "log.configure('DEBUG', 'text')\n"
        "def run():\n    int('Canary^Yellow')\n"
        f"{where}\n"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert "uncaught: ValueError at <string>:5 run" in done.stderr
    assert "Canary" not in done.stderr + done.stdout
