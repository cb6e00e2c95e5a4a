"""What root makes in the folder of another account: that account can go on with it."""

import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from db import ownership
from db.engine import Database

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of another account; pytest's own are entered by nobody else."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def _write(folder: Path) -> None:
    database = Database(f"sqlite:///{folder / 'cxr.db'}")
    with database.begin() as tx:
        tx.conn.execute(sa.text("CREATE TABLE IF NOT EXISTS counted (one INTEGER)"))
        tx.conn.execute(sa.text("INSERT INTO counted VALUES (1)"))
    database.dispose()


def _write_as_nobody(folder: Path) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    _write(folder)


def test_a_database_that_root_made_is_written_by_the_folders_owner(theirs: Path) -> None:
    _write(theirs)
    assert {path.stat().st_uid for path in theirs.iterdir()} == {NOBODY}
    account = multiprocessing.get_context("fork").Process(target=_write_as_nobody, args=[theirs])
    account.start()
    account.join(60)
    assert account.exitcode == 0
    _write(theirs)
    assert {path.stat().st_uid for path in theirs.iterdir()} == {NOBODY}


def test_what_was_there_before_is_not_given_away_nor_what_a_link_leads_to(
    theirs: Path, tmp_path: Path
) -> None:
    (theirs / "kept").touch()
    (theirs / "link").symlink_to(tmp_path / "target")
    for name in ("kept", "link"):
        os.close(ownership.open_file(theirs / name, os.O_RDWR))
    assert (theirs / "kept").stat().st_uid == 0
    assert (tmp_path / "target").stat().st_uid == 0


def test_in_a_folder_of_its_own_root_keeps_what_it_makes(tmp_path: Path) -> None:
    ownership.make_folder(tmp_path / "made")
    os.close(ownership.open_file(tmp_path / "made" / "file", os.O_RDWR))
    assert (tmp_path / "made" / "file").stat().st_uid == 0
