"""An association with a destination, by us as its requestor; encrypted where it says so."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable

# Never print a PDU or a data set into a log.
_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long each kind of waiting may last."""

    connection_s: float = 5
    acse_s: float = 10
    dimse_s: float = 30
    network_s: float = 60


@contextmanager
def associated(
    destination: Destination,
    calling_ae_title: str,
    contexts: list[PresentationContext],
    timeouts: Timeouts | None = None,
) -> Iterator[Association]:
    """Hold an association open; it is not established if none of the contexts was accepted.

    Raises DestinationUnavailable when it does not come about for any other reason.
    """
    timeouts = timeouts or Timeouts()
    opened: list[bool] = []

    def bound_the_socket(event: evt.Event) -> None:
        # Half a PDU and then silence outlasts pynetdicom's own network timeout.
        opened.append(True)
        wrapped = event.assoc.dul.socket
        if wrapped is not None and wrapped.socket is not None:
            wrapped.socket.settimeout(timeouts.network_s)

    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = timeouts.connection_s
    ae.acse_timeout = timeouts.acse_s
    ae.dimse_timeout = timeouts.dimse_s
    ae.network_timeout = timeouts.network_s
    assoc = ae.associate(
        destination.host,
        destination.port,
        contexts=contexts,
        ae_title=destination.ae_title,
        tls_args=_tls(destination),
        evt_handlers=[(evt.EVT_CONN_OPEN, bound_the_socket)],
    )
    # pynetdicom ends an association without an accepted context: the objects' fault, not its.
    if not assoc.is_established and not assoc.rejected_contexts:
        raise DestinationUnavailable(_refusal(assoc, bool(opened)))
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def _tls(destination: Destination) -> tuple[ssl.SSLContext, str] | None:
    if destination.tls is None:
        return None
    try:
        return destination.tls.client_context(), destination.host
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise DestinationUnavailable(f"TLS files cannot be used ({said})") from error


def _refusal(assoc: Association, connected: bool) -> str:
    if not connected:
        return "cannot connect"
    if assoc.is_rejected:
        primitive = assoc.acceptor.primitive
        reason = getattr(primitive, "reason_str", "") or "no reason given"
        return f"association rejected ({reason})"
    return "association aborted, or not answered in time"
