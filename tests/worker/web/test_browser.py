"""A reader at work, in a real browser, over a live `cxr-worker up`."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.support import browser as browsers
from tests.support import dicom
from tests.support.peers import free_port
from tests.support.system import Pacs, System, running, wait_for
from worker import home

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
WITHIN_MS = 90_000  # of a machine that is busy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.chromium() as started:
        yield started


@pytest.fixture(scope="module")
def system_and_pacs(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, Pacs]]:
    with running(tmp_path_factory.mktemp("web"), OUTSIDE_INTENDED_USE="mark") as pair:
        wait_for("the web page", lambda: home.published_port(pair[0].home, "web"))
        yield pair


@pytest.fixture(scope="module")
def system(system_and_pacs: tuple[System, Pacs]) -> System:
    return system_and_pacs[0]


@pytest.fixture
def page(browser: Browser, system: System) -> Iterator[Page]:
    """A page whose every request stays on this server, and whose console stays quiet."""
    base = f"http://127.0.0.1:{home.published_port(system.home, 'web')}"
    context = browser.new_context(base_url=base)
    page = context.new_page()
    page.set_default_timeout(WITHIN_MS)
    expect.set_options(timeout=WITHIN_MS)
    foreign: list[str] = []
    errors: list[str] = []

    def look(request: Request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            foreign.append(request.url)

    page.on("request", look)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert foreign == []
    assert errors == []


def _send(system: System, folder: Path, **changes: object) -> str:
    ds = dicom.chest(**changes)
    assert [it.error for it in system.send([dicom.write(ds, folder)])] == [None]
    return str(ds.StudyInstanceUID)


def test_a_study_appears_is_opened_disagreed_with_filtered_and_reprocessed(
    system: System, page: Page, tmp_path: Path
) -> None:
    page.goto("/")
    expect(page.get_by_text("No study here.")).to_be_visible()
    study = _send(system, tmp_path, AccessionNumber="SEEN-1", pixels=dicom.chest_pixels(512))
    link = page.get_by_role("link", name="SEEN-1")  # without a reload
    expect(link).to_be_visible()
    expect(page.locator("tr", has=link)).to_contain_text("reported")

    link.click()
    expect(page).to_have_url(re.compile(f"/studies/{re.escape(study)}$"))
    expect(page.get_by_text("probability of pneumonia")).to_be_visible()
    picture = page.locator(".stack img").first
    assert picture.evaluate("it => it.decode().then(() => it.naturalWidth)") == 512
    expect(page.get_by_text("Imaging Measurement Report")).to_be_visible()

    page.get_by_label("Comment").fill("a rib, not pneumonia")
    page.get_by_role("button", name="Disagree with the result").click()
    expect(page.locator("blockquote")).to_contain_text("a rib, not pneumonia")

    page.get_by_role("link", name="Worklist").click()
    page.get_by_label("Readers").select_option("disagree")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("link", name="SEEN-1")).to_be_visible()
    page.get_by_label("Readers").select_option("agree")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No study here.")).to_be_visible()

    before = system.study(study)
    assert before is not None
    page.goto(f"/studies/{study}")
    page.get_by_role("button", name="Analyse the images again").click()

    def analysed_again() -> bool:
        row = system.study(study)
        return bool(row and row["revision"] > before["revision"] and row["state"] == "reported")

    wait_for("the second analysis", analysed_again, 90)


def test_the_overlay_slides_and_can_be_switched_off(
    system: System, page: Page, tmp_path: Path
) -> None:
    study = _send(system, tmp_path, AccessionNumber="SEEN-2")
    system.wait_until_reported(study)
    page.goto(f"/studies/{study}")
    overlay = page.locator(".overlay")
    assert overlay.evaluate("it => it.decode().then(() => it.naturalWidth)") == 512
    expect(overlay).to_have_css("opacity", "0.5")
    slider = page.get_by_label("Opacity")
    slider.focus()
    slider.press("End")  # by keyboard
    expect(page.locator("#opacity-value")).to_have_text("100 %")
    expect(overlay).to_have_css("opacity", "1")
    slider.press("Home")
    expect(page.locator("#opacity-value")).to_have_text("0 %")
    expect(overlay).to_have_css("opacity", "0")
    slider.press("End")
    page.get_by_label("Show where the model looked").uncheck()
    expect(overlay).to_have_css("opacity", "0")


def test_an_open_study_shows_what_arrives_later_without_reloading(
    system: System, page: Page, tmp_path: Path
) -> None:
    first = dicom.chest(AccessionNumber="LATER-1")
    system.send([dicom.write(first, tmp_path)])
    system.wait_until_reported(str(first.StudyInstanceUID))
    page.goto(f"/studies/{first.StudyInstanceUID}")
    expect(page.locator(".stack")).to_have_count(1)
    expect(page.get_by_text("of 1 images")).to_be_visible()
    page.evaluate("window.stayed = document.querySelector('.stack img').mark = 'here'")
    page.get_by_label("Opacity").press("End")
    later = dicom.chest(
        str(first.StudyInstanceUID), AccessionNumber="LATER-1", pixels=dicom.chest_pixels(seed=7)
    )
    system.send([dicom.write(later, tmp_path)])
    expect(page.locator(".stack")).to_have_count(2)
    expect(page.locator(".overlay")).to_have_count(2)
    expect(page.locator(".overlay").last).to_have_css("opacity", "1")
    expect(page.get_by_text("of 2 images")).to_be_visible()  # the new report's text
    assert page.evaluate("window.stayed") == "here"  # no reload


def test_what_does_not_change_is_not_loaded_again(
    system: System, page: Page, tmp_path: Path
) -> None:
    study = _send(system, tmp_path, AccessionNumber="SAME-1")
    system.wait_until_delivered(study)
    page.goto(f"/studies/{study}")
    page.evaluate("document.querySelector('.stack img').mark = 'first'")
    with page.expect_response(re.compile("/images$")), page.expect_response(re.compile("/report$")):
        pass
    with page.expect_response(re.compile("/images$")):
        pass
    assert page.evaluate("document.querySelector('.stack img').mark") == "first"


def test_a_file_that_is_dropped_is_analysed_and_never_delivered(
    system: System, page: Page, tmp_path: Path
) -> None:
    page.goto("/try")
    page.get_by_label("Drop files here").set_input_files(dicom.real("RG1_UNCR.dcm"))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("link", name="accepted, see its study").click()
    expect(page.get_by_text("Uploaded to try the model.")).to_be_visible()
    expect(page.get_by_text("probability of pneumonia")).to_be_visible()
    study = page.url.rpartition("/")[2]
    system.wait_until_reported(study)
    expect(page.get_by_role("heading", name="Deliveries")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(
    browser: Browser, system: System, page: Page, scheme: str, tmp_path: Path
) -> None:
    axe = browsers.axe_script(tmp_path)
    study = _send(system, tmp_path, AccessionNumber=f"AXE-{scheme}")
    system.wait_until_reported(study)
    page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
    found = []
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("/", f"/studies/{study}", "/system", "/try", "/api", "/nowhere"):
            page.goto(path)
            page.wait_for_load_state("networkidle")
            found += [f"{path} {width}: {problem}" for problem in browsers.violations(page, axe)]
    assert found == []


def test_axe_finds_no_serious_violation_in_signing_in_and_searching(
    browser: Browser, system: System, page: Page, tmp_path: Path
) -> None:
    axe = browsers.axe_script(tmp_path)
    _send(system, tmp_path, AccessionNumber="AXE-FIND")
    page.goto("/")
    expect(page.get_by_role("link", name="AXE-FIND")).to_be_visible()
    page.get_by_label("Accession number or patient ID").fill("AXE-FIND")
    page.get_by_role("button", name="Find").click()
    expect(page).to_have_url(re.compile("/find$"))
    expect(page.get_by_role("link", name="AXE-FIND")).to_be_visible()
    assert browsers.violations(page, axe) == []
    with _guarded(system, tmp_path / "guarded") as base:
        for theme in ("light", "dark"):
            page = browser.new_page(color_scheme="dark" if theme == "dark" else "light")
            page.goto(f"{base}/")
            expect(page).to_have_url(re.compile("/login$"))
            assert browsers.violations(page, axe) == []
            page.get_by_label("Your name").fill("Reader")
            page.get_by_label("Key of this installation").fill("wrong")
            page.get_by_role("button", name="Sign in", exact=True).click()
            expect(page.get_by_role("alert")).to_be_visible()
            assert browsers.violations(page, axe) == []
            page.close()


@contextmanager
def _guarded(system: System, folder: Path) -> Iterator[str]:
    """Another web process over the same database, with a token and a provider."""
    port = free_port()
    env = system.env | {
        "CXR_HOME_DIR": str(folder),
        "CXR_DATABASE_URL": f"sqlite:///{system.home / 'cxr.db'}",
        "CXR_WEB_PORT": str(port),
        "CXR_WEB_TOKEN": "a-token-of-some-length",
        "CXR_WEB_URL": f"http://127.0.0.1:{port}",
        "CXR_WEB_OIDC_ISSUER": "https://idp.example",
        "CXR_WEB_OIDC_CLIENT_ID": "cxr",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CXR_")}
    process = subprocess.Popen([sys.executable, "-m", "worker.cli", "web"], env=clean | env)
    try:
        wait_for("the guarded page", lambda: home.published_port(folder, "web"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_keyboard_reaches_the_first_study(system: System, page: Page, tmp_path: Path) -> None:
    _send(system, tmp_path, AccessionNumber="KEYS-1")
    page.goto("/?sort=received")
    expect(page.get_by_role("link", name="KEYS-1")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id").startswith("study-"):
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", name="Result")).to_be_visible()
            return
    raise AssertionError("no study was reached by 40 presses of Tab")
