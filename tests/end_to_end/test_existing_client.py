"""An existing client, written from the protocol document alone, in one channel with the page: both hear each other."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page

from tests.end_to_end.browser import UNTIL, IceChoice, Visitor
from tests.end_to_end.server import RunningServer

pytestmark = pytest.mark.end_to_end

# It knows no extension: a name for a key, one offer for each who comes, one answer for each offer, candidates as JSON.
EXISTING_CLIENT = """
async ([tavernId, channelId]) => {
  const voice = await navigator.mediaDevices.getUserMedia({ audio: true });
  const socket = new WebSocket(location.origin.replace("http", "ws"));
  const peers = new Map();
  const seen = (window.seen = { peers, errors: [], members: [] });
  const identity = { publicKeyHex: "old-client-key", tag: "TVN-old", displayName: "Olga" };
  const send = (message) => socket.send(JSON.stringify({ ...message, tavernId, channelId }));
  const connect = (target) => {
    peers.get(target)?.close();
    const connection = new RTCPeerConnection();
    peers.set(target, connection);
    connection.addTrack(voice.getAudioTracks()[0], voice);
    connection.onicecandidate = ({ candidate }) => {
      if (candidate) send({ type: "ice-candidate", candidate: JSON.stringify(candidate), target });
    };
    return connection;
  };
  const handlers = {
    "channel-joined": ({ peers: there }) => seen.members.push(...there.map(({ displayName }) => displayName)),
    "peer-joined-channel": async ({ peer }) => {
      seen.members.push(peer.displayName);
      const connection = connect(peer.publicKeyHex);
      await connection.setLocalDescription(await connection.createOffer());
      send({ type: "offer", sdp: connection.localDescription.sdp, target: peer.publicKeyHex });
    },
    offer: async ({ from, sdp }) => {
      const connection = connect(from);
      await connection.setRemoteDescription({ type: "offer", sdp });
      await connection.setLocalDescription(await connection.createAnswer());
      send({ type: "answer", sdp: connection.localDescription.sdp, target: from });
    },
    answer: ({ from, sdp }) => peers.get(from)?.setRemoteDescription({ type: "answer", sdp }),
    "ice-candidate": ({ from, candidate }) => peers.get(from)?.addIceCandidate(JSON.parse(candidate)).catch(() => {}),
    error: ({ message }) => seen.errors.push(message),
  };
  let work = Promise.resolve();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    work = work.then(() => handlers[message.type]?.(message)).catch((error) => seen.errors.push(String(error)));
  };
  await new Promise((resolve) => socket.addEventListener("open", resolve));
  send({ type: "join-channel", identity });
}
"""

HEARS = """
(await Promise.all([...window.seen.peers.values()].map(async (connection) =>
  [...(await connection.getStats()).values()].find(({ type }) => type === "inbound-rtp")?.bytesReceived ?? 0,
))).some((bytes) => bytes > 3000)
"""

CHANNEL = """
(tavernId) => new Promise((resolve) => {
  const socket = new WebSocket(location.origin.replace("http", "ws"));
  socket.onopen = () => socket.send(JSON.stringify({ type: "get-tavern-info", tavernId }));
  socket.onmessage = ({ data }) => resolve(JSON.parse(data).tavern.channels[0].id);
})
"""


def olga(browser: Browser, server: RunningServer, tavern_id: str) -> Page:
    """The existing client, in the tavern's first channel."""
    page = browser.new_context().new_page()
    page.goto(f"{server.url}health")
    page.evaluate(EXISTING_CLIENT, [tavern_id, page.evaluate(CHANNEL, tavern_id)])
    return page


@pytest.mark.parametrize("first", ["the page", "the existing client"])
def test_both_hear_each_other_whoever_was_there_first(server: RunningServer, browser: Browser, first: str) -> None:
    ada = Visitor.arrive(browser.new_context(), server.url, IceChoice(policy="all"))
    tavern_id = ada.create_tavern("Friday night").rpartition("/")[2]
    if first == "the page":
        ada.join("Ada")
        old = olga(browser, server, tavern_id)
    else:
        old = olga(browser, server, tavern_id)
        ada.person("Olga").wait_for()
        ada.join("Ada")
    ada.sees_connected("Olga")
    ada.hears_more()
    assert old.evaluate(UNTIL.replace("CONDITION", f"({HEARS})"), 15_000), old.evaluate("JSON.stringify(window.seen)")
    assert ada.person("Olga").locator(".trust").inner_text() == "not verified"
    ada.page.locator("#text summary").click()
    ada.page.locator("#text .hint", has_text="Olga will not see it").wait_for()
    ada.page.evaluate("window.dispatchEvent(new Event('online'))")  # as after a change of network
    ada.page.wait_for_timeout(1_000)
    ada.hears_more()
    assert old.evaluate("window.seen.errors") == []
    assert old.evaluate("window.seen.peers.size") == 1
    assert ada.complaints == []
