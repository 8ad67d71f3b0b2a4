"""Microsoft's client in Chromium: transports, other origins, tokens, hijacking, and a page that goes offline."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any  # what pages return

import pytest
from tests.e2e.cable import Cable
from tests.e2e.nodes import HERE, hubplane_command
from tests.e2e.processes import JsonLines, Process

WAYS = [("ws", "json"), ("ws", "messagepack"), ("sse", "json"), ("lp", "json"), ("lp", "messagepack")]
CONNECT = "return await connect({name: 'it', ...options})"
LOGIN = "await fetch(`${url}/login?name=${name}`, {method: 'POST', credentials: 'include', mode})"
over_all = pytest.mark.parametrize("transport", ["ws", "sse", "lp"])


class PageError(Exception):
    """Something failed in a page; the text is what the page saw."""


class Chromium(JsonLines):
    """One browser, whose pages have profiles of their own."""

    def __init__(self, node: str, chromium: str, scratch: str) -> None:
        self._numbers = itertools.count(1)
        super().__init__(
            [node, str(HERE / "browser.mjs"), chromium],
            environment={"NODE_OPTIONS": "", "HOME": scratch, "TMPDIR": scratch},
        )
        if self.take(lambda e: e["event"] == "ready", 30.0) is None:
            self.__exit__()
            raise AssertionError(f"Chromium did not start: {self.stderr}")

    def ask(self, command: str, timeout: float = 25.0, **parts: Any) -> Any:
        """Give a command and wait for its answer."""
        number = next(self._numbers)
        self.tell(id=number, cmd=command, **parts)
        answer = self.take(lambda e: e.get("id") == number, timeout)
        assert answer is not None, f"no answer from Chromium; stderr: {self.stderr[-2000:]}"
        if answer["event"] == "error":
            raise PageError(answer["error"])
        return answer["value"]


class Page:
    """A page that is open at an address."""

    def __init__(self, browser: Chromium, url: str) -> None:
        self._browser = browser
        self.name = f"page {next(browser._numbers)}"
        browser.ask("open", page=self.name, url=url)

    def run(self, code: str, **arguments: Any) -> Any:
        """The result of an async function's body, in the page.

        Raises:
            PageError: It threw.
        """
        return self._browser.ask("run", page=self.name, code=code, args=arguments)

    def connect(self, url: str, transport: str, **options: Any) -> str:
        """Start the connection ``it``; its id."""
        found: str = self.run(CONNECT, options={"url": url, "transport": transport, **options})
        return found

    def invoke(self, method: str, *arguments: Any) -> Any:
        """Call a hub method."""
        return self.run("return await connections.it.invoke(method, ...list)", method=method, list=arguments)

    def event(self, kind: str) -> Any:
        """The next event of the connection of this kind; None if there is none within ten seconds."""
        return self.run("return await event('it', kind)", kind=kind)

    def offline(self, value: bool) -> None:
        """Pull the cable, or put it in again."""
        self._browser.ask("offline", page=self.name, value=value)

    def seen(self, event: str) -> list[dict[str, Any]]:
        """What the browser reported of the page: ``request``, ``socket``, ``console``."""
        return [each for each in self._browser.events if each["event"] == event and each.get("page") == self.name]

    def close(self) -> None:
        """Close it, with its connections."""
        self._browser.ask("close", page=self.name)


@pytest.fixture(scope="module")
def browser(part: Callable[[str], str]) -> Iterator[Chromium]:
    """One Chromium for all tests."""
    node, chromium = part("node"), part("chromium")
    part("node-modules")
    scratch = tempfile.mkdtemp(prefix="hubplane-chromium-")
    with Chromium(node, chromium, scratch) as running:
        yield running
        running.process.stdin.close()  # type: ignore[union-attr]  # it was opened with a pipe
        running.wait()
    shutil.rmtree(scratch, ignore_errors=True)


def serve(**environment: str) -> Process:
    """A server with the page and the hubs."""
    return Process(
        hubplane_command("serve", "browser_app:app", "--app-dir", str(HERE), "--port", "0"),
        environment={"HUBPLANE_REDIS": "", "PAGE_ORIGIN": "", **environment},
    )


def address(process: Process) -> str:
    """Where it listens."""
    found = re.search(r"http://\S+\d", process.line("hubplane serves"))
    assert found
    return found[0]


@pytest.fixture(scope="module")
def home(browser: Chromium) -> Iterator[str]:
    """An origin whose hubs are for its own pages."""
    with serve() as process:
        yield address(process)


@pytest.fixture(scope="module")
def other(home: str) -> Iterator[str]:
    """Another origin, whose hubs are for the pages of `home` as well."""
    with serve(PAGE_ORIGIN=home) as process:
        yield address(process)


@pytest.fixture
def page(browser: Chromium, home: str) -> Iterator[Page]:
    """A page of `home`."""
    opened = Page(browser, home)
    yield opened
    opened.close()


@pytest.mark.row("B25")
@pytest.mark.parametrize(("transport", "protocol"), WAYS)
def test_page_of_the_same_origin(page: Page, home: str, transport: str, protocol: str) -> None:
    """Calls, messages and streams work over each transport, and the cookie of a login is enough to enter."""
    page.run(LOGIN, url=home, name="ann", mode="cors")
    page.connect(f"{home}/hubs/members", transport, protocol=protocol)
    assert page.invoke("Who") == {"user": "ann", "by": "cookie"}
    text = "żółć 🎉 \x1e " + "x" * 30_000
    assert page.invoke("Echo", text) == text
    page.invoke("SendToMe", "hello")
    assert page.event("message") == ["hello"]
    assert page.run("return await drain('it', 'Count', 500)") == list(range(500))
    assert ("/hubs/members?id=" in "".join(each["url"] for each in page.seen("socket"))) == (transport == "ws")
    assert page.seen("console") == []
    page.run("await connections.it.stop()")
    assert page.event("closed") == [None]


@pytest.mark.row("B25")
@pytest.mark.parametrize(("transport", "protocol"), WAYS)
def test_page_of_another_origin(page: Page, other: str, transport: str, protocol: str) -> None:
    """With the documented recipe, pages of the named origin use all transports with the cookies of the hub's origin."""
    page.run(LOGIN, url=other, name="bob", mode="cors")
    page.connect(f"{other}/hubs/members", transport, protocol=protocol)
    assert page.invoke("Who") == {"user": "bob", "by": "cookie"}
    page.invoke("SendToMe", "hello")
    assert page.event("message") == ["hello"]
    assert page.seen("console") == []
    # With long polling this is a DELETE, which is preflighted, too. With events the client's Close message is late now
    # and then, and answered with 404, so the console is no measure any more.
    page.run("await connections.it.stop()")
    assert page.event("closed") == [None]
    assert transport == "sse" or page.seen("console") == []


