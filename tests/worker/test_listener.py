"""Several listener processes on one port, as a real command: one killed, all drained."""

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_io.contexts import VERIFICATION
from dicom_io.destination import Tls
from tests.support import dicom, upper_layer
from tests.support.listener import Listener, listening
from tests.support.system import wait_for
from tests.support.tls import Authority
from worker.spool import Spool
from worker.supervisor import STOP_WITHIN_S

PROCESSES = 2


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    with listening(tmp_path, LISTENER_PROCESSES=PROCESSES) as running:
        wait_for("its children", lambda: len(running.children()) == PROCESSES)
        yield running


def test_processes_share_a_port_and_a_killed_one_starts_again(
    listener: Listener, tmp_path: Path
) -> None:
    children = listener.children()
    paths = [dicom.write(dicom.chest(pixels=dicom.chest_pixels(64)), tmp_path) for _ in range(12)]
    with ThreadPoolExecutor(6) as senders:
        results = list(senders.map(lambda path: listener.send([path])[0].status, paths[:10]))
    assert results == [0] * 10
    children[0].send_signal(signal.SIGKILL)
    wait_for("another child", lambda: {*listener.children()} - {*children}, 15)
    assert [result.status for result in listener.send(paths[10:])] == [0, 0]
    assert listener.rows() == len(paths)

    listener.process.terminate()
    assert listener.process.wait(30) == 0
    assert not any(child.is_running() for child in children)


def test_both_ports_are_drained_by_one_deadline_whatever_peers_do(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    ours, modality = authority.issue("listener"), authority.issue("modality")
    tls = {"PORT": 0, "CERT": ours.cert, "KEY": ours.key, "CA": authority.cert}
    settings = {f"LISTENER_TLS_{name}": value for name, value in tls.items()}
    context = Tls(
        ca_file=authority.cert, cert_file=modality.cert, key_file=modality.key
    ).client_context()
    half = upper_layer.header(upper_layer.P_DATA_TF, 1000) + b"half"
    with (
        listening(tmp_path, LISTENER_PROCESSES=PROCESSES, **settings) as listener,
        contextlib.ExitStack() as held,
    ):
        idle = []
        for port, rest in product((listener.port, listener.tls_port), (b"", half)):
            peer = held.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            if port == listener.tls_port:
                peer = held.enter_context(context.wrap_socket(peer, server_hostname="localhost"))
            peer.sendall(upper_layer.associate_request())
            assert peer.recv(4096)[:1] == upper_layer.ACCEPTED
            peer.sendall(rest)
            if not rest:
                idle.append(peer)
        listener.process.terminate()
        assert listener.process.wait(STOP_WITHIN_S) == 0
        assert [peer.recv(10)[:1] for peer in idle] == [upper_layer.ABORTED] * 2


def test_a_process_that_has_ended_cuts_off_no_association_of_another(listener: Listener) -> None:
    first, last = sorted(listener.children(), key=lambda it: it.pid)
    mine = _associate(listener.port)
    others = []
    while _local_port(mine) not in _peer_ports(last):  # either of them may have accepted it
        others.append(mine)
        mine = _associate(listener.port)
    for association in others:
        association.release()
    listener.process.terminate()
    wait_for("the process without associations to end", lambda: not first.is_running())
    for _ in range(10):
        assert mine.send_c_echo().Status == 0
        time.sleep(0.05)
    mine.release()
    assert listener.process.wait(STOP_WITHIN_S) == 0


@pytest.mark.long
def test_a_listener_that_adopts_many_files_ends_when_asked(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "home" / "spool")
    spool.create()
    count = 2000
    for _ in range(count):
        ds = dicom.chest(pixels=dicom.chest_pixels(8))
        folder = spool.files / uuid4().hex[:2]
        dicom.write(ds, folder).rename(folder / f"{ds.SOPInstanceUID}.dcm")
    with listening(tmp_path) as listener:
        wait_for("the first to be adopted", listener.rows)
        listener.process.terminate()
        assert listener.process.wait(STOP_WITHIN_S) == 0
        assert listener.rows() < count


def _associate(port: int) -> Association:
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", port, ae_title="CXR_WORKER")
    assert association.is_established
    return association


def _local_port(association: Association) -> int:
    assert association.dul.socket is not None
    assert association.dul.socket.socket is not None
    port: int = association.dul.socket.socket.getsockname()[1]
    return port


def _peer_ports(process: psutil.Process) -> set[int]:
    return {it.raddr.port for it in process.net_connections("tcp") if it.raddr}
