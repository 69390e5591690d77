"""Pages that are open while boards begin and end, each with a token of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .boards import TOKEN, record, serving

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

OTHER = "another token, for the next start"


def test_after_a_restart_with_another_token_a_page_asks_for_it_and_goes_on_with_it(
    browser: Browser, tmp_path: Path
) -> None:
    record(tmp_path / "first", [3.0, 2.0, 1.0])
    context = browser.new_context(locale="en-US")
    with serving(tmp_path) as served:
        port = served.port
        run = served.runs()["first"]["id"]
        pages = [context.new_page() for _ in range(2)]
        for page in pages:
            page.goto(f"{served.url}/#token={TOKEN}")
            page.wait_for_selector(".view-runs")
            page.evaluate("fragment => { location.hash = fragment }", f"metrics?run={run}")
            page.wait_for_selector(".card.loaded")
    with serving(tmp_path, port=port, token=OTHER) as served:
        for page in pages:
            # (one of them may have asked the server before)
            page.evaluate("fragment => { location.hash = fragment }", f"config?run={run}")
            page.wait_for_selector(".login")
        # the new address, in the page that is open
        pages[0].evaluate("url => { location.href = url }", f"{served.url}/#token={OTHER}")
        pages[0].wait_for_selector(".view-runs .run-table")
        assert "token" not in pages[0].url
        # the other page hears that somebody has logged in, and is where it was
        pages[1].wait_for_selector(".view-config dl")
        record(tmp_path / "second", [1.0])
        for page in pages:
            page.locator(".rail .runs li").nth(1).wait_for()
            page.wait_for_selector('[data-link="live"]')
    context.close()


def test_two_boards_in_one_browser_keep_their_logins(browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(locale="en-US")
    for name in ("a", "b"):
        record(tmp_path / name / f"run {name}", [1.0])
    with serving(tmp_path / "a") as a, serving(tmp_path / "b", token=OTHER) as b:
        page = context.new_page()
        for served, token, name in ((a, TOKEN, "run a"), (b, OTHER, "run b")):
            page.goto(f"{served.url}/#token={token}")
            page.get_by_role("rowheader", name=name).wait_for()
        for served, name in ((a, "run a"), (b, "run b")):
            page.goto(served.url)
            page.get_by_role("rowheader", name=name).wait_for()
            assert page.locator(".rail .runs li").count() == 1
    context.close()
