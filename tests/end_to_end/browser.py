"""Real browsers for tests: headless Chromium, a microphone that plays a tone, and what can be seen of a call."""

from __future__ import annotations

import json
import math
import struct
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, Playwright

from tests.prerequisites import find_program, program

PATIENCE_MS = 15_000
"""Within this everything that a test waits for has long happened, also on a busy machine."""

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-loopback-in-peer-connection",
    "--ignore-certificate-errors",  # of pages, and of relays, which the option of a context leaves out
)
_MICROPHONE_FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

# Keeps the page's connections for getStats, and what went wrong while they gathered candidates; narrows what they use.
_KEPT_CONNECTIONS = """
(({ policy, turn }) => {
  const kept = [];
  const errors = [];
  const usable = (url) => !/^turns?:/.test(url) || turn === null || new RegExp(turn).test(url);
  const narrowed = ({ iceServers = [], ...others }) => ({
    ...others,
    iceTransportPolicy: others.iceTransportPolicy ?? policy,
    iceServers: iceServers
      .map((server) => ({ ...server, urls: [server.urls].flat().filter(usable) }))
      .filter(({ urls }) => urls.length > 0),
  });
  window.keptConnections = kept;
  window.gatheringErrors = errors;
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(configuration) {
      super(narrowed(configuration));
      kept.push(this);
      this.addEventListener("icecandidateerror", ({ address, errorCode, errorText, url }) => {
        errors.push(`${errorCode} ${errorText} (${url} from ${address})`);
      });
    }
    setConfiguration(configuration) {
      super.setConfiguration(narrowed(configuration));
    }
  };
})(CHOICE);
"""

# The page forbids `eval`, which Playwright's own wait_for_function needs: the waiting is done by this instead.
UNTIL = """
(patience) => new Promise((resolve) => {
  const start = performance.now();
  const look = async () => {
    if (await CONDITION) resolve(true);
    else if (performance.now() - start > patience) resolve(false);
    else setTimeout(look, 50);
  };
  look();
})
"""

# Of all connections that are open: bytes of sound that came in, and over what kind of candidates.
CALL_STATS = """
async () => {
  const open = window.keptConnections.filter((each) => each.connectionState !== "closed");
  return Promise.all(open.map(async (connection) => {
    const stats = new Map(await connection.getStats());
    const all = [...stats.values()];
    const inbound = all.find(({ type, kind }) => type === "inbound-rtp" && kind === "audio");
    const transport = all.find(({ type }) => type === "transport");
    const pair = stats.get(transport?.selectedCandidatePairId) ?? all.find(({ selected }) => selected);  // Firefox's
    return {
      state: connection.connectionState,
      bytesReceived: inbound?.bytesReceived ?? 0,
      local: stats.get(pair?.localCandidateId)?.candidateType ?? null,
      remote: stats.get(pair?.remoteCandidateId)?.candidateType ?? null,
      relayProtocol: stats.get(pair?.localCandidateId)?.relayProtocol ?? null,
    };
  }));
}
"""


@attrs.frozen(kw_only=True)
class IceChoice:
    """What a page's connections may use."""

    policy: str = "relay"
    """`iceTransportPolicy`."""
    turn: str | None = None
    """Pattern of the TURN URLs that are used, of those that the server offers; None: all."""

    @property
    def script(self) -> str:
        """To be run in a page before its own scripts."""
        return _KEPT_CONNECTIONS.replace("CHOICE", json.dumps(attrs.asdict(self)))


RELAY_ONLY = IceChoice()

TURN_URLS = {"udp": "^turn:.*transport=udp$", "tcp": "^turn:.*transport=tcp$", "tls": "^turns:.*transport=tcp$"}
"""Patterns of TURN URLs by transport."""


@attrs.frozen
class CallStats:
    """What one connection of a page has to say."""

    state: str
    bytes_received: int
    local: str | None
    remote: str | None
    relay_protocol: str | None
    """How the page reaches the relay: `udp`, `tcp` or `tls`; None where it uses none."""


