import os
import time
from pathlib import Path

import pytest

from worker.spool import TEMP_FILE_AGE_MAX_S, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.create()
    return made


def _received(spool: Spool, content: bytes = b"x") -> Path:
    path = spool.temp / "received"
    path.write_bytes(content)
    return path


def test_a_stored_file_has_left_the_temporary_folder_under_a_hashed_name(spool: Spool) -> None:
    name = spool.store(_received(spool, b"content"), "1.2.3")
    assert spool.path(name).read_bytes() == b"content"
    assert "1.2.3" not in name
    assert list(spool.temp.iterdir()) == []
    assert list(spool.names()) == [name]


def test_a_uid_that_is_a_path_stays_inside_the_spool(spool: Spool) -> None:
    name = spool.store(_received(spool), "../../../etc/passwd")
    assert spool.path(name).resolve().is_relative_to(spool.files.resolve())


def test_two_files_of_one_uid_never_overwrite_each_other(spool: Spool) -> None:
    first = spool.store(_received(spool, b"1"), "1.2.3")
    second = spool.store(_received(spool, b"2"), "1.2.3")
    assert spool.path(first).read_bytes() == b"1"
    assert spool.path(second).read_bytes() == b"2"


def test_file_and_folder_are_synced_before_and_after_the_rename(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.store(_received(spool), "1.2.3")  # makes the shelf
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def traced_fsync(descriptor: int) -> None:
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        fsync(descriptor)

    def traced_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "rename", traced_rename)
    spool.store(_received(spool), "1.2.3")
    assert steps == ["file", "rename", "folder"]


def test_only_old_leftovers_are_swept(spool: Spool) -> None:
    old, young = spool.temp / "old", spool.temp / "young"
    old.write_bytes(b"")
    young.write_bytes(b"")
    long_ago = time.time() - TEMP_FILE_AGE_MAX_S - 1
    os.utime(old, (long_ago, long_ago))
    assert spool.sweep_temp() == 1
    assert list(spool.temp.iterdir()) == [young]


def test_room_is_what_is_free_above_the_reserve(spool: Spool) -> None:
    assert spool.has_room(reserve_mb=0)
    assert not spool.has_room(reserve_mb=1 << 40)
