// What the signaling server is measured against: the same protocol on Node.js and `ws`, as small as it can be and still
// do the same work for each message: parse, judge its fields, count it against the sender's rate, look up sender and
// target in their channel, write it anew with `from`, send.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const MAX_MEMBERS = 8;
const MAX_MESSAGE_BYTES = 64 * 1024;
const HEARTBEAT_MS = 10_000;
const RATE = Number(process.env.RATE_MSG_SEC ?? 30);

const taverns = new Map();
const channels = new Map(); // by tavern and channel: members by key
const byKey = new Map();

const send = (peer, message) => peer.socket.send(JSON.stringify(message));
const fail = (peer, message) => send(peer, { type: "error", message });
const isText = (value) => typeof value === "string" && value.length > 0 && value.length <= 128;

function allowed(peer, now) {
  const { times } = peer;
  while (times.length > 0 && times[0] <= now - 1000) times.shift();
  if (times.length >= RATE) return false;
  times.push(now);
  return true;
}

function leave(peer) {
  const { place } = peer;
  if (!place) return;
  peer.place = null;
  place.members.delete(peer.key);
  if (place.members.size === 0) channels.delete(place.id);
  for (const other of place.members.values()) {
    send(other, { type: "peer-left-channel", tavernId: place.tavernId, channelId: place.channelId, publicKeyHex: peer.key });
  }
}

const onWire = (peer, place) => ({
  publicKeyHex: peer.key,
  displayName: peer.name,
  tavernId: place.tavernId,
  channelId: place.channelId,
  isSpeaking: false,
  tag: peer.tag,
});

function join(peer, message) {
  const tavern = taverns.get(message.tavernId);
  if (!tavern) return fail(peer, "Tavern not found");
  if (!tavern.channels.includes(message.channelId)) return fail(peer, "Channel not found");
  const { publicKeyHex, tag, displayName } = message.identity ?? {};
  if (!isText(publicKeyHex) || !isText(tag)) return fail(peer, "bad identity");
  const id = `${message.tavernId} ${message.channelId}`;
  let place = channels.get(id);
  if (!place) channels.set(id, (place = { id, tavernId: message.tavernId, channelId: message.channelId, members: new Map() }));
  const replaced = byKey.get(publicKeyHex);
  if (replaced && replaced !== peer) {
    leave(replaced);
    send(replaced, { type: "session-replaced" });
    replaced.socket.close(1000);
  }
  if (place.members.size >= MAX_MEMBERS) return fail(peer, "Channel full");
  leave(peer);
  Object.assign(peer, { key: publicKeyHex, tag, name: displayName?.trim() || tag, place });
  byKey.set(publicKeyHex, peer);
  const others = [...place.members.values()];
  place.members.set(publicKeyHex, peer);
  send(peer, {
    type: "channel-joined",
    tavernId: place.tavernId,
    channelId: place.channelId,
    peers: others.map((other) => onWire(other, place)),
  });
  const told = { type: "peer-joined-channel", tavernId: place.tavernId, channelId: place.channelId, peer: onWire(peer, place) };
  for (const other of others) send(other, told);
}

function relay(peer, message, field) {
  const { place } = peer;
  if (typeof message[field] !== "string") return fail(peer, `bad ${field}`);
  const wrongPlace =
    !place ||
    (message.channelId !== undefined && message.channelId !== place.channelId) ||
    (message.tavernId !== undefined && message.tavernId !== place.tavernId);
  if (wrongPlace) return fail(peer, "Join a room before signaling");
  if (!isText(message.target)) return fail(peer, "bad target");
  const target = place.members.get(message.target);
  if (!target || target === peer) return fail(peer, "Target peer not found in channel");
  const relayed = { type: message.type, from: peer.key, [field]: message[field] };
  if (message.tavernId !== undefined) relayed.tavernId = message.tavernId;
  if (message.channelId !== undefined) relayed.channelId = message.channelId;
  send(target, relayed);
}

function handle(peer, data) {
  if (!allowed(peer, performance.now())) return fail(peer, "rate-limited");
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    return fail(peer, "not JSON");
  }
  switch (message?.type) {
    case "offer":
    case "answer":
      return relay(peer, message, "sdp");
    case "ice-candidate":
      return relay(peer, message, "candidate");
    case "join-channel":
      return join(peer, message);
    case "create-tavern": {
      if (!isText(message.name)) return fail(peer, "bad name");
      const tavern = { id: randomUUID(), name: message.name, channels: [randomUUID()] };
      taverns.set(tavern.id, tavern);
      const shown = [{ id: tavern.channels[0], name: "General", peers: [] }];
      return send(peer, { type: "tavern-created", tavern: { id: tavern.id, name: tavern.name, channels: shown } });
    }
    default:
      return fail(peer, "Unknown message type");
  }
}

const http = createServer((_request, response) => response.end('{"status":"ok"}'));
const server = new WebSocketServer({ server: http, perMessageDeflate: false, maxPayload: MAX_MESSAGE_BYTES });
const peers = new Set();
server.on("connection", (socket) => {
  const peer = { socket, key: null, tag: null, name: null, place: null, times: [], alive: true };
  peers.add(peer);
  socket.on("message", (data) => handle(peer, data));
  socket.on("pong", () => (peer.alive = true));
  socket.on("error", () => {});
  socket.on("close", () => {
    peers.delete(peer);
    leave(peer);
    if (byKey.get(peer.key) === peer) byKey.delete(peer.key);
  });
});
setInterval(() => {
  for (const peer of peers) {
    if (!peer.alive) peer.socket.terminate();
    peer.alive = false;
    peer.socket.ping();
  }
}, HEARTBEAT_MS).unref();

http.listen({ port: 0, host: "127.0.0.1", backlog: 1024 }, () => console.log(`listening on ${http.address().port}`));
process.on("SIGTERM", () => process.exit(0));