def write_tone(path: Path) -> Path:
    """A tone that wavers like a voice (a steady one is taken for noise and suppressed): two seconds, to be looped."""
    rate = 48_000
    samples = bytearray()
    for n in range(2 * rate):
        t = n / rate
        swell = 0.55 + 0.45 * math.sin(2 * math.pi * 4 * t)
        pitch = 2 * math.pi * 220 * t + 6 * math.sin(2 * math.pi * 2 * t)
        voice = sum(math.sin(k * pitch) / k for k in (1, 2, 3, 4))
        samples += struct.pack("<h", int(9_000 * swell * voice / 2))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(samples))
    return path


def chromium_path() -> str:
    return find_program("chromium") or find_program("chromium-browser") or program("chromium", "chromium")


@contextmanager
def chromium(
    playwright: Playwright, *, tone: Path | None, executable: Path | None = None, more_flags: Sequence[str] = ()
) -> Iterator[Browser]:
    """Chromium, with a microphone that plays `tone`, or with none at all. `executable`: what starts it instead."""
    microphone = (*_MICROPHONE_FLAGS, f"--use-file-for-fake-audio-capture={tone}") if tone else ()
    flags = [*_FLAGS, *microphone, *more_flags]
    browser = playwright.chromium.launch(executable_path=executable or chromium_path(), args=flags)
    try:
        yield browser
    finally:
        browser.close()


@attrs.define
class Visitor:
    """One page of somebody's browser, used as its user would."""

    page: Page
    complaints: list[str] = attrs.field(factory=list)
    """Errors on the page's console: ours, or of its security policy."""

    @classmethod
    def arrive(cls, context: BrowserContext, url: str, choice: IceChoice = RELAY_ONLY) -> Visitor:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        visitor = cls(page)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))

        def note(message: ConsoleMessage) -> None:
            # What a browser says by itself about a server that is down is no fault of the page.
            if message.type == "error" and "WebSocket connection to" not in message.text:
                visitor.complaints.append(message.text)

        page.on("console", note)
        page.add_init_script(choice.script)
        page.goto(url)
        return visitor

    def create_tavern(self, name: str) -> str:
        """The new tavern's link, taken from the address bar."""
        self.page.get_by_label("Its name").fill(name)
        made = self.page.get_by_role("heading", name=name)
        not_connected_yet = self.page.get_by_text("press again in a moment")
        ends_at = time.monotonic() + PATIENCE_MS / 1000
        while not made.is_visible():
            assert time.monotonic() < ends_at, self.page.inner_text("body")
            self.page.get_by_role("button", name="Create", exact=True).click()
            made.or_(not_connected_yet).first.wait_for()
        return self.page.url

    def join(self, name: str) -> None:
        """Says who it is, presses the one button, and is in the channel."""
        self.page.get_by_label("Your name").fill(name)
        self.page.locator("#join").click()
        self.in_call()

    def in_call(self) -> None:
        self.page.locator("#call").wait_for()

    def person(self, name: str) -> Locator:
        """The row of somebody in a channel."""
        return self.page.locator(".person", has=self.page.locator(".name", has_text=name))

    def sees_connected(self, name: str) -> None:
        self.page.locator('.person[data-state="connected"]', has_text=name).wait_for()

    def talks_relayed(self, other: str, protocol: str) -> None:
        """Its one call, with somebody, goes from relay to relay, which it reaches by this protocol; nothing failed."""
        self.sees_connected(other)
        self.hears_more()
        [stats] = self.call_stats()
        assert (stats.local, stats.remote, stats.relay_protocol) == ("relay", "relay", protocol)
        assert self.complaints == []

    def until(self, condition: str, what: str, patience_ms: int = PATIENCE_MS) -> None:
        """Waits until a JavaScript expression is true in the page."""
        script = UNTIL.replace("CONDITION", f"({condition})")
        if not self.page.evaluate(script, patience_ms):
            raise AssertionError(f"never came true: {what}\n{self.page.inner_text('body')}\n{self.complaints}")

    def call_stats(self) -> list[CallStats]:
        return [
            CallStats(one["state"], one["bytesReceived"], one["local"], one["remote"], one["relayProtocol"])
            for one in self.page.evaluate(CALL_STATS)
        ]

    def hears_more(self) -> None:
        """Sound arrives: over every open connection more bytes than a moment ago."""
        before = [one.bytes_received for one in self.call_stats()]
        assert before, "no connection is open"
        self.until(
            f"(await ({CALL_STATS})()).every(({{ bytesReceived }}, n) => bytesReceived > ({before}[n] ?? 0) + 2000)",
            f"more sound than {before} bytes",
        )
