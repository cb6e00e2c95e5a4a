"""Send DICOM objects to a storage SCP, and ask whether it answers.

Files leave byte for byte as they are. Only where a destination takes Implicit VR but not
Explicit VR is the data set encoded anew.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.status import code_to_category

from dicom_io.association import Timeouts, associated
from dicom_io.contexts import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    VERIFICATION,
)
from dicom_io.destination import Destination
from dicom_io.errors import DestinationUnavailable

_config.STORE_SEND_CHUNKED_DATASET = True  # send files in pieces, as they are

logger = logging.getLogger(__name__)

CONTEXTS_MAX = 128  # PS3.8 9.3.2.2: odd numbers of one byte
OUT_OF_RESOURCES = range(0xA700, 0xA800)  # PS3.4 B.2.3: a full disk, say; nothing of the object


@dataclass(frozen=True, kw_only=True)
class SendObject:
    """One object as a Part 10 file: its bytes, or where it lies."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    payload: bytes | Path


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """What became of one object: `error` is None when the destination has it.

    status: the C-STORE status (PS3.4 B.2.3), None where none came. refused: the destination has
    looked at the object and does not take it, for another reason than want of room. final: nor
    would it the next time.
    """

    sop_instance_uid: str
    status: int | None
    error: str | None
    refused: bool = False
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What became of one file of `send_files`. `done` of `total` files are behind us."""

    path: Path
    sop_instance_uid: str | None
    status: int | None
    error: str | None
    done: int
    total: int


def send(
    objects: Sequence[SendObject],
    destination: Destination,
    calling_ae_title: str,
    timeouts: Timeouts | None = None,
) -> list[SendResult]:
    """C-STORE objects over one association, in order; each has its own result.

    Raises DestinationUnavailable when no association comes about, ValueError when the objects
    need more than 128 presentation contexts.
    """
    if not objects:
        return []
    syntaxes = {(item.sop_class_uid, item.transfer_syntax_uid): None for item in objects}
    with storing(list(syntaxes), destination, calling_ae_title, timeouts) as peer:
        return [peer.store(item) for item in objects]


class StoragePeer:
    """A destination while an association with it lasts."""

    def __init__(self, assoc: Association) -> None:
        self._assoc = assoc

    def accepts(self, sop_class_uid: str) -> bool:
        contexts = self._assoc.accepted_contexts
        return any(context.abstract_syntax == sop_class_uid for context in contexts)

    def store(self, item: SendObject) -> SendResult:
        """C-STORE one object; whatever happens to it is in the result."""
        return _store(self._assoc, item)


@contextmanager
def storing(
    proposed: Sequence[tuple[str, str]],
    destination: Destination,
    calling_ae_title: str,
    timeouts: Timeouts | None = None,
) -> Iterator[StoragePeer]:
    """Hold an association open for objects of these SOP classes and transfer syntaxes.

    Raises DestinationUnavailable when no association comes about, ValueError when they need more
    than 128 presentation contexts.
    """
    contexts = _contexts(proposed)
    if len(contexts) > CONTEXTS_MAX:
        raise ValueError(f"{len(contexts)} presentation contexts, at most {CONTEXTS_MAX} fit")
    with associated(destination, calling_ae_title, contexts, timeouts) as assoc:
        yield StoragePeer(assoc)


def send_files(
    paths: Iterable[Path],
    destination: Destination,
    calling_ae_title: str,
    timeouts: Timeouts | None = None,
) -> Iterator[FileResult]:
    """C-STORE files, yielding one result for each as it is known.

    What is no Part 10 file is a result with an error, and the others are sent. Files that need
    more contexts than one association has go over several. Raises DestinationUnavailable.
    """
    found: list[tuple[Path, SendObject]] = []
    paths = list(paths)
    done = 0
    for path in paths:
        item = _send_object(path)
        if isinstance(item, SendObject):
            found.append((path, item))
            continue
        done += 1
        yield FileResult(path=path, sop_instance_uid=None, status=None, error=item,
                         done=done, total=len(paths))  # fmt: skip
    for group in _groups(found):
        contexts = _contexts([(it.sop_class_uid, it.transfer_syntax_uid) for _, it in group])
        with associated(destination, calling_ae_title, contexts, timeouts) as assoc:
            for path, item in group:
                result = _store(assoc, item)
                done += 1
                yield FileResult(path=path, sop_instance_uid=item.sop_instance_uid, done=done,
                                 status=result.status, error=result.error,
                                 total=len(paths))  # fmt: skip


def files_in(paths: Iterable[Path]) -> list[Path]:
    """Return the files named, and those in the folders named, in order, DICOMDIR left out."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name != "DICOMDIR")
        files.extend(inside)
    return files


