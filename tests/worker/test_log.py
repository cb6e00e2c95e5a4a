import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from worker import log


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("cxr")
    before = (root.handlers[:], root.level, own.level)
    with warnings.catch_warnings():
        yield
    root.handlers[:], level, own_level = before
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
