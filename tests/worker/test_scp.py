"""The SCP on a real socket: data sets in any fragments, PDUs that lie, disks that are full."""

import errno
import itertools
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, _config, dimse_messages
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from dicom_io.contexts import VERIFICATION
from tests.support import dicom
from tests.support.listener import listening
from tests.support.system import wait_for
from worker import association_server, fast_pdu, scp
from worker.receive import OUT_OF_RESOURCES, SUCCESS, Origin

Store = Callable[[Path, Origin], int]


class Scp:
    """A server that keeps what it is sent."""

    def __init__(self, folder: Path) -> None:
        self.temp = folder / "tmp"
        self.temp.mkdir()
        self.has_room = True
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
            has_room=lambda: self.has_room,
        )

    def _store(self, path: Path, _origin: Origin) -> int:
        self.received.append(dcmread(BytesIO(path.read_bytes())))
        return SUCCESS

    def associate(self) -> Association:
        return _associate(self.port)

    def close(self) -> None:
        self.server.shutdown()
        _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_HANDLER_LEVEL = self._restore


def _associate(port: int, sop_class: str = dicom.CR) -> Association:
    ae = AE()
    ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    association = ae.associate("127.0.0.1", port, ae_title="CXR_WORKER")
    assert association.is_established
    return association


def _put_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server sets in its process."""
    monkeypatch.setattr("tempfile.tempdir", None)
    plain = dimse_messages.NamedTemporaryFile
    monkeypatch.setattr(dimse_messages, "NamedTemporaryFile", plain)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scp]:
    _put_back_afterwards(monkeypatch)
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
@pytest.mark.parametrize("fragment_bytes", [64, 512, 100_000])
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


@contextmanager
def _no_file_longer_than(size: int) -> Iterator[None]:
    """Of this process, until the end: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file_bytes_max", [0, 200, 1000, 100_000])
@pytest.mark.parametrize("fragment_bytes", [512, 100_000])
@pytest.mark.parametrize("values_per_pdu", [1, 1000])
def test_wherever_a_write_fails_the_sender_hears_out_of_resources(
    server: Scp, file_bytes_max: int, fragment_bytes: int, values_per_pdu: int
) -> None:
    """In the file meta information, at its end, in the data set; with the command in its PDU."""
    association = server.associate()
    with _no_file_longer_than(file_bytes_max):
        assert _send(association, fragment_bytes, values_per_pdu) == OUT_OF_RESOURCES
    assert list(server.temp.iterdir()) == []
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()
    assert len(server.received) == 1


def _send(association: Association, fragment_bytes: int = 100_000, values_per_pdu: int = 1) -> int:
    """Store an image of 300 x 300 pixels; returns the status of the answer."""
    ds = dicom.chest(pixels=dicom.chest_pixels(300))
    values = _values(ds, association, fragment_bytes)
    groups = [values[i : i + values_per_pdu] for i in range(0, len(values), values_per_pdu)]
    with _answers_to_us(association) as answer:
        _socket(association).sendall(b"".join(_pdu(group) for group in groups))
        return answer()


@contextmanager
def _answers_to_us(association: Association) -> Iterator[Callable[[], int]]:
    """The status of the next answer; the thread of the association would drop it."""
    association._reactor_checkpoint.clear()
    wait_for("that thread to pause", lambda: association._is_paused, 10)
    try:
        yield lambda: association.dimse.get_msg(block=True)[1].Status  # type: ignore[union-attr]
    finally:
        association._reactor_checkpoint.set()


