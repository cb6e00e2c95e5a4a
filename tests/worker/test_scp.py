"""The SCP on a real socket: data sets in any fragments, PDUs that lie, disks that are full."""

import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from tests.support import dicom
from tests.support.system import wait_for
from worker import association_server, fast_pdu, scp
from worker.receive import OUT_OF_RESOURCES, SUCCESS, Origin

Store = Callable[[Path, Origin], int]


class Scp:
    """A server that keeps what it is sent."""

    def __init__(self, folder: Path) -> None:
        self.temp = folder / "tmp"
        self.temp.mkdir()
        self.received: list[FileDataset] = []
        chunked, level = _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL
        self._restore = (chunked, level)
        listening = scp.bind_port("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        self.server = scp.start_server(
            listening,
            store=self._store,
            record_commitment=lambda _report: False,
            temp_folder=self.temp,
            ae_title="CXR_WORKER",
        )

    def _store(self, path: Path, _origin: Origin) -> int:
        self.received.append(dcmread(BytesIO(path.read_bytes())))
        return SUCCESS

    def associate(self) -> Association:
        ae = AE()
        ae.add_requested_context(dicom.CR, "1.2.840.10008.1.2.1")
        association = ae.associate("127.0.0.1", self.port, ae_title="CXR_WORKER")
        assert association.is_established
        return association

    def close(self) -> None:
        self.server.shutdown()
        _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL = self._restore


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scp]:
    monkeypatch.setattr("tempfile.tempdir", None)  # put back afterwards
    monkeypatch.setattr(association_server, "DRAIN_S", 0.5)
    running = Scp(tmp_path)
    yield running
    running.close()


def _values(ds: FileDataset, association: Association, fragment_bytes: int) -> list[Any]:
    """The presentation data values of a C-STORE request for this data set."""
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, ds)
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = ds.SOPClassUID
    request.AffectedSOPInstanceUID = ds.SOPInstanceUID
    request.Priority = 2
    request.DataSet = BytesIO(encoded.getvalue())
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    context_id = association.accepted_contexts[0].context_id
    assert context_id is not None
    primitives = message.encode_msg(context_id, fragment_bytes)
    return [value for pdata in primitives for value in pdata.presentation_data_value_list]


def _pdu(values: list[Any]) -> bytes:
    primitive = P_DATA()
    primitive.presentation_data_value_list = [list(value) for value in values]
    return P_DATA_TF(primitive).encode()


def _socket(association: Association) -> socket.socket:
    assert association.dul.socket is not None
    assert association.dul.socket.socket is not None
    return association.dul.socket.socket


@pytest.mark.parametrize("values_per_pdu", [1, 3, 1000])
@pytest.mark.parametrize("fragment_bytes", [512, 100_000])
def test_a_data_set_arrives_whole_in_whatever_fragments(
    server: Scp, fragment_bytes: int, values_per_pdu: int
) -> None:
    ds = dicom.chest(pixels=dicom.chest_pixels(300))
    association = server.associate()
    values = _values(ds, association, fragment_bytes)
    groups = [values[i : i + values_per_pdu] for i in range(0, len(values), values_per_pdu)]
    _socket(association).sendall(b"".join(_pdu(group) for group in groups))
    wait_for("the object", lambda: server.received, 10)
    again = dicom.chest(pixels=dicom.chest_pixels(300, seed=1))
    assert association.send_c_store(again).Status == SUCCESS
    association.release()
    assert [it.PixelData for it in server.received] == [ds.PixelData, again.PixelData]
    assert server.received[0].SOPInstanceUID == ds.SOPInstanceUID
    assert list(server.temp.iterdir()) == []


def test_a_data_set_that_dribbles_in_arrives_whole(server: Scp) -> None:
    ds = dicom.chest(pixels=dicom.chest_pixels(256))
    association = server.associate()
    bytes_ = b"".join(_pdu([value]) for value in _values(ds, association, 50_000))
    cuts = [0, 3, 6, 9, 12, 300, 50_100, 50_103, 100_205, len(bytes_)]
    for start, end in itertools.pairwise(cuts):
        _socket(association).sendall(bytes_[start:end])
        time.sleep(0.06)  # longer than the receiver waits at once
    wait_for("the object", lambda: server.received, 10)
    association.release()
    assert server.received[0].PixelData == ds.PixelData


@pytest.mark.parametrize("header", [(4, scp.MAXIMUM_PDU_BYTES + 1), (4, 0xFFFFFFFF), (9, 10)])
def test_a_pdu_that_is_too_long_or_unknown_aborts_the_association(
    server: Scp, header: tuple[int, int]
) -> None:
    association = server.associate()
    _socket(association).sendall(struct.pack(">BxL", *header))
    wait_for("the abort", lambda: association.is_aborted, 10)
    assert server.received == []


def test_a_value_longer_than_its_pdu_aborts_and_leaves_no_file(server: Scp) -> None:
    association = server.associate()
    command = _values(dicom.chest(), association, 4096)[0]
    lying = struct.pack(">BxLLBB", 4, 16, 1000, command[0], 0) + bytes(10)
    _socket(association).sendall(_pdu([command]) + lying)
    wait_for("the abort", lambda: association.is_aborted, 10)
    wait_for("the temp file to go", lambda: list(server.temp.iterdir()) == [], 10)


def test_a_sender_that_dies_half_way_leaves_no_file(server: Scp) -> None:
    association = server.associate()
    values = _values(dicom.chest(pixels=dicom.chest_pixels(256)), association, 16384)
    _socket(association).sendall(b"".join(_pdu([value]) for value in values[:3]))
    wait_for("the temp file", lambda: list(server.temp.iterdir()), 10)
    _socket(association).shutdown(socket.SHUT_RDWR)
    wait_for("the temp file to go", lambda: list(server.temp.iterdir()) == [], 10)
    assert server.received == []


def test_store_returns_out_of_resources_when_the_file_cannot_be_written(
    server: Scp, monkeypatch: pytest.MonkeyPatch
) -> None:
    association = server.associate()
    with monkeypatch.context() as full:
        full.setattr(fast_pdu, "OBJECT_BYTES_MAX", 10_000)
        large = dicom.chest(pixels=dicom.chest_pixels(256))
        assert association.send_c_store(large).Status == OUT_OF_RESOURCES
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()
    assert len(server.received) == 1


def test_without_the_fast_path_everything_is_received_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(fast_pdu, "SUPPORTED_VERSION", "0")
    running = Scp(tmp_path)
    try:
        association = running.associate()
        ds = dicom.chest(pixels=dicom.chest_pixels(256))
        assert association.send_c_store(ds).Status == SUCCESS
        association.release()
    finally:
        running.close()
    assert running.received[0].PixelData == ds.PixelData
    assert "receiving at half the speed" in caplog.text
