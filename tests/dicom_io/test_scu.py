import socket
import subprocess
import threading
import time

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt

from dicom_io import scu
from dicom_io.contexts import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    RLE_LOSSLESS,
    STORAGE_CONTEXTS,
)
from dicom_io.errors import DestinationUnavailable
from dicom_io.scu import Destination, SendObject, Timeouts, echo, files_in, send, send_files

CR_IMAGE = "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
QUICK = Timeouts(connection_s=1, acse_s=1, dimse_s=2, network_s=2)


class Scp:
    """A real storage SCP on a free port that keeps what comes."""

    def __init__(self, contexts, status=0x0000, before=None, **settings):
        self.received = []
        self.associations = 0
        self.status = status
        ae = AE(ae_title="PACS")
        for name, value in settings.items():
            setattr(ae, name, value)
        for sop_class, syntaxes in contexts.items():
            ae.add_supported_context(sop_class, list(syntaxes))

        def count(_event):
            self.associations += 1

        def store(event):
            if before:
                before(event)
            self.received.append(
                (event.request.AffectedSOPInstanceUID, event.context.transfer_syntax,
                 event.encoded_dataset(include_meta=False))
            )  # fmt: skip
            return self.status(len(self.received)) if callable(self.status) else self.status

        handlers = [(evt.EVT_C_STORE, store), (evt.EVT_ACCEPTED, count)]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.destination = Destination(
            ae_title="PACS", host="127.0.0.1", port=self.server.socket.getsockname()[1]
        )


@pytest.fixture
def scp():
    started = []

    def start(contexts, **settings):
        started.append(Scp(contexts, **settings))
        return started[-1]

    yield start
    for each in started:
        each.server.shutdown()


@pytest.fixture
def saved(make_image, tmp_path):
    def save(name="x", syntax=None, **attributes):
        ds = make_image(SOPInstanceUID=f"1.2.826.9.{len(list(tmp_path.iterdir()))}", **attributes)
        if syntax:
            ds.compress(syntax, generate_instance_uid=False)
        path = tmp_path / f"{name}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path

    return save


def as_object(path, payload=None):
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return SendObject(
        sop_class_uid=meta.MediaStorageSOPClassUID,
        sop_instance_uid=meta.MediaStorageSOPInstanceUID,
        transfer_syntax_uid=meta.TransferSyntaxUID,
        payload=path if payload is None else payload,
    )


