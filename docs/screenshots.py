"""Take docs/page-*.png of a run that goes on: python docs/screenshots.py runs/search-<time>

In light and dark, wide and narrow, with a trajectory open. Needs Debian's chromium.
"""

import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, ColorScheme, sync_playwright

DOCS = Path(__file__).parent
SCHEMES: tuple[ColorScheme, ...] = ("light", "dark")
WIDTHS = (1440, 390)
HEIGHT = 900


def shoot(browser: Browser, url: str, token: str, scheme: ColorScheme, width: int) -> None:
    """One picture of the page at `url`."""
    context = browser.new_context(
        viewport={"width": width, "height": HEIGHT},
        color_scheme=scheme,
        http_credentials={"username": "volley", "password": token},
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{url}/")
    page.locator(".plot canvas").last.wait_for()
    page.locator("details summary").first.click()
    page.get_by_text("live", exact=True).wait_for()
    page.screenshot(path=DOCS / f"page-{scheme}-{width}.png", full_page=width > HEIGHT)
    context.close()


def main(run_folder: Path) -> None:
    url = json.loads((run_folder / "server.json").read_text())["url"]
    token = (run_folder / "token").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for scheme in SCHEMES:
            for width in WIDTHS:
                shoot(browser, url, token, scheme, width)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
