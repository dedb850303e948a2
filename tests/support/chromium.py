"""A browser without a window, where there is one."""

import contextlib
import importlib.util
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def path():
    return next(filter(None, map(shutil.which, NAMES)), None)


def is_available():
    return bool(path() and importlib.util.find_spec("playwright"))


@contextlib.contextmanager
def launch():
    """Chromium, driven by Playwright; skips the test where either is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'tracetorch_jax[browser]'"
    )
    if path() is None:
        pytest.skip("needs a Chromium on the PATH")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(
            executable_path=path(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


def write_page(folder, body):
    """Write a page with nothing but `body`, and give its address."""
    path = folder / "page.html"
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>page</title>"
        "<meta name=viewport content='width=device-width'><link rel=icon href='data:,'>"
        f"<body data-theme=auto><div class=content>{body}</div></body></html>"
    )
    return path.as_uri()


def watch(page, wrong):
    """Add to a list whatever a page logs, raises, fails to load, or fetches from elsewhere."""
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url),
    )