@pytest.mark.row("B25")
def test_page_of_another_origin_sees_a_refusal(page: Page, other: str) -> None:
    """With the recipe a page can read that it has to log in: the status is no network error."""
    with pytest.raises(PageError, match="Status code '401'"):
        page.connect(f"{other}/hubs/members", "lp")


@over_all
def test_page_of_an_origin_that_nobody_named(browser: Chromium, home: str, other: str, transport: str) -> None:
    """Without CORS the browser lets a foreign page read nothing, so it does not even negotiate."""
    page = Page(browser, other)
    with pytest.raises(PageError, match="Failed to fetch"):
        page.connect(f"{home}/hubs/chat", transport)
    assert any("blocked by CORS policy" in each["text"] for each in page.seen("console"))
    assert page.seen("socket") == []
    page.close()


def test_hijacking_is_refused(browser: Chromium, home: str, other: str) -> None:
    """A foreign page cannot use a visitor's cookies over a WebSocket, to which CORS does not apply."""
    page = Page(browser, other)
    # The two are of one site, so no SameSite rule keeps the cookie back: as with a page of another subdomain.
    page.run(LOGIN, url=home, name="victim", mode="no-cors")
    with pytest.raises(PageError, match="WebSocket failed to connect"):
        page.connect(f"{home}/hubs/members", "ws", skip=True)
    assert any("Unexpected response code: 403" in each["text"] for each in page.seen("console"))
    page.close()
    innocent = Page(browser, other)
    innocent.connect(f"{home}/hubs/chat", "ws", skip=True)
    assert innocent.invoke("Who") == {"user": None, "by": None}, "without a login there is nothing to steal"
    innocent.close()


