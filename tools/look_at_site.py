"""Looks at the built site in headless Chromium: console errors, pages wider than the screen, pictures that do not show.

    python tools/look_at_site.py site                 # all pages, as wide as a desktop and as a phone
    python tools/look_at_site.py site --shots=folder  # and keeps a picture of each

Chromium is looked for on the path; without it nothing is checked, and the exit code is 0. Speaks to Chromium by its
DevTools protocol over a pipe, so that no driver is needed.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
# What is wider than the page, and which pictures have no pixels.
_MEASURE = """JSON.stringify({
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  blank: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
})"""


def find_chromium() -> str | None:
    """Returns the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def serving(folder: pathlib.Path) -> Iterator[str]:
    """Serves a folder on this machine, and gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Browser:
    """A Chromium with one page, driven by messages of the DevTools protocol, each ended by a zero byte."""

    def __init__(self, program: str, profile: str):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        def take_pipes() -> None:  # Chromium reads from the descriptor 3 and writes to 4
            source, target = os.dup(to_browser), os.dup(from_browser)
            os.dup2(source, 3)
            os.dup2(target, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [program, *flags, "--remote-debugging-pipe", "--no-first-run", "about:blank"],
            close_fds=False,
            preexec_fn=take_pipes,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest, self._number, self._events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method and returns its result; what is told in between is kept for `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._events.append(answer)

    def wait_for(self, event: str) -> None:
        """Waits until something is told."""
        while not any(each.get("method") == event for each in self._events):
            self._events.append(self._next())

    def events(self) -> list[dict[str, Any]]:
        """Returns what was told since the last call."""
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._read, 1 << 16)
            if not more:
                raise RuntimeError("Expected Chromium to answer. Received: the end of its messages")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


def problems_of(browser: Browser, address: str, shot: pathlib.Path | None) -> list[str]:
    """Opens an address and returns what is wrong with what it shows."""
    browser.events()
    browser.call("Page.navigate", url=address)
    browser.wait_for("Page.loadEventFired")
    time.sleep(0.2)  # scripts of the page begin once it is loaded
    measured = json.loads(browser.call("Runtime.evaluate", expression=_MEASURE)["result"]["value"])
    found = [f"{measured['wide']} pixels wider than the screen"] if measured["wide"] > 0 else []
    found += [f"a picture that does not show: {source}" for source in measured["blank"]]
    for event in browser.events():
        details = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            found.append(f"a script fails: {details['exceptionDetails'].get('text')}")
        elif event.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            found.append(f"in the console: {details['entry']['text']} {details['entry'].get('url', '')}")
    if shot is not None:
        picture = browser.call("Page.captureScreenshot", format="png")["data"]
        shot.write_bytes(base64.b64decode(picture))
    return found


def look(folder: pathlib.Path, program: str, shots: pathlib.Path | None = None, dark: bool = False) -> list[str]:
    """Looks at every page of a site in every width, and returns what is wrong, a sentence each."""
    pages = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("index.html"))
    found = []
    with serving(folder) as address, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            browser.call("Emulation.setEmulatedMedia", features=[scheme])
            for name, (width, height) in WIDTHS.items():
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
                browser.call("Emulation.setDeviceMetricsOverride", **size)
                for page in pages:
                    path = "" if page == "." else f"{page}/"
                    shot = shots and shots / f"{name}_{(path or 'start').strip('/').replace('/', '_')}.png"
                    wrong = problems_of(browser, address + path, shot)
                    found += [f"/{path} at the width of a {name}: {problem}" for problem in wrong]
        finally:
            browser.close()
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=pathlib.Path, help="the folder of the built site")
    parser.add_argument("--shots", type=pathlib.Path, help="a folder for a picture of each page")
    parser.add_argument("--dark", action="store_true", help="in dark colours")
    options = parser.parse_args(arguments)
    if not (options.site / "index.html").is_file():
        print(f"Expected the folder of a built site, as `make docs` writes it. Received: {options.site}")
        return 2
    program = find_chromium()
    if program is None:
        print("No Chromium was found, so that nothing was looked at (Debian: apt-get install chromium).")
        return 0
    if options.shots is not None:
        options.shots.mkdir(parents=True, exist_ok=True)
    found = look(options.site, program, options.shots, options.dark)
    print("\n".join(found) if found else "Every page shows as it should, at the width of a desktop and of a phone.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
