"""Photographs the page of a run, as a desktop and a phone show it, with headless Chromium:
docs/pictures/report_desktop.png and report_phone.png.

bilevel-distill run --dataset digits --out runs/digits
python docs/pictures/report.py runs/digits
"""

import html
import subprocess
import sys
import tempfile
from pathlib import Path

import PIL.Image

from bilevel_distillation import report

HERE = Path(__file__).parent


def photograph(page: str, out: Path, width: int, height: int, scale: float) -> None:
    # In a frame, because a window is never as narrow as a phone.
    frame = f'<iframe style="border:0;width:{width}px;height:{height}px;display:block" srcdoc="'
    with tempfile.TemporaryDirectory() as folder:
        framed = Path(folder) / "framed.html"
        start = "<!doctype html><meta charset=utf-8><style>body{margin:0}</style>"
        framed.write_text(f'{start}{frame}{html.escape(page)}"></iframe>', encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--force-device-scale-factor={scale}"]
        command += [f"--window-size={max(width, 600)},{height + 100}", f"--screenshot={out}"]
        subprocess.run([*command, framed.as_uri()], check=True, stderr=subprocess.DEVNULL)
    with PIL.Image.open(out) as picture:
        cut = picture.convert("RGB").crop((0, 0, int(width * scale), int(height * scale)))
    cut.quantize(256, dither=PIL.Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        page = report(sys.argv[1], Path(folder) / "page.html").read_text(encoding="utf-8")
    photograph(page, HERE / "report_desktop.png", 1080, 1258, 1)
    photograph(page, HERE / "report_phone.png", 360, 965, 1.5)