@pytest.mark.row("B24")
@pytest.mark.parametrize(("transport", "way"), [("ws", "query"), ("sse", "query"), ("lp", "header")])
def test_access_token(page: Page, other: str, transport: str, way: str) -> None:
    """A page sends its token in the header where a browser lets it, and in the query where it does not; both count."""
    page.connect(f"{other}/hubs/members", transport, token="carol")
    assert page.invoke("Who") == {"user": "carol", "by": way}
    requests = [each for each in page.seen("request") if "/hubs/" in each["url"] and each["method"] != "OPTIONS"]
    negotiate = next(each for each in requests if "/negotiate" in each["url"])
    assert negotiate["headers"]["authorization"] == "Bearer carol"
    carried = [each["url"] for each in [*requests, *page.seen("socket")] if "access_token=carol" in each["url"]]
    assert len(carried) == (way == "query")


@pytest.mark.row("S36")
@over_all
def test_page_that_goes_offline(page: Page, other: str, transport: str) -> None:
    """When the cable is back, the client is there again by itself: as a new connection, which is in no group."""
    with Cable(int(other.rpartition(":")[2])) as cable:
        url = f"http://127.0.0.1:{cable.port}/hubs/chat"
        first = page.connect(url, transport, reconnect=[0, *[100] * 100])
        page.invoke("Join", "room")
        page.invoke("SendToRoom", "room", "before")
        assert page.event("message") == ["before"]
        page.offline(True)
        cable.pull()
        assert page.event("reconnecting") == []
        assert page.run("return [navigator.onLine, connections.it.state]") == [False, "Reconnecting"]
        with pytest.raises(PageError, match="not in the 'Connected' State"):
            page.invoke("Echo", "is anybody there?")
        page.offline(False)
        cable.plug_in()
        second = page.event("reconnected")
        assert second not in ([first], None)
        page.invoke("SendToRoom", "room", "to others")
        page.invoke("SendToMe", "after")
        assert page.event("message") == ["after"], "the group has forgotten it"


def test_page_with_stateful_reconnect_that_goes_offline(page: Page, browser: Chromium, other: str) -> None:
    """When the cable is back, the connection goes on as it was: same id, same groups, and nothing missing or twice."""
    sender = Page(browser, other)
    sender.connect(f"{other}/hubs/chat", "ws")
    with Cable(int(other.rpartition(":")[2])) as cable:
        url = f"http://127.0.0.1:{cable.port}/hubs/chat"
        first = page.connect(url, "ws", stateful=True, reconnect=[0, *[100] * 100])
        page.invoke("Join", "room")
        sender.invoke("SendToRoom", "room", "before")
        assert page.event("message") == ["before"]
        # The client tries for a new socket once, when it learns that the old one is dead: a sleeping laptop wakes up.
        cable.hang()
        page.offline(True)
        page.run("window.answer = connections.it.invoke('Echo', 'asked')")
        for number in range(20):
            sender.invoke("SendToRoom", "room", str(number))
        page.offline(False)
        cable.pull()
        cable.plug_in()
        assert [page.event("message") for _ in range(20)] == [[str(number)] for number in range(20)]
        assert page.run("return await window.answer") == "asked"
        assert page.run("return [connections.it.connectionId, connections.it.state]") == [first, "Connected"]
        assert page.run("return seen.it") == [], "to the page nothing has happened"
    sender.close()
