"""A reader at work, in a real browser, over a live `cxr-worker up`."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.support import browser as browsers
from tests.support import dicom
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
