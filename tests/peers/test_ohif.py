"""OHIF, as its users have it: does it list what we deliver, and show the probability on the image?

It comes from npm in its built form, runs over Orthanc's DICOMweb and is driven in a headless
Chromium. KEEP_SCREENSHOTS=folder keeps what it showed; docs/images has those of a run.
"""

import os
from pathlib import Path

import pytest

from tests.peers.test_orthanc import Orthanc
from tests.support import dicom, ohif
from tests.support.peers import tool
from tests.support.system import running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [pytest.mark.peers, pytest.mark.long, pytest.mark.timeout(600)]
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# No graphics card: WebGL in software.
FLAGS = "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist"
WAIT_MS = 120_000


def test_ohif_lists_both_series_and_shows_the_probability_on_the_image(tmp_path: Path) -> None:
    browser_path = tool("chromium")
    if not DICOMWEB.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (Debian: orthanc-dicomweb)")
    page_folder = ohif.unpacked(tmp_path)
    folder = tmp_path / "orthanc"
    folder.mkdir()
    orthanc = Orthanc(folder, Plugins=[str(DICOMWEB)])
    ds = dicom.real_copy("RG1_UNCR.dcm")  # an adult: marked, not withheld
    settings = {
        "DESTINATIONS": orthanc.destination,
        "OUTSIDE_INTENDED_USE": "mark",
        "BAND_REVIEW_FROM": 1e-6,  # whatever the model thinks of this chest, it gets a picture
    }
    with running(tmp_path / "home", **settings) as (system, _):
        try:
            orthanc.start(system.address.port)
            orthanc.get("/instances", dicom.write(ds, tmp_path).read_bytes())
            row = system.wait_until_delivered(ds.StudyInstanceUID, within_s=180)
        except BaseException:
            orthanc.stop()
            raise
    try:
        with ohif.served(page_folder, orthanc.http_port) as url, sync_api.sync_playwright() as run:
            browser = run.chromium.launch(executable_path=browser_path, args=FLAGS.split())
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(WAIT_MS)
            page.goto(f"{url}/viewer?StudyInstanceUIDs={ds.StudyInstanceUID}")
            report = page.get_by_text("AI result pneumonia, not for diagnostic use").first
            saliency = page.get_by_text("AI saliency pneumonia, not for diagnostic use").first
            report.wait_for()
            page.get_by_text("Skip all").click()  # the tour of the first visit
            show_saliency(page, saliency)
            keep(page, "ohif-saliency")
            said = opened(page, report, saliency)
            assert f"Certainty of Finding: {row['probability'] * 100:.1f}" in said
            keep(page, "ohif-sr")
            browser.close()
    finally:
        orthanc.stop()


def show_saliency(page: "sync_api.Page", saliency: "sync_api.Locator") -> None:
    saliency.dblclick()
    page.locator("canvas").first.wait_for()
    page.wait_for_function("() => document.body.innerText.includes('256')")  # its window
    page.wait_for_timeout(3000)


def opened(page: "sync_api.Page", report: "sync_api.Locator", saliency: "sync_api.Locator") -> str:
    """Open the report; what is on the image.

    Where the image comes later than the report, as on a slow machine, OHIF shows it and does not
    write on it: leaving it and coming back helps.
    """
    said = page.get_by_text("Certainty of Finding").first
    for attempts_left in reversed(range(6)):
        report.dblclick()
        try:
            said.wait_for(state="attached", timeout=WAIT_MS / 4)
            break
        except sync_api.TimeoutError:
            if not attempts_left:
                raise
            show_saliency(page, saliency)
    page.wait_for_timeout(3000)  # until it is drawn
    return said.text_content() or ""


def keep(page: "sync_api.Page", name: str) -> None:
    folder = os.environ.get("KEEP_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.jpeg", type="jpeg", quality=80)
