"""The OHIF viewer in its built form, from npm, over Orthanc's DICOMweb, on one port.

`npm pack @ohif/app` brings 48 MB; the page and DICOMweb come from one origin, with the headers
that its workers need.
"""

import http.client
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

OHIF = "@ohif/app@3.12.10"
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "ohif" / "app-config.js"


def unpacked(folder: Path) -> Path:
    """The folder of the page; skips the test, with a reason, where npm does not give it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed, and OHIF comes from there")
    try:
        command = [npm, "pack", "--silent", OHIF]
        subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=120)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        pytest.skip(f"npm does not give {OHIF}")
    with tarfile.open(next(folder.glob("*.tgz"))) as package:
        package.extractall(folder, filter="data")
    page = folder / "package" / "dist"
    shutil.copy(CONFIGURATION, page / "app-config.js")
    return page


@contextmanager
def served(page: Path, dicomweb_port: int) -> Iterator[str]:
    """Serve the page and, under /dicom-web, what Orthanc answers; yields the address."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(page))

        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web/"):
                self._pass_on()
                return
            if not (page / self.path.split("?")[0].lstrip("/")).is_file():
                self.path = "/index.html"  # the page's own routes
            super().do_GET()

        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def _pass_on(self) -> None:
            orthanc = http.client.HTTPConnection("127.0.0.1", dicomweb_port, timeout=60)
            orthanc.request("GET", self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
            answer = orthanc.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "text/plain"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            orthanc.close()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
