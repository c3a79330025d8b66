"""
Pictures of the report of a run for the documentation:

    hf-iomt demo --output-dir runs/demo
    python tests/report/screenshots.py runs/demo docs/images

It needs Chromium and Pillow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from browser import Browser, find_browser

from hf_iomt.report import write_report

# Name, width of the window, dark or not, and the heading that the picture begins and the one that it ends with.
PICTURES = (
    ("report-wide-light", 1280, False, None, "Who made the steps"),
    ("report-wide-dark", 1280, True, "Who made the steps", "Transferability"),
    ("report-narrow-light", 400, False, None, "Evaluations"),
    ("report-narrow-dark", 400, True, "What the surrogate knew", "Everything"),
)


def main(run: str, folder: str) -> None:
    """Write the pictures of a run into a folder."""
    program = find_browser()
    if program is None:
        sys.exit("There is no Chromium: install the package `chromium`.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser(program) as browser:
        page = write_report([run], place)
        for name, width, dark, first, last in PICTURES:
            browser.open(page, width, dark)
            top, end = (
                0
                if text is None
                else browser.evaluate(
                    f"[...document.querySelectorAll('h2')].find(h => h.textContent == {text!r}).offsetTop"
                )
                for text in (first, last)
            )
            path = Path(folder) / f"{name}.png"
            browser.picture(path, top, end - top)
            # Chromium writes quickly rather than small.
            with Image.open(path) as picture:
                picture.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
