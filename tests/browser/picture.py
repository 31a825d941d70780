"""Take the picture of the report that the README shows: ``make picture``, after ``make demo``."""

from __future__ import annotations

import sys
from pathlib import Path

from expunge.report.job import write_page
from tests.browser.conftest import chromium

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "report.png"
WIDTH, HEIGHT = 1200, 780
SCALE = 1.5
"""Device pixels per pixel: sharp on the screens people have."""


def main(run: Path) -> None:
    """Draw the report of a run and photograph its first screen."""
    from playwright.sync_api import sync_playwright

    page_of_run = write_page(run)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        )
        page.goto(page_of_run.resolve().as_uri())
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
