"""Take the pictures that the documents show: ``make picture``, after ``make demo``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.report.job import write_page
from tests.browser.conftest import chromium
from tests.inspector.serving import KEY, desk_of, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
WIDTH, HEIGHT = 1200, 780
INSPECTOR = 1360, 1155
SCALE = 1.5
"""Device pixels per pixel: sharp on the screens people have."""
TOKENS = 15
"""Of an answer in the picture: as many as the answer has."""


def main(run: Path) -> None:
    """Photograph the report of a run, and the inspector with what came back most."""
    from playwright.sync_api import sync_playwright

    page_of_run = write_page(run)
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = opened(browser, WIDTH, HEIGHT)
        page.goto(page_of_run.resolve().as_uri())
        page.screenshot(path=PICTURES / "report.png")
        with serving(desk_of(run, max_tokens=TOKENS)) as address:
            inspector(opened(browser, *INSPECTOR), f"{address}/?key={KEY}")
        browser.close()


def opened(browser: Browser, width: int, height: int) -> Page:
    """A light page of that size."""
    return browser.new_page(
        viewport={"width": width, "height": height}, device_scale_factor=SCALE, color_scheme="light"
    )


def inspector(page: Page, address: str) -> None:
    """Ask for the text that came back most."""
    page.goto(address)
    page.locator("#metric").select_option("verbmem")
    page.locator("#list button", has_text="was born").first.click()
    page.get_by_text("answered in").wait_for()
    # Seconds differ from one picture to the next.
    page.locator("#state").evaluate("(state) => { state.textContent = ''; }")
    page.screenshot(path=PICTURES / "inspector.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
