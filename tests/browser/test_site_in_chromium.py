"""The site of the pages as a reader meets it: from a folder, without a network, with its search."""

from __future__ import annotations

import pytest
from jupyter_page import contrast, look


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_search_leads_to_the_entry_of_a_name(site, browser, scheme):
    context = browser.new_context(color_scheme=scheme, offline=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/README.html")
    look(page, f"site_{scheme}")
    assert contrast(page, "article p") >= 4.5 and contrast(page, "article a") >= 4.5

    box = page.get_by_placeholder("Search")
    box.fill("kl_shaped_rewards")
    box.press("Enter")
    first = page.locator("#search-results a").first
    first.wait_for()
    page.get_by_text("Search finished").wait_for()
    look(page, f"site_search_{scheme}")
    assert first.inner_text() == "Reference > kl_shaped_rewards"
    first.click()
    page.wait_for_url("**/reference.html*#kl-shaped-rewards")
    page.get_by_role("heading", name="kl_shaped_rewards").wait_for()
    look(page, f"site_entry_{scheme}")
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    context.close()
