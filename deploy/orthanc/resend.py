#!/usr/bin/env python3
"""Send again what Orthanc stored while cxr-worker was down: Orthanc only logs a failed forward.

    ./resend.py http://127.0.0.1:8042 --since 2026-11-26T08:00:00

Reads Orthanc's log of changes and sends every CR and DX series that changed since then (UTC) to
the modality cxr-worker. What cxr-worker has already is compared there and changes nothing, so an
earlier time is never wrong. Needs Python alone. A user and password of Orthanc's come from
ORTHANC_USER and ORTHANC_PASSWORD. Exit status 1 when some of it could not be sent.
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request
from datetime import datetime
from typing import Any

FORWARDED = {"CR", "DX"}  # as in forward.lua
PAGE = 1000
TIMEOUT_S = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("orthanc", help="its address, such as http://127.0.0.1:8042")
    parser.add_argument("--since", required=True, type=datetime.fromisoformat, help="UTC")
    parser.add_argument("--modality", default="cxr-worker", help="its name in DicomModalities")
    parser.add_argument("--list", action="store_true", help="only say what would be sent")
    options = parser.parse_args()
    orthanc = Orthanc(options.orthanc)
    failed = sent = 0
    for series in orthanc.series_changed_since(f"{options.since:%Y%m%dT%H%M%S}"):
        if not options.list and not orthanc.send(series, options.modality):
            print(f"not sent: {series}", file=sys.stderr)
            failed += 1
            continue
        print(series)
        sent += 1
    print(f"{sent} series {'to send' if options.list else 'sent'}, {failed} failed")
    return 1 if failed else 0


class Orthanc:
    """The few calls of its REST API that are needed."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            sys.exit(f"{url}: expected http://… or https://…")
        self._url = url.rstrip("/")
        user, password = os.environ.get("ORTHANC_USER"), os.environ.get("ORTHANC_PASSWORD", "")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}"} if user else {}

    def series_changed_since(self, moment: str) -> list[str]:
        """Orthanc's identifiers of the series, in the order in which they changed first."""
        found: dict[str, None] = {}
        number = self._first_change_since(moment)
        done = False
        while not done:
            page = self._get(f"/changes?since={number}&limit={PAGE}")
            for change in page["Changes"]:
                if change["ChangeType"] in ("NewSeries", "StableSeries"):
                    found[change["ID"]] = None
            number, done = page["Last"], page["Done"]
        return [series for series in found if self._is_forwarded(series)]

    def send(self, series: str, modality: str) -> bool:
        """C-STORE of the whole series; waits for its end."""
        body = {"Resources": [series], "Synchronous": True}
        try:
            answer = self._get(f"/modalities/{modality}/store", body)
        except (urllib.error.URLError, OSError):
            return False
        return not int(answer.get("FailedInstancesCount", 0))

    def _first_change_since(self, moment: str) -> int:
        """The last change before `moment`, by bisection: the log may have millions."""
        low, high = 0, int(self._get("/changes?last")["Last"])
        while low < high:
            middle = (low + high) // 2
            (change,) = self._get(f"/changes?since={middle}&limit=1")["Changes"] or [None]
            if change is not None and change["Date"] < moment:
                low = int(change["Seq"])
            else:
                high = middle
        return low

    def _is_forwarded(self, series: str) -> bool:
        try:
            tags = self._get(f"/series/{series}")["MainDicomTags"]
        except urllib.error.HTTPError:  # deleted since
            return False
        return tags.get("Modality") in FORWARDED

    def _get(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