def echo(destination: Destination, calling_ae_title: str, timeouts: Timeouts | None = None) -> None:
    """C-ECHO. Returns when the destination answers Success, else raises DestinationUnavailable."""
    contexts = [build_context(VERIFICATION, [IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN])]
    with associated(destination, calling_ae_title, contexts, timeouts) as assoc:
        if not assoc.accepted_contexts:
            raise DestinationUnavailable("does not accept verification")
        status = assoc.send_c_echo().get("Status")
        if status != 0:
            answer = "no answer" if status is None else f"status 0x{status:04X}"
            raise DestinationUnavailable(f"{answer} to C-ECHO")


def _contexts(proposed: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """Return one context for each pair of SOP class and transfer syntax, and no more than needed.

    Explicit VR is offered in Implicit VR too, which every SCP must take (PS3.5 10.1).
    """
    pairs: dict[tuple[str, str], None] = {}
    for sop_class, syntax in proposed:
        pairs[sop_class, syntax] = None
        if syntax == EXPLICIT_VR_LITTLE_ENDIAN:
            pairs[sop_class, IMPLICIT_VR_LITTLE_ENDIAN] = None
    return [build_context(sop_class, syntax) for sop_class, syntax in pairs]


def _groups(
    found: list[tuple[Path, SendObject]],
) -> Iterator[list[tuple[Path, SendObject]]]:
    """Cut the files into runs whose contexts fit into one association."""
    group: list[tuple[Path, SendObject]] = []
    pairs: set[tuple[str, str]] = set()
    for path, item in found:
        pair = (item.sop_class_uid, item.transfer_syntax_uid)
        if pair not in pairs and 2 * (len(pairs) + 1) > CONTEXTS_MAX:
            yield group
            group, pairs = [], set()
        group.append((path, item))
        pairs.add(pair)
    if group:
        yield group


def _send_object(path: Path) -> SendObject | str:
    """Read what a file is from its meta information; a str says why it is not sent."""
    try:
        meta = read_file_meta_info(path)
        return SendObject(
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            payload=path,
        )
    except OSError as error:
        return f"cannot be read ({error.strerror or type(error).__name__})"
    except Exception:  # pydicom's parser meets rubbish with any exception there is
        return "not a DICOM file"


def _store(assoc: Association, item: SendObject) -> SendResult:
    def not_sent(error: str) -> SendResult:
        return SendResult(sop_instance_uid=item.sop_instance_uid, status=None, error=error)

    if assoc.accepted_contexts and not assoc.is_established:
        return not_sent("the association ended before this object")
    try:
        with _as_file(item.payload) as path:
            dataset = _what_to_send(assoc, item, path)
            if dataset is None:
                return not_sent(_not_accepted(item))
            status = assoc.send_c_store(dataset).get("Status")
    except OSError as error:
        return not_sent(f"cannot be read ({error.strerror or type(error).__name__})")
    except Exception as error:  # one bad object must not cost the others their turn
        logger.warning(
            "object not sent: %s",
            type(error).__name__,
            extra={"sop_instance_uid": item.sop_instance_uid},
        )
        return not_sent(f"cannot be sent ({type(error).__name__})")
    if status is None:
        return not_sent("no valid answer to C-STORE")
    taken = code_to_category(status) in ("Success", "Warning")
    return SendResult(
        sop_instance_uid=item.sop_instance_uid,
        status=status,
        error=None if taken else f"refused with status 0x{status:04X}",
        refused=not (taken or status in OUT_OF_RESOURCES),
    )


@contextmanager
def _as_file(payload: bytes | Path) -> Iterator[Path]:
    if isinstance(payload, Path):
        yield payload
        return
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(payload)
        file.flush()
        yield Path(file.name)


def _what_to_send(assoc: Association, item: SendObject, path: Path) -> Any:
    """Return the file itself, a data set to be encoded anew, or None when neither is accepted."""
    accepted = {
        str(context.transfer_syntax[0])
        for context in assoc.accepted_contexts
        if context.abstract_syntax == item.sop_class_uid
    }
    if item.transfer_syntax_uid in accepted:
        return path
    if item.transfer_syntax_uid != EXPLICIT_VR_LITTLE_ENDIAN:
        return None
    return dcmread(path) if IMPLICIT_VR_LITTLE_ENDIAN in accepted else None


def _not_accepted(item: SendObject) -> str:
    syntax, sop_class = UID(item.transfer_syntax_uid).name, UID(item.sop_class_uid).name
    return f"destination does not accept {sop_class} as {syntax}"
