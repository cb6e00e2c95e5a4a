"""A storage SCP as pynetdicom's own examples have it: decode, save, answer. A peer of the bench."""

import sys
from pathlib import Path
from typing import cast

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event


def main(port: int, folder: Path) -> None:
    def store(event: Event) -> int:
        ds = event.dataset
        ds.file_meta = event.file_meta
        uid = cast(C_STORE, event.request).AffectedSOPInstanceUID
        ds.save_as(folder / f"{uid}.dcm", enforce_file_format=True)
        return 0x0000

    ae = AE(ae_title="NAIVE")
    ae.supported_contexts = AllStoragePresentationContexts
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
