"""Firefox for tests, spoken to in WebDriver BiDi, which it speaks by itself: no driver stands between."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from trio_websocket import WebSocketConnection

from tavern.client.websocket import open_websocket
from tests.end_to_end.browser import PATIENCE_MS, UNTIL
from tests.prerequisites import program

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 20  # longer than the patience of what is awaited in a page

_PREFERENCES = {
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "dom.min_background_timeout_value": 4,  # of two windows, one is in the background
}

ENTER = "\ue007"


class BidiError(Exception):
    """Firefox refused a command, or a script of a page failed."""


class Bidi:
    """A session of WebDriver BiDi. One command at a time."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self._sent = 0

    async def command(self, method: str, **params: object) -> dict[str, Any]:
        """The result. Raises BidiError, and trio.TooSlowError after 20 s."""
        self._sent += 1
        await self._websocket.send_message(json.dumps({"id": self._sent, "method": method, "params": params}))
        with trio.fail_after(COMMAND_TIMEOUT_S):
            while True:
                answer = json.loads(await self._websocket.get_message())
                if answer.get("id") == self._sent:
                    break
        if answer["type"] != "success":
            raise BidiError(f"{method}: {answer.get('error')}: {answer.get('message')}")
        result: dict[str, Any] = answer["result"]
        return result


@attrs.frozen
class FirefoxPage:
    """A page in a window of its own, whose storage is nobody else's."""

    bidi: Bidi
    context: str

    async def go(self, url: str) -> None:
        await self.bidi.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = await self.bidi.command(
            "script.evaluate",
            expression=f"(async () => JSON.stringify(await ({expression})))()",
            target={"context": self.context},
            awaitPromise=True,
        )
        if answer["type"] != "success":
            raise BidiError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"].get("value", "null"))

    async def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true in the page."""
        script = UNTIL.replace("CONDITION", f"({condition})")
        if not await self.evaluate(f"({script})({PATIENCE_MS})"):
            raise AssertionError(f"never came true: {condition}\n{await self.evaluate('document.body.innerText')}")

    async def type(self, selector: str, keys: str) -> None:
        """What somebody types into an element, once it is there."""
        await self.until(f"document.querySelector({selector!r})?.checkVisibility()")
        await self.evaluate(f"document.querySelector({selector!r}).focus()")
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self.bidi.command(
            "input.performActions", context=self.context, actions=[{"type": "key", "id": "keys", "actions": actions}]
        )


class Firefox:
    """A session with a running Firefox. Its pages are closed with it."""

    def __init__(self, bidi: Bidi) -> None:
        self._bidi = bidi
        self._users: list[str] = []

    async def open_page(self, url: str, script: str) -> FirefoxPage:
        """A page of somebody new. `script` runs in it before its own."""
        user = (await self._bidi.command("browser.createUserContext"))["userContext"]
        self._users.append(user)
        created = await self._bidi.command("browsingContext.create", type="window", userContext=user)
        page = FirefoxPage(self._bidi, created["context"])
        await self._bidi.command(
            "script.addPreloadScript", functionDeclaration=f"() => {{ {script} }}", contexts=[page.context]
        )
        await page.go(url)
        return page

    async def close(self) -> None:
        for user in self._users:
            await self._bidi.command("browser.removeUserContext", userContext=user)
        await self._bidi.command("session.end")


@asynccontextmanager
async def session(url: str) -> AsyncIterator[Firefox]:
    """A session with the Firefox that is controlled at `url`, one at a time."""
    async with open_websocket(f"{url}/session") as websocket:
        bidi = Bidi(websocket)
        await bidi.command("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
        firefox = Firefox(bidi)
        yield firefox
        await firefox.close()


@contextmanager
def running_firefox(profile: Path) -> Iterator[str]:
    """Where to control a Firefox whose microphone plays a tone. `profile` is an empty directory for its files."""
    preferences = "".join(f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in _PREFERENCES.items())
    (profile / "user.js").write_text(preferences)
    path = program("firefox-esr", "firefox-esr")
    process = subprocess.Popen(
        [path, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    output = process.stdout
    urls: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in output:
            if match := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                urls.put(match[1])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield urls.get(timeout=START_TIMEOUT_S)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(STOP_TIMEOUT_S)
        output.close()
