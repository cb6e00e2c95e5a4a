"""C-STORE ingest: `cxr-worker listen`, which answers when file and row are durable, beside others.

The sender is DCMTK's storescu; every image is a study of its own, in uncompressed noise. x4 means
four associations at once; "one each" an association for every file, four at once.
"""

import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from tests.bench import servers
from tests.bench.harness import Failed, Plan, Row, Run, compare, program
from tests.bench.servers import Server
from tests.support import dicom

UNIT = "files/s"
SENT_WITHIN_S = 120.0
ASSOCIATIONS = (1, 4, 8)
SENDERS_MAX = max(ASSOCIATIONS)
AT_ONCE = 4  # senders of one file each
CONTESTANTS = {
    "cxr-worker": servers.listener,
    "Orthanc": servers.orthanc,
    "storescp": servers.storescp,
    "pynetdicom": servers.naive,
}

_HEADER_BYTES = 2048  # holds every UID of these files
_UID_ROOT = re.compile(rb"2\.25\.\d{38}")


@dataclass(frozen=True, kw_only=True)
class Size:
    name: str
    rows: int
    columns: int
    count: int  # images a run sends, shared among the senders


SIZES = (
    Size(name="2 MB", rows=1024, columns=1024, count=64),
    Size(name="10 MB", rows=2500, columns=2048, count=24),
)


def run(plan: Plan) -> list[Row]:
    storescu = program("storescu", "dcmtk")
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=plan.folder, prefix="images-") as folder:
            images = Images(Path(folder), size, size.count // 4 if plan.quick else size.count)
            ways: list[int | None] = [*ASSOCIATIONS]
            if size is SIZES[0]:
                ways.append(None)
            for associations in ways:
                way = "one each" if associations is None else f"x{associations}"
                rows += _compare(f"C-STORE {size.name} {way}", storescu, images, associations, plan)
    return rows


def _compare(
    name: str, storescu: str, images: "Images", associations: int | None, plan: Plan
) -> list[Row]:
    """Every contestant's server runs through all rounds: it idles while others have their turn."""
    with (
        tempfile.TemporaryDirectory(dir=plan.folder, prefix="servers-") as folder,
        ExitStack() as running,
    ):
        runs: dict[str, Run] = {}
        for contestant, serve in CONTESTANTS.items():
            own = Path(folder).resolve() / contestant
            own.mkdir()
            sender = Sender(storescu, images, associations, partial(serve, own), running)
            runs[contestant] = sender
        return compare(name, UNIT, runs.pop("cxr-worker"), runs, plan)


class Images:
    """CR images of one size, in one folder per sender; `renew` makes them all new objects."""

    def __init__(self, folder: Path, size: Size, count: int, *, chest: bool = False) -> None:
        self.count = count
        self.first = folder / "first"
        self.folders = [folder / f"sender-{number}" for number in range(SENDERS_MAX)]
        for path in (self.first, *self.folders):
            path.mkdir()
        noise = np.random.default_rng(2)
        for number in range(-1, count):
            root = _uid_root()
            pixels = noise.integers(0, 1 << 12, (size.rows, size.columns), np.uint16)
            if chest:  # what the model analyses rather than rejects
                picture = dicom.chest_pixels(1024, seed=max(number, 0))
                pixels = cv2.resize(picture, (size.columns, size.rows))
            ds = dicom.chest(f"{root}.1", pixels=pixels)
            ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{root}.2", f"{root}.3"
            dicom.write(ds, self.first if number < 0 else self.folders[number % SENDERS_MAX])

    def renew(self) -> None:
        """Write new UIDs over the old ones, of the same length, in place."""
        for folder in (self.first, *self.folders):
            for path in folder.iterdir():
                with path.open("r+b") as file:
                    header = file.read(_HEADER_BYTES)
                    file.seek(0)
                    file.write(_UID_ROOT.sub(_uid_root().encode(), header))


def _uid_root() -> str:
    """PS3.5 B.2: a UID under 2.25; always of 43 characters."""
    return f"2.25.{10**37 + secrets.randbelow(9 * 10**37)}"


class Sender:
    """One contestant: its server, started and warmed up once; each run sends all images to it."""

    def __init__(
        self,
        storescu: str,
        images: Images,
        associations: int | None,
        serve: Callable[[], AbstractContextManager[Server]],
        running: ExitStack,
    ) -> None:
        self._argv = [storescu, "-R"]
        self._images = images
        self._associations = associations
        self._serve = serve
        self._running = running
        self._server: Server | None = None

    def __call__(self) -> float:
        """Files per second."""
        server = self._started()
        self._images.renew()
        os.sync()  # no run pays for what an earlier one left to be written
        before = server.count()
        started = time.perf_counter()
        if self._associations is None:
            self._send_one_by_one(server)
        else:
            folders = self._images.folders
            self._send(
                server, [folders[i :: self._associations] for i in range(self._associations)]
            )
        elapsed_s = time.perf_counter() - started
        if (found := server.count() - before) != self._images.count:
            raise Failed(f"{self._images.count} images were sent, {found} are there")
        return self._images.count / elapsed_s

    def _started(self) -> Server:
        if self._server is None:
            self._images.renew()
            self._server = self._running.enter_context(self._serve())
            self._send(self._server, [[self._images.first]])
        return self._server

    def _send_one_by_one(self, server: Server) -> None:
        paths = [path for folder in self._images.folders for path in folder.iterdir()]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda path: self._send(server, [[path]], scan=False), paths):
                pass

    def _send(self, server: Server, shares: Sequence[Sequence[Path]], *, scan: bool = True) -> None:
        """Send every share over an association of its own, all at once."""
        address = ["-aec", server.ae_title, "127.0.0.1", str(server.port)]
        argv = [*self._argv, "+sd"] if scan else self._argv
        senders = [
            subprocess.Popen(
                [*argv, *address, *map(str, share)],
                env=servers.DCMTK_ENV,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for share in shares
        ]
        try:
            for sender in senders:
                _, error = sender.communicate(timeout=SENT_WITHIN_S)
                if sender.returncode != 0:
                    raise Failed(f"storescu ended with {sender.returncode}: {error.strip()[-300:]}")
        except subprocess.TimeoutExpired:
            raise Failed(f"not sent within {SENT_WITHIN_S:.0f} s") from None
        finally:
            for sender in senders:
                sender.kill()
                sender.wait()