def test_what_is_left_of_a_write_that_failed_is_never_taken_for_the_object(
    server: Scp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that errs may not even let go of the file."""

    class Stubborn(type(Path())):  # type: ignore[misc]
        def unlink(self, missing_ok: bool = False) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    association = server.associate()
    monkeypatch.setattr(fast_pdu, "Path", Stubborn)
    with _no_file_longer_than(100_000):
        assert _send(association) == OUT_OF_RESOURCES
    assert server.received == []
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()


@pytest.mark.parametrize("second", ["in the same PDU", "before the first is whole"])
def test_two_objects_never_become_one(server: Scp, second: str) -> None:
    association = server.associate()
    one, other = (
        _values(dicom.chest(pixels=dicom.chest_pixels(300)), association, 100_000) for _ in range(2)
    )
    pdus = [[one[0]], [*one[1:], *other]] if "same" in second else [one[:2], other[:1], other[1:]]
    _socket(association).sendall(b"".join(_pdu(values) for values in pdus))
    wait_for("the abort", lambda: not association.is_established, 10)
    assert server.received == []
    wait_for("the files to go", lambda: list(server.temp.iterdir()) == [], 10)


@pytest.mark.parametrize("values_per_pdu", [1, 1000])
def test_where_no_file_can_be_made_the_sender_hears_out_of_resources(
    server: Scp, values_per_pdu: int
) -> None:
    association = server.associate()
    server.temp.rename(server.temp.with_name("elsewhere"))
    assert _send(association, 100_000, values_per_pdu) == OUT_OF_RESOURCES
    server.temp.mkdir()
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()


def test_what_begins_below_the_reserve_is_refused_and_nothing_is_written(server: Scp) -> None:
    association = server.associate()
    server.has_room = False
    with _no_file_longer_than(0):
        assert _send(association) == OUT_OF_RESOURCES
    server.has_room = True
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()
    assert list(server.temp.iterdir()) == []


def test_an_object_that_comes_down_to_the_reserve_is_written_no_further(
    server: Scp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_pdu, "ROOM_LOOK_BYTES", 30_000)
    association = server.associate()
    values = _values(dicom.chest(pixels=dicom.chest_pixels(300)), association, 20_000)
    pdus = [_pdu([value]) for value in values]
    for pdu in pdus[:4]:
        _socket(association).sendall(pdu)
        time.sleep(0.06)  # what came is written when more comes
    wait_for("the file", lambda: [it for it in server.temp.iterdir() if it.stat().st_size > 30_000])
    server.has_room = False
    for pdu in pdus[4:6]:
        _socket(association).sendall(pdu)
        time.sleep(0.06)
    wait_for("the file to go", lambda: list(server.temp.iterdir()) == [])
    server.has_room = True  # what is left of an object that is refused is not written
    with _answers_to_us(association) as answer:
        _socket(association).sendall(b"".join(pdus[6:]))
        assert answer() == OUT_OF_RESOURCES
    assert association.send_c_store(dicom.chest()).Status == SUCCESS
    association.release()


def test_the_listener_looks_at_its_reserve_while_an_object_comes(tmp_path: Path) -> None:
    with listening(tmp_path, SPOOL_RESERVE_MB=1 << 40) as listener:
        association = _associate(listener.port)
        values = _values(dicom.chest(pixels=dicom.chest_pixels(300)), association, 20_000)
        with _answers_to_us(association) as answer:
            for value in values[:-1]:
                _socket(association).sendall(_pdu([value]))
                time.sleep(0.06)
            assert list((listener.home / "spool" / "tmp").iterdir()) == []
            _socket(association).sendall(_pdu(values[-1:]))
            assert answer() == OUT_OF_RESOURCES
        association.release()


def test_a_sender_that_aborts_half_way_leaves_no_file(server: Scp) -> None:
    association = server.associate()
    values = _values(dicom.chest(pixels=dicom.chest_pixels(256)), association, 16384)
    _socket(association).sendall(b"".join(_pdu([value]) for value in values[:3]))
    wait_for("the temp file", lambda: list(server.temp.iterdir()), 10)
    association.abort()
    wait_for("the temp file to go", lambda: list(server.temp.iterdir()) == [], 10)
    assert server.received == []


def _echoes(association: Association, count: int) -> bytes:
    request = C_ECHO()
    request.MessageID = 1
    request.AffectedSOPClassUID = VERIFICATION
    message = C_ECHO_RQ()
    message.primitive_to_message(request)
    (pdata,) = message.encode_msg(1, 16384)
    encoded: bytes = P_DATA_TF(pdata).encode()
    return encoded * count


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_messages_that_wait_for_no_answer_are_served_up_to_a_number(server: Scp) -> None:
    association = _associate(server.port, VERIFICATION)
    with _answers_to_us(association) as answer:
        _socket(association).sendall(_echoes(association, 50))
        assert [answer() for _ in range(50)] == [SUCCESS] * 50
    with suppress(OSError):  # it may be over before all is said
        _socket(association).sendall(_echoes(association, 5000))
    wait_for("the abort", lambda: association.is_aborted, 20)


def test_without_the_fast_path_everything_is_received_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _put_back_afterwards(monkeypatch)
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
