"""C-STORE ingest: `cxr-worker listen`, which answers when file and row are durable, beside others.

The sender is DCMTK's storescu; every image is a study of its own, in uncompressed noise. x4 means
four associations at once.
"""

import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench import servers
from tests.bench.harness import Failed, Plan, Row, Run, compare, program
from tests.bench.servers import Server
from tests.support import dicom

UNIT = "files/s"
SENT_WITHIN_S = 120.0
ASSOCIATIONS = (1, 4)
SENDERS_MAX = max(ASSOCIATIONS)
PEERS = {"Orthanc": servers.orthanc, "storescp": servers.storescp}

_HEADER_BYTES = 2048  # holds every UID of these files
_UID_ROOT = re.compile(rb"2\.25\.\d{38}")

Serve = Callable[[Path], AbstractContextManager[Server]]


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
            for associations in ASSOCIATIONS:
                name = f"C-STORE {size.name} x{associations}"
                send = partial(Sender, storescu, images, associations, plan.folder)
                peers: dict[str, Run] = {peer: send(serve) for peer, serve in PEERS.items()}
                rows += compare(name, UNIT, send(servers.listener), peers, plan)
    return rows


class Images:
    """CR images of one size, in one folder per sender; `renew` makes them all new objects."""

    def __init__(self, folder: Path, size: Size, count: int) -> None:
        self.count = count
        self.first = folder / "first"
        self.folders = [folder / f"sender-{number}" for number in range(SENDERS_MAX)]
        for path in (self.first, *self.folders):
            path.mkdir()
        noise = np.random.default_rng(2)
        for number in range(-1, count):
            root = _uid_root()
            pixels = noise.integers(0, 1 << 12, (size.rows, size.columns), np.uint16)
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
    """One run: a fresh server, one image to warm it up, then all images; files per second."""

    def __init__(
        self, storescu: str, images: Images, associations: int, folder: Path, serve: Serve
    ) -> None:
        self._argv = [storescu, "-R", "+sd"]
        self._images = images
        self._associations = associations
        self._folder = folder
        self._serve = serve

    def __call__(self) -> float:
        self._images.renew()
        os.sync()  # no run pays for what an earlier one left to be written
        shares = [self._images.folders[i :: self._associations] for i in range(self._associations)]
        with (
            tempfile.TemporaryDirectory(dir=self._folder, prefix="server-") as folder,
            self._serve(Path(folder).resolve()) as server,
        ):
            self._send(server, [[self._images.first]])
            started = time.perf_counter()
            self._send(server, shares)
            elapsed_s = time.perf_counter() - started
            expected, found = self._images.count + 1, server.count()
            if found != expected:
                raise Failed(f"{expected} images were sent, {found} are there")
        return self._images.count / elapsed_s

    def _send(self, server: Server, shares: Sequence[Sequence[Path]]) -> None:
        """Send every share over an association of its own, all at once."""
        address = ["-aec", server.ae_title, "127.0.0.1", str(server.port)]
        senders = [
            subprocess.Popen(
                [*self._argv, *address, *map(str, share)],
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
