"""Pages in headless Chromium: on a phone every value is seen, and nothing scrolls aside."""

import json
import os
import re
import shutil
import subprocess

import pytest
from evaluated_runs import evaluated, model_of, placed

from retina_jax import report

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
WIDTHS = (320, 390, 1032)
# What a page does not fit into, with all that is folded opened: widths, values off the screen, and
# heads of pictures that lead out of their frames.
MEASURE = """
const found = {};
onload = () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, width = frame.clientWidth;
    page.querySelectorAll("details").forEach(one => { one.open = true; });
    const values = [...page.querySelectorAll(".value")].filter(one => one.textContent.trim());
    const off = values.filter(one => {
      const box = one.getBoundingClientRect();
      return !box.width || box.right > width + 0.5 || box.left < -0.5;
    });
    off.push(...[...page.querySelectorAll(".head")].filter(
      one => one.scrollWidth > one.clientWidth));
    found[frame.id] = [page.scrollingElement.scrollWidth, values.length,
                       off.slice(0, 5).map(one => one.textContent)];
  }
  document.title = JSON.stringify(found);
};
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Page and width -> its scroll width, how many values it has, and those that are not seen."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("pages")
    names = tuple(f"a class with a long name, number {k}" for k in range(14))
    runs = [placed(folder / "a", signal=1.2, count=120, validation=60),
            evaluated(folder / "b", 2.5),
            evaluated(folder / "many", 2.0, task="ordinal", count=90, classes=names),
            evaluated(folder / "labels", task="multi-label", count=60, validation=60)]  # fmt: skip
    pages = {run.name: report.write([run], run / "report.html", decision="refer") for run in runs}
    pages["several"] = report.write([runs[1], runs[0], *runs[2:]], folder / "several.html")
    card = {"decision": "refer", "model": model_of(runs[1], folder / "model")}
    pages["card"] = report.write([runs[1]], folder / "card.html", **card)
    frames = [
        f'<iframe id="{name} {width}" src="{page.as_uri()}" style="width: {width}px; border: 0">'
        "</iframe>" for name, page in pages.items() for width in WIDTHS
    ]  # fmt: skip
    wrapper = folder / "all.html"
    wrapper.write_text(f"<!DOCTYPE html>{''.join(frames)}<script>{MEASURE}</script>", "utf-8")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [CHROMIUM, "--headless", *sandbox, "--disable-gpu", "--allow-file-access-from-files",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom",
         wrapper.as_uri()],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr[-2000:]
    return json.loads(title[1])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", ["a", "many", "labels", "several", "card"])
def test_every_value_is_on_the_screen(measured, page, width):
    across, values, off = measured[f"{page} {width}"]
    assert across <= width and values > 40 and off == []
