# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A real browser for tests: runs a script in a page and returns what the script tells."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# Before the page's own scripts: what goes wrong in them.
LISTEN = """<script>window.wrong = [];
addEventListener("error", (event) => wrong.push(event.message || "not loaded: " + event.target.outerHTML), true);
addEventListener("securitypolicyviolation", (event) => wrong.push("refused: " + event.blockedURI));
</script>"""
TELL = """<script>(() => {
  const told = (() => { %s })();
  const place = document.createElement("pre");
  place.id = "told";
  place.textContent = JSON.stringify({ told, wrong: window.wrong });
  document.body.append(place);
})();</script>"""


def run_in_page(page: str, script: str, folder: Path, *, width: int = 1200, dark: bool = False) -> dict[str, Any]:
    """Return {"told": what the script returns, "wrong": errors of the page's scripts and what it failed to load}."""
    head, _, rest = page.partition("<head>")
    body, _, end = rest.rpartition("</body>")
    tried = f"{head}<head>{LISTEN}{body}{TELL % script}</body>{end}"
    settings = [f"--window-size={width},900", *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
    content = _dump(tried, folder, *settings)
    found = re.search(r'<pre id="told">(.*?)</pre>', content, flags=re.S)
    assert found is not None, content[-2000:]
    return json.loads(unescape(found[1]))


def _dump(page: str, folder: Path, *settings: str) -> str:
    """Return the page's document as the browser has it after its scripts ran."""
    assert CHROMIUM is not None
    file = folder / "tried.html"
    file.write_text(page, encoding="utf-8")
    words = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={folder / 'browser'}", *settings, "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
