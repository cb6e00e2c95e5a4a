"""TLS as PS3.15 asks for it: the profile "BCP 195 RFC 8996, 9325" (PS3.15 B.12).

TLS 1.3, or 1.2 with forward secrecy and authenticated encryption. No session is resumed and none
renegotiated, so that each association shows its certificate anew.
"""

import ssl
from enum import StrEnum
from pathlib import Path

CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all of this kind


class ClientCertificate(StrEnum):
    """What a server asks of its clients."""

    REQUIRED = "required"
    OPTIONAL = "optional"  # who shows none is let in; a bad one is refused
    NONE = "none"


def harden(context: ssl.SSLContext) -> None:
    """Hold a context to the profile."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def server_context(
    cert_file: Path,
    key_file: Path,
    ca_file: Path | None,
    client_certificate: ClientCertificate = ClientCertificate.REQUIRED,
    crl_file: Path | None = None,
) -> ssl.SSLContext:
    """What an SCP shows and asks for.

    ca_file: the CAs, or the very certificates, of the clients; nobody else's are believed, and
    not those of the system. crl_file: the certificate revocation lists of these CAs. With it,
    every certificate of a client's chain is looked up (RFC 5280, 6.3), and where there is no list
    of its issuer, or only one that has expired, the client is refused. Raises ValueError, which
    names the file that is of no use.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    harden(context)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise ValueError(f"{cert_file}, {key_file}: {_reason(error)}") from error
    if client_certificate is ClientCertificate.NONE:
        return context
    required = client_certificate is ClientCertificate.REQUIRED
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a leaf may be listed itself
    if ca_file is None:
        raise ValueError("a file of CAs is needed to check client certificates")
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{ca_file}: {_reason(error)}") from error
    if crl_file is not None:
        _load_revocations(context, crl_file)
    return context


def _load_revocations(context: ssl.SSLContext, crl_file: Path) -> None:
    known = context.cert_store_stats()
    try:
        context.load_verify_locations(crl_file)
    except (OSError, ValueError) as error:
        said = _reason(error) if not isinstance(error, ssl.SSLError) else "it is no PEM"
        raise ValueError(f"{crl_file}: {said}; expected certificate revocation lists") from error
    found = context.cert_store_stats()
    # OpenSSL would take a certificate among them for a CA to be trusted.
    if found["crl"] == known["crl"] or found["x509"] != known["x509"]:
        raise ValueError(f"{crl_file}: expected certificate revocation lists, and nothing else")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def why_refused(error: Exception) -> str:
    """A failed handshake in words; what the peer's certificate says of itself is not in them."""
    if isinstance(error, TimeoutError):
        return "the TLS handshake took too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or 'the peer broke off').lower().replace('_', ' ')}"
    return "the peer broke off"


def _no_password() -> str:
    raise ValueError("the key is encrypted: expected one without a password, readable by us alone")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        words = (error.reason or "no PEM").lower().replace("_", " ")
        return f"expected a PEM certificate and its key ({words})"
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror})"
    return str(error)
