"""The Kaggle set comes through kagglehub itself; only Kaggle's server is a stand-in."""

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from training.cli import main

CALLS = {"GetDataset", "DownloadDataset"}


def archive(top: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name in ("train/NORMAL/IM-1.jpeg", "train/PNEUMONIA/person1_virus_1.jpeg"):
            file.writestr(f"{top}/{name}", b"picture")
    return made.getvalue()


class Kaggle(ThreadingHTTPServer):
    """Answers the two calls that kagglehub makes for a data set."""

    top = "chest_xray"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, object]]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Kaggle)
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = self.path.rpartition("/")[2]
        self.server.asked.append((call, request))
        if call not in CALLS:
            self.send_error(404)
            return
        answer = json.dumps({"currentVersionNumber": 2}).encode()
        kind = "application/json"
        if call == "DownloadDataset":
            answer, kind = archive(self.server.top), "application/zip"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    from kagglesdk import kaggle_env

    server = Kaggle()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, address)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_set_is_fetched_once_and_its_folder_is_printed(kaggle: Kaggle) -> None:
    first = CliRunner().invoke(main, ["download"])
    assert first.exit_code == 0, first.output
    folder = Path(first.stdout.splitlines()[-1])
    assert folder.name == "chest_xray"
    assert (folder / "train" / "NORMAL" / "IM-1.jpeg").read_bytes() == b"picture"
    assert [call for call, _ in kaggle.asked] == ["GetDataset", "DownloadDataset"]
    assert kaggle.asked[1][1]["datasetSlug"] == "chest-xray-pneumonia"
    again = CliRunner().invoke(main, ["download"])
    assert Path(again.stdout.splitlines()[-1]) == folder
    assert [call for call, _ in kaggle.asked].count("DownloadDataset") == 1


def test_set_of_another_layout_is_refused(kaggle: Kaggle) -> None:
    kaggle.top = "elsewhere/inside"
    result = CliRunner().invoke(main, ["download"])
    assert result.exit_code == 1
    assert "layout has changed" in result.output


def test_unreachable_kaggle_is_one_line(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    prod = kaggle_env.KaggleEnv.PROD
    monkeypatch.setitem(kaggle_env._env_to_endpoint, prod, "http://127.0.0.1:1")
    result = CliRunner().invoke(main, ["download"])
    assert result.exit_code == 1
    assert "could not be downloaded from Kaggle" in result.output