def dataset_bytes(path):
    """What stands after the file meta group."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_objects_arrive_byte_for_byte_over_one_association(scp, saved):
    pacs = scp(STORAGE_CONTEXTS)
    first, second = saved("a"), saved("b", syntax=RLE_LOSSLESS)
    results = send(
        [as_object(first), as_object(second, second.read_bytes())], pacs.destination, "CXR"
    )
    assert [(result.status, result.error) for result in results] == [(0, None), (0, None)]
    assert pacs.associations == 1
    assert [received[2] for received in pacs.received] == [
        dataset_bytes(first), dataset_bytes(second)
    ]  # fmt: skip
    assert [received[1] for received in pacs.received] == [EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS]


def test_nothing_to_send_needs_no_association():
    assert send([], Destination(ae_title="X", host="127.0.0.1", port=1), "CXR") == []


def test_each_object_has_its_own_status(scp, saved):
    pacs = scp(STORAGE_CONTEXTS, status=lambda count: [0x0000, 0xA700, 0xB000][count - 1])
    results = send([as_object(saved(name)) for name in "abc"], pacs.destination, "CXR")
    assert [result.status for result in results] == [0x0000, 0xA700, 0xB000]
    assert [result.error for result in results] == [None, "refused with status 0xA700", None]


def test_a_destination_of_implicit_vr_only_gets_the_same_content(scp, saved):
    pacs = scp({CR_IMAGE: [IMPLICIT_VR_LITTLE_ENDIAN]})
    path = saved()
    assert send([as_object(path)], pacs.destination, "CXR")[0].error is None
    assert pacs.received[0][1] == IMPLICIT_VR_LITTLE_ENDIAN


def test_a_syntax_that_is_not_accepted_is_named_and_the_others_are_sent(scp, saved):
    pacs = scp({CR_IMAGE: [EXPLICIT_VR_LITTLE_ENDIAN]})
    results = send(
        [as_object(saved("a", syntax=RLE_LOSSLESS)), as_object(saved("b"))],
        pacs.destination,
        "CXR",
    )
    assert results[0].status is None
    assert "does not accept Computed Radiography Image Storage as RLE" in results[0].error
    assert results[1].status == 0


def test_when_nothing_is_accepted_it_is_the_objects_error(scp, saved):
    pacs = scp({VERIFICATION: [IMPLICIT_VR_LITTLE_ENDIAN]})
    assert "does not accept" in send([as_object(saved())], pacs.destination, "CXR")[0].error


def test_a_destination_that_is_down_is_unavailable(saved):
    nowhere = Destination(ae_title="PACS", host="127.0.0.1", port=free_port())
    with pytest.raises(DestinationUnavailable, match="cannot connect"):
        send([as_object(saved())], nowhere, "CXR", QUICK)


def test_a_rejected_association_says_why(scp, saved):
    pacs = scp(STORAGE_CONTEXTS, require_calling_aet=["FRIEND"])
    with pytest.raises(DestinationUnavailable, match="rejected"):
        send([as_object(saved())], pacs.destination, "CXR")


def test_a_peer_that_never_answers_is_given_up_in_time(saved):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        silent = Destination(ae_title="PACS", host="127.0.0.1", port=deaf.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(DestinationUnavailable, match="not answered in time"):
            send([as_object(saved())], silent, "CXR", QUICK)
        assert time.monotonic() - started < 8


def test_half_an_answer_and_then_silence_is_given_up_in_time(saved):
    def answer_half(server):
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(b"\x02\x00\x00\x00\x00\xff\x00\x01")
        time.sleep(6)
        connection.close()

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=answer_half, args=[server], daemon=True).start()
        peer = Destination(ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(DestinationUnavailable):
            send([as_object(saved())], peer, "CXR", QUICK)
        assert time.monotonic() - started < 5.5


def test_a_peer_that_hangs_in_a_store_costs_one_timeout(scp, saved):
    pacs = scp(STORAGE_CONTEXTS, before=lambda event: time.sleep(4))
    started = time.monotonic()
    results = send([as_object(saved("a")), as_object(saved("b"))], pacs.destination, "CXR", QUICK)
    assert time.monotonic() - started < 8
    assert [result.status for result in results] == [None, None]
    assert "no valid answer" in results[0].error
    assert "association ended" in results[1].error


def test_a_peer_that_aborts_between_two_objects(scp, saved):
    pacs = scp(STORAGE_CONTEXTS, before=lambda event: event.assoc.abort())
    results = send([as_object(saved("a")), as_object(saved("b"))], pacs.destination, "CXR", QUICK)
    assert all(result.error for result in results)


def test_echo(scp):
    pacs = scp({VERIFICATION: [IMPLICIT_VR_LITTLE_ENDIAN]})
    assert echo(pacs.destination, "CXR") is None
    with pytest.raises(DestinationUnavailable, match="cannot connect"):
        echo(Destination(ae_title="PACS", host="127.0.0.1", port=free_port()), "CXR", QUICK)


def test_echo_to_a_storage_only_destination_is_unavailable(scp):
    pacs = scp({CR_IMAGE: [IMPLICIT_VR_LITTLE_ENDIAN]})
    with pytest.raises(DestinationUnavailable, match="verification"):
        echo(pacs.destination, "CXR", QUICK)


def test_send_files_goes_on_past_what_is_not_dicom(scp, saved, tmp_path):
    pacs = scp(STORAGE_CONTEXTS)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    paths = [text, saved("a"), tmp_path / "absent.dcm", saved("b", syntax=RLE_LOSSLESS)]
    results = list(send_files(paths, pacs.destination, "CXR"))
    assert {result.path.name: result.error for result in results} == {
        "notes.txt": "not a DICOM file",
        "absent.dcm": "cannot be read (No such file or directory)",
        "a.dcm": None,
        "b.dcm": None,
    }
    assert [result.done for result in results] == [1, 2, 3, 4]
    assert {result.total for result in results} == {4}


def test_send_files_yields_each_result_as_it_is_known(scp, saved):
    pacs = scp(STORAGE_CONTEXTS)
    results = send_files([saved("a"), saved("b")], pacs.destination, "CXR")
    next(results)
    assert len(pacs.received) == 1
    assert len(list(results)) == 1


def test_more_contexts_than_fit_go_over_several_associations(scp, saved, monkeypatch):
    monkeypatch.setattr(scu, "CONTEXTS_MAX", 4)
    pacs = scp(STORAGE_CONTEXTS)
    classes = ["1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.7",
               "1.2.840.10008.5.1.4.1.1.1.1", CR_IMAGE]  # fmt: skip
    paths = [saved(f"f{n}", SOPClassUID=uid) for n, uid in enumerate(classes)]
    assert all(result.error is None for result in send_files(paths, pacs.destination, "CXR"))
    assert len(pacs.received) == 4
    assert pacs.associations == 2
    with pytest.raises(ValueError, match="presentation contexts"):
        send([as_object(path) for path in paths], pacs.destination, "CXR")


def test_files_in_a_folder_are_found_in_order(tmp_path):
    for name in ("b.dcm", "a.dcm", "DICOMDIR", "sub/c"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [path.name for path in files_in([tmp_path])] == ["a.dcm", "b.dcm", "c"]
    assert files_in([tmp_path / "b.dcm"]) == [tmp_path / "b.dcm"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("PACS@host:104", ("PACS", "host", 104)), ("P@[::1]:11112", ("P", "::1", 11112))],
)
def test_destinations_parse(text, expected):
    parsed = Destination.parse(text)
    assert (parsed.ae_title, parsed.host, parsed.port) == expected


@pytest.mark.parametrize(
    "text",
    ["", "PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:99999", "PACS@:104",
     "SEVENTEENLETTERSX@host:104", "P\\X@host:104", "PÄCS@host:104", "   @host:104"],
)  # fmt: skip
def test_what_is_no_destination_is_refused(text):
    with pytest.raises(ValueError, match=r"AET@host:port|AE title|port"):
        Destination.parse(text)


def test_no_data_set_reaches_the_log(scp, saved, caplog):
    caplog.set_level("DEBUG")
    pacs = scp(STORAGE_CONTEXTS)
    send([as_object(saved())], pacs.destination, "CXR")
    assert "Doe" not in caplog.text
    assert "P1" not in caplog.text


@pytest.mark.peers
def test_dcmtk_storescp_takes_what_we_send(peer, saved, tmp_path):
    port = free_port()
    folder = tmp_path / "in"
    folder.mkdir()
    server = subprocess.Popen([peer("storescp"), "+xa", "-od", folder, "-aet", "DCMTK", str(port)])
    try:
        destination = Destination(ae_title="DCMTK", host="127.0.0.1", port=port)
        wait_for(destination)
        paths = [saved("a"), saved("b", syntax=RLE_LOSSLESS)]
        assert all(result.status == 0 for result in send_files(paths, destination, "CXR"))
        kept = sorted(folder.iterdir())
        assert len(kept) == 2
        syntaxes = {str(dcmread(path).file_meta.TransferSyntaxUID) for path in kept}
        assert syntaxes == {EXPLICIT_VR_LITTLE_ENDIAN, RLE_LOSSLESS}
    finally:
        server.terminate()
        server.wait(10)


def wait_for(destination):
    for _ in range(100):
        try:
            return echo(destination, "CXR", QUICK)
        except DestinationUnavailable:
            time.sleep(0.05)
    raise AssertionError("storescp did not start")


def test_jpeg_2000_is_offered_as_it_is(scp, real_radiographs):
    paths = [path for path in real_radiographs if "jpeg2000" in path.name]
    if not paths:
        pytest.skip("../shared/data is not at hand")
    pacs = scp(STORAGE_CONTEXTS)
    assert [result.error for result in send_files(paths, pacs.destination, "CXR")] == [None]
    assert pacs.received[0][1] == JPEG_2000_LOSSLESS
