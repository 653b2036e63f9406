"""Take docs/page-*.png of a run that goes on: python docs/screenshots.py runs/search-<time>

In light and dark, wide with a group open, and narrow. Needs Debian's chromium.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, sync_playwright

Scheme = Literal["light", "dark"]
DOCS = Path(__file__).parent
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDE, NARROW = (1440, 1300), (390, 844)


def shoot(browser: Browser, url: str, token: str, scheme: Scheme, size: tuple[int, int]) -> None:
    """One picture of the page at `url`."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,
        http_credentials={"username": "volley", "password": token},
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/")
    page.locator(".plot canvas").last.wait_for()
    page.get_by_text("live", exact=True).wait_for()
    if size == WIDE:
        page.locator("details summary").first.click()
        page.locator("h1").scroll_into_view_if_needed()
    page.screenshot(path=DOCS / f"page-{scheme}-{size[0]}.png")
    context.close()


def main(run_folder: Path) -> None:
    url = json.loads((run_folder / "server.json").read_text())["url"]
    token = (run_folder / "token").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for scheme in SCHEMES:
            for size in (WIDE, NARROW):
                shoot(browser, url, token, scheme, size)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
