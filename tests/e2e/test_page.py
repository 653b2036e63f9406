"""The live page in a real browser: read, steered, and out of reach of what models say."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from tests.e2e.test_run import ENDLESS, START_S, running, steps_on
from tests.processes import write_run
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

expect.set_options(timeout=1000 * START_S)

WIDTHS = (390, 1440)
NUM_CURVES = 6
# The tiny tokenizer does not know the bracket, and writes for it what a browser takes for a tag.
HOSTILE, READ_AS, TAG = "sort <script", "<unk>", "unk"
INK = """canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some((value, i) => i % 4 === 3 && value > 0);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Skips on a laptop without Chromium, fails where CI is set."""
    program = shutil.which("chromium")
    if program is None:
        missing = "no chromium on PATH: make browser"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """Of a run that goes on, on hostile prompts, with two steps taken."""
    here = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VOLLEY_TOKEN", "VOLLEY_ADMIN_TOKEN"):
            patch.delenv(name, raising=False)
        config = write_run(here, ENDLESS)
        rows = (here / "train.jsonl").read_text().splitlines()
        (here / "train.jsonl").write_text("\n".join(map(spoilt, rows)) + "\n")
        with running(config) as process:
            folder = here / "runs" / "run"
            wait_until(lambda: steps_on(folder, 2), START_S)
            yield folder
            process.terminate()
            process.communicate(timeout=START_S)


def spoilt(row: str) -> str:
    return json.dumps(json.loads(row) | {"prompt": HOSTILE})


def signed_in(browser: Browser, folder: Path, width: int = 1440, **options) -> BrowserContext:
    token = (folder / "token").read_text()
    return browser.new_context(
        viewport={"width": width, "height": 900},
        http_credentials={"username": "anybody", "password": token},
        **options,
    )


def address(folder: Path) -> str:
    return str(json.loads((folder / "server.json").read_text())["url"])


@pytest.fixture
def page(browser, folder) -> Iterator[Page]:
    with signed_in(browser, folder) as context:
        page = context.new_page()
        page.goto(address(folder))
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        yield page


def said(page: Page):
    return page.locator("#health .sentence")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_whole_on_every_screen(browser, folder, width, scheme):
    with signed_in(browser, folder, width, color_scheme=scheme) as context:
        page, complaints, hosts = context.new_page(), [], set()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(address(folder))
        expect(page.locator(".plot canvas")).to_have_count(NUM_CURVES)
        for i in range(NUM_CURVES):
            curve = page.locator(".plot canvas").nth(i)
            assert curve.evaluate(INK), "something is drawn"
        expect(said(page)).to_contain_text("Training, step")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        assert hosts == {urlsplit(address(folder)).netloc}


def test_it_reads_without_javascript(browser, folder):
    with signed_in(browser, folder, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address(folder))
        expect(said(page)).to_contain_text("Training, step")
        expect(page.locator("#workers tbody tr")).to_have_count(1)
        expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_what_a_prompt_says_is_text_and_a_key_opens_it(page):
    group = page.locator("details").first
    group.locator("summary").press("Enter")
    expect(group.locator(".prompt").first).to_contain_text(READ_AS)
    expect(group.locator(".generated").first).to_be_visible()
    assert page.locator(f"#groups {TAG}").count() == 0


def test_a_run_is_paused_and_resumed_with_the_admin_token(page, folder):
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Admin token").fill((folder / "token").read_text())
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#told")).to_contain_text("this takes the admin token")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Admin token").fill((folder / "admin_token").read_text())
    page.get_by_role("button", name="Go on").click()
    expect(said(page)).to_contain_text("Paused at step")
    page.get_by_role("button", name="Resume").click()
    expect(said(page)).to_contain_text("Training, step")


def test_a_worker_is_drained_and_the_run_is_stopped(page, folder):
    """Last, for nothing trains afterwards."""
    page.evaluate(f"sessionStorage.setItem('volley-admin-token', '{admin_token(folder)}')")
    drain = page.get_by_role("button", name="Drain")
    drain.focus()
    step = page.locator("#glance dd").first
    before = step.inner_text()
    expect(step).not_to_have_text(re.compile(f"^{re.escape(before)}"))
    expect(drain).to_be_focused()
    drain.press("Enter")
    page.get_by_role("button", name="Go on").click()
    expect(said(page)).to_contain_text("No worker is there")
    expect(page.locator("#health")).to_have_class(re.compile("critical"))
    late = page.content()
    held: list[Route] = []
    page.route(re.compile("/$"), lambda route: route.abort() if held else held.append(route))
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Go on").click()
    expect(said(page)).to_contain_text("The learner has stopped")
    held[0].fulfill(body=late, content_type="text/html")
    page.wait_for_function("() => !refreshing")
    expect(said(page)).to_contain_text("The learner has stopped")


def admin_token(folder: Path) -> str:
    return (folder / "admin_token").read_text()
