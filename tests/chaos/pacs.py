"""A PACS to deliver to, as a process: keeps what it gets durably, and misbehaves when told to.

    python -m tests.chaos.pacs HOST PORT FOLDER

FOLDER/mode says how it behaves, and may change at any time: `ok`; `hang` (no answer until that is
over); `reject` (no association); or a C-STORE status in hexadecimal, such as `a700`. Every object
that it answered with Success lies in FOLDER/kept, in the order of arrival; the same one sent twice
lies there twice.
"""

import itertools
import os
import sys
import time
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.events import Event, EventHandlerType

from dicom_io.contexts import STORAGE_COMMITMENT, listener_contexts

AE_TITLE = "PACS"
OK, HANG, REJECT = "ok", "hang", "reject"


def mode_file(folder: Path) -> Path:
    return folder / "mode"


def kept_files(folder: Path) -> list[Path]:
    """What it has, in the order in which it came."""
    return sorted((folder / "kept").glob("*.dcm"))


def set_mode(folder: Path, mode: str) -> None:
    new = folder / "mode.new"
    new.write_text(mode)
    new.replace(mode_file(folder))


class Pacs:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept = folder / "kept"
        self._kept.mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count(len(kept_files(folder)))

    @property
    def _mode(self) -> str:
        return mode_file(self._folder).read_text()

    def serve(self, host: str, port: int) -> None:
        ae = AE(ae_title=AE_TITLE)
        ae.supported_contexts = [
            it for it in listener_contexts() if it.abstract_syntax != STORAGE_COMMITMENT
        ]
        handlers: list[EventHandlerType] = [
            (evt.EVT_REQUESTED, self._refuse),
            (evt.EVT_C_STORE, self._store),
        ]
        ae.start_server((host, port), block=True, evt_handlers=handlers)

    def _refuse(self, event: Event) -> None:
        if self._mode == REJECT:
            event.assoc.acse.send_reject(0x02, 0x01, 0x01)
            event.assoc.kill()

    def _store(self, event: Event) -> int:
        while (mode := self._mode) == HANG:
            time.sleep(0.1)
        if mode not in (OK, REJECT):
            return int(mode, 16)
        number = next(self._numbers)
        temp = self._folder / f"{number}.part"
        with temp.open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        temp.rename(self._kept / f"{number:08}-{os.getpid()}.dcm")
        return 0x0000


if __name__ == "__main__":
    Pacs(Path(sys.argv[3])).serve(sys.argv[1], int(sys.argv[2]))
