"""The pages: what they are made of, and that they need nothing but this server."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from tests.service.conftest import Api, Serve, assert_problem

PAGES = ("/", "/docs")
SVG_NAMESPACE = "http://www.w3.org/2000/svg"

_NAMED_BY_SCRIPT = re.compile(r"""(?:from|import)\s+"([^"]+)\"""")
_NAMED_BY_STYLE = re.compile(r"""url\(\s*["']?([^"')]+)""")
_CALLED = re.compile(r"""["`](/(?:datasets|jobs|models|train|predict)\b[^"`?]*)""")


class _Page(HTMLParser):
    """What a page names, and what it would run or draw by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.assets: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.inline += [name for name in named if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" else []
        if tag == "link" or "src" in named:
            self.assets.append(str(named.get("href") or named.get("src")))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


def assets_of(api: Api, page: str) -> dict[str, str]:
    """Return the text of all that a page loads, by path, following modules and styles."""
    waiting = [urljoin(page, name) for name in _Page(api.get(page).text).assets]
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        answer = api.get(path)
        assert answer.status_code == 200, path
        found[path] = answer.text
        if not path.startswith("/static/"):
            continue  # Swagger UI's bundle holds URLs in its texts
        pattern = _NAMED_BY_STYLE if path.endswith(".css") else _NAMED_BY_SCRIPT
        waiting += [urljoin(path, name) for name in pattern.findall(answer.text)]
    return found


def policy_of(api: Api, path: str) -> dict[str, list[str]]:
    header = api.get(path).headers["content-security-policy"]
    parts = [part.split() for part in header.split(";")]
    return {name: values for name, *values in parts}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_html_that_only_this_server_may_fill(api: Api, page: str) -> None:
    answer = api.get(page)
    policy = policy_of(api, page)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]


def test_the_dashboard_may_write_neither_markup_nor_styles_from_text(shared: Api) -> None:
    policy = policy_of(shared, "/")

    assert policy["require-trusted-types-for"] == ["'script'"]
    assert policy["style-src"] == ["'self'"]


@pytest.mark.parametrize("page", PAGES)
def test_everything_that_a_page_names_is_there_with_the_same_headers(
    shared: Api, page: str
) -> None:
    paths = assets_of(shared, page)

    assert any(path.endswith(".js") for path in paths)
    for path in paths:
        headers = shared.get(path).headers
        assert headers["cache-control"] == "no-cache", path
        assert headers["x-content-type-options"] == "nosniff", path
        assert "content-security-policy" in headers, path


def test_the_dashboard_is_made_of_all_its_modules(shared: Api) -> None:
    names = {path.rpartition("/")[2] for path in assets_of(shared, "/")}

    assert {"main.js", "jobs.js", "datasets.js", "models.js", "predict.js", "charts.js"} <= names
    assert {"history.js", "variants.js", "calibrations.js", "evaluations.js"} <= names
    assert {"feedback.js", "courses.js"} <= names
    assert "dashboard.css" in names


@pytest.mark.parametrize("path", [*PAGES, "/static/main.js", "/docs/assets/swagger-ui.css"])
def test_what_has_not_changed_is_not_sent_again(shared: Api, path: str) -> None:
    first = shared.get(path)
    again = shared.get(path, headers={"If-None-Match": first.headers["etag"]})

    assert first.headers["cache-control"] == "no-cache"
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_nothing_that_is_written_into_it(shared: Api, page: str) -> None:
    assert _Page(shared.get(page).text).inline == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_of_ours_refers_to_another_host(shared: Api, page: str) -> None:
    own = {
        path: text for path, text in assets_of(shared, page).items() if path.startswith("/static/")
    }

    for path, text in {page: shared.get(page).text, **own}.items():
        rest = text.replace(SVG_NAMESPACE, "")
        assert re.findall(r"""https?://|["'(]//""", rest) == [], path


def test_callers_texts_never_become_markup(shared: Api) -> None:
    ways = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(")
    for path, text in assets_of(shared, "/").items():
        assert ways.findall(text) == [], path


def test_the_dashboard_calls_only_what_the_api_has(shared: Api) -> None:
    documented = [
        re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for path in shared.get("/openapi.json").json()["paths"]
    ]
    scripts = "\n".join(
        text for path, text in assets_of(shared, "/").items() if path.endswith(".js")
    )
    called = {re.sub(r"\$\{.*?\}", "1", path) for path in _CALLED.findall(scripts)}

    assert {"/jobs", "/datasets", "/models", "/train", "/predict", "/jobs/1/events"} <= called
    for path in called:
        assert any(pattern.fullmatch(path) for pattern in documented), path


def test_the_documentation_shows_this_servers_interface_and_asks_no_other_host(api: Api) -> None:
    assets = assets_of(api, "/docs")
    document = api.get("/openapi.json").json()

    assert 'url: "/openapi.json"' in assets["/static/docs.js"]
    assert "validatorUrl: null" in assets["/static/docs.js"]
    assert "SwaggerUIBundle" in assets["/docs/assets/swagger-ui-bundle.js"]
    assert {"/datasets", "/train", "/jobs", "/models", "/predict"} <= set(document["paths"])


def test_pages_open_without_the_key_that_their_requests_need(serve: Serve) -> None:
    api = serve(keys="a-long-enough-key")

    for page in PAGES:
        assert api.get(page).status_code == 200
        assert assets_of(api, page)
    assert_problem(api.get("/jobs"), 401)


@pytest.mark.parametrize("path", ["/static/none.js", "/static/", "/static/..%2fapp.py"])
def test_what_is_no_page_or_asset_is_a_problem(shared: Api, path: str) -> None:
    assert_problem(shared.get(path), 404)


@pytest.mark.parametrize("path", [*PAGES, "/static/main.js"])
def test_pages_are_only_read(shared: Api, path: str) -> None:
    assert shared.head(path).status_code == 200
    assert_problem(shared.post(path), 405)
