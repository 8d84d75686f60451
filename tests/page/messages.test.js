import assert from "node:assert/strict";
import { test } from "node:test";

import { parseServerMessage } from "../../src/tavern/web/static/messages.js";

const parse = (message) => parseServerMessage(JSON.stringify(message));

test("what the page cannot read is nothing, never an exception", () => {
  const odd = ["", "{", "null", "7", "[]", "{}", '{"type":1}', '{"type":"unheard-of"}', '{"type":"__proto__"}'];
  for (const data of [...odd, new ArrayBuffer(1), undefined]) assert.equal(parseServerMessage(data), null);
  for (const type of ["tavern-info", "channel-joined", "peer-joined-channel", "offer", "ice-servers", "ice-candidate"]) {
    assert.equal(parse({ type }), null, type);
    assert.equal(parse({ type, tavern: 1, peers: 1, peer: [], from: {}, iceServers: "x" }), null, type);
  }
});

test("a peer without a name goes by its tag, then by its key", () => {
  const named = (peer) =>
    parse({ type: "peer-joined-channel", tavernId: "t", channelId: "c", peer: { publicKeyHex: "same_key_123", ...peer } })
      ?.peer.displayName;
  assert.equal(named({ displayName: " Ada ", tag: "#1" }), "Ada");
  assert.equal(named({ displayName: " ", tag: "#1" }), "#1");
  assert.equal(named({}), "same_key");
});

test("a tavern may have an icon or none, a new channel may have no peers", () => {
  const tavern = { id: "t", name: "T", channels: [{ id: "c", name: "General", peers: [] }], createdBy: "", createdAt: "" };
  assert.equal(parse({ type: "tavern-info", tavern })?.tavern.icon, "");
  assert.equal(parse({ type: "tavern-created", tavern: { ...tavern, icon: "🍺" } })?.tavern.icon, "🍺");
  const created = parse({ type: "channel-created", tavernId: "t", channel: { id: "c", name: "C" } });
  assert.deepEqual(created?.channel.peers, []);
});

test("only ICE servers that a browser takes are kept", () => {
  const servers = [
    { urls: ["turn:a:3478?transport=udp", "stun:a:3478"], username: "u", credential: "c" },
    { urls: "stun:b" },
    { urls: ["turn:c"] },
    { urls: ["http://d", "stun:d"] },
    { urls: ["javascript:e"] },
  ];
  const message = parse({ type: "ice-servers", iceServers: servers, expiresAt: "2026-01-01T00:00:00.000Z" });
  assert.deepEqual(message?.iceServers, [
    { urls: ["turn:a:3478?transport=udp", "stun:a:3478"], username: "u", credential: "c" },
    { urls: ["stun:b"] },
    { urls: ["stun:d"] },
  ]);
});
