"""The other side: sends studies until each object is acknowledged, and writes down which were.

The ledger is durable before anything else happens: one JSON line for each Success, with the digest
of the data set as it was sent. What was refused, cut off or not answered is sent again, as a PACS
would.
"""

import hashlib
import heapq
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_io import scu
from dicom_io.association import Timeouts
from dicom_io.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable
from tests.support import dicom
from tests.support.outbox import part_10

TIMEOUTS = Timeouts(connection_s=4, acse_s=6, dimse_s=12, network_s=20)
AE_TITLE = "CHAOS"
AGAIN_AFTER_S = (0.5, 3.0)
PER_ASSOCIATION_MAX = 4
LATE_S_MAX = 600.0
SIDE_PX = 240
SUCCESS = 0x0000


@dataclass(order=True)
class _Errand:
    due_at: float
    number: int
    sop_instance_uid: str = field(compare=False)
    study: str = field(compare=False)
    seed: int = field(compare=False)
    accession: str = field(compare=False, default="ACC-1")
    tries: int = field(compare=False, default=0)


def data_set_of(part10: bytes) -> bytes:
    """The data set of a Part 10 file: what follows its File Meta Information (PS3.10 7.1)."""
    length = int.from_bytes(part10[140:144], "little")
    return part10[144 + length :]


class Sender:
    """Sends a drawn population of studies over a time, from a few threads.

    Of the studies some have two images, some get the second one late, some objects are sent twice
    and some again with a corrected header.
    """

    def __init__(
        self, to: Destination, ledger: Path, *, studies: int, over_s: float, seed: int
    ) -> None:
        self._to = to
        self._rng = random.Random(seed)
        self._ledger = ledger.open("a")
        self._lock = threading.Lock()
        self._errands: list[_Errand] = []
        self._under_way: set[str] = set()  # the versions of one object go one after the other
        self.sent = 0
        self.acknowledged = 0
        self.stopped = threading.Event()
        self.studies = studies
        self._draw(studies, over_s)
        self.objects = len(self._errands)
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]

    def _draw(self, studies: int, over_s: float) -> None:
        start, rng = time.monotonic(), self._rng
        for number in range(studies):
            at = start + over_s * number / studies
            study = str(generate_uid())
            first = self._add(at, study)
            kind = rng.random()
            if kind < 0.25:
                self._add(at, study)
            elif kind < 0.35:  # after the first report, most of the time
                self._add(at + rng.uniform(0.1, 0.4) * min(over_s, LATE_S_MAX), study)
            if rng.random() < 0.04:
                self._push(_again(first, at + rng.uniform(0, 20), len(self._errands)))
            elif rng.random() < 0.04:
                corrected = _again(first, at + rng.uniform(5, 20), len(self._errands))
                corrected.accession = "ACC-2"
                self._push(corrected)

    def _add(self, at: float, study: str) -> _Errand:
        number = len(self._errands)
        errand = _Errand(at, number, str(generate_uid()), study, number)
        self._push(errand)
        return errand

    def _push(self, errand: _Errand) -> None:
        heapq.heappush(self._errands, errand)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> bool:
        with self._lock:
            return not self._errands and not self._under_way

    def close(self) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()
        self._ledger.close()

    def _run(self) -> None:
        while not self.stopped.is_set():
            if errands := self._take():
                self._send(errands)
            else:
                time.sleep(0.05)

    def _take(self) -> list[_Errand]:
        taken: list[_Errand] = []
        later: list[_Errand] = []
        with self._lock:
            while self._errands and self._errands[0].due_at <= time.monotonic():
                errand = heapq.heappop(self._errands)
                if errand.sop_instance_uid in self._under_way:
                    later.append(errand)
                    continue
                self._under_way.add(errand.sop_instance_uid)
                taken.append(errand)
                if len(taken) == PER_ASSOCIATION_MAX:
                    break
            for errand in later:
                self._push(errand)
        return taken

    def _send(self, errands: list[_Errand]) -> None:
        left = list(errands)
        try:
            built = [_object(it) for it in errands]
            syntax = (str(dicom.CR), EXPLICIT_VR_LITTLE_ENDIAN)
            with scu.storing([syntax], self._to, AE_TITLE, TIMEOUTS) as peer:
                for errand, item in zip(errands, built, strict=True):
                    with self._lock:
                        self.sent += 1
                    if peer.store(item).status == SUCCESS:
                        self._acknowledge(errand, item.payload)
                        left.remove(errand)
        except DestinationUnavailable:
            pass
        finally:
            with self._lock:
                self._under_way -= {it.sop_instance_uid for it in errands}
                for errand in left:
                    errand.due_at = time.monotonic() + self._rng.uniform(*AGAIN_AFTER_S)
                    errand.tries += 1
                    self._push(errand)

    def _acknowledge(self, errand: _Errand, part10: Any) -> None:
        line = {
            "sop_instance_uid": errand.sop_instance_uid,
            "study": errand.study,
            "accession": errand.accession,
            "sha256": hashlib.sha256(data_set_of(part10)).hexdigest(),
        }
        with self._lock:
            self._ledger.write(json.dumps(line) + "\n")
            self._ledger.flush()
            os.fsync(self._ledger.fileno())
            self.acknowledged += 1


def _again(first: _Errand, at: float, number: int) -> _Errand:
    return _Errand(at, number, first.sop_instance_uid, first.study, first.seed)


def _object(errand: _Errand) -> scu.SendObject:
    ds: Dataset = dicom.chest(errand.study, pixels=dicom.chest_pixels(SIDE_PX, errand.seed))
    ds.SOPInstanceUID = errand.sop_instance_uid
    ds.SeriesInstanceUID = f"{errand.sop_instance_uid[:60]}.1"
    ds.AccessionNumber = errand.accession
    if errand.seed % 5:  # outside the intended use: a report, but no picture, which costs the most
        ds.PatientAge = "045Y"
    return scu.SendObject(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=errand.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
        payload=part_10(ds),
    )
