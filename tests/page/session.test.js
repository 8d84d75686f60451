import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Session } from "../../src/tavern/web/static/session.js";
import { settle } from "./fakes.js";

const identity = { publicKeyHex: "me", tag: "TVN-me", kept: true };
const peer = (key) => ({ publicKeyHex: key, tag: `TVN-${key}`, displayName: key });
const tavern = (id = "t") => ({
  id,
  name: `Tavern ${id}`,
  channels: [{ id: "general", name: "General", peers: [] }, { id: "other", name: "Other", peers: [] }],
});

/** The server's side of the page's connections, newest last. */
let sockets = [];

class FakeSocket {
  sent = [];
  constructor() {
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {}
  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

class FakeTrack {
  kind = "audio";
  enabled = true;
  stopped = false;
  stop() {
    this.stopped = true;
  }
}

class FakeStream {
  #tracks;
  constructor(tracks = []) {
    this.#tracks = [...tracks];
  }
  getTracks = () => this.#tracks;
  getAudioTracks = () => this.#tracks;
  addTrack = (track) => this.#tracks.push(track);
  removeTrack = (track) => this.#tracks.splice(this.#tracks.indexOf(track), 1);
}

class FakeAudioContext {
  state = "running";
  createMediaStreamSource = () => ({ connect() {}, disconnect() {} });
  createAnalyser = () => ({ getFloatTimeDomainData() {} });
}

let track;
let microphone;
let shown;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
  sockets = [];
  track = new FakeTrack();
  microphone = async () => new FakeStream([track]);
  const globals = {
    WebSocket: FakeSocket,
    MediaStream: FakeStream,
    AudioContext: FakeAudioContext,
    performance: { now: () => Date.now() },
    document: { visibilityState: "visible" },
    navigator: { mediaDevices: { getUserMedia: () => microphone() } },
  };
  for (const [name, value] of Object.entries(globals)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
});

afterEach(() => mock.timers.reset());

/** A page that looks at tavern "t", with its credentials. */
async function looking() {
  const session = new Session({
    url: "ws://x/",
    identity,
    notice: null,
    onChange: (state) => {
      shown = state;
    },
  });
  session.open("t");
  session.start();
  opened();
  await settle();
  return session;
}

function opened() {
  const socket = sockets.at(-1);
  socket.onopen();
  socket.say({ type: "ice-servers", iceServers: [], expiresAt: new Date(Date.now() + 3_600_000).toISOString() });
  socket.say({ type: "tavern-info", tavern: tavern() });
}

/** The page, in channel "general" with Ada. */
async function talking() {
  const session = await looking();
  await session.join("general");
  sockets.at(-1).say({ type: "channel-joined", tavernId: "t", channelId: "general", peers: [peer("ada")] });
  await settle();
  return session;
}

const said = (type) => sockets.at(-1).sent.filter((message) => message.type === type);

test("joining asks for the microphone, then for the channel, under our identity", async () => {
  await talking();
  assert.deepEqual(said("join-channel"), [
    {
      type: "join-channel",
      tavernId: "t",
      channelId: "general",
      identity: { publicKeyHex: "me", tag: "TVN-me", displayName: null },
    },
  ]);
  assert.equal(shown.call.joined, true);
  assert.equal(shown.joining, null);
  assert.deepEqual([...shown.members.keys()], ["ada"]);
});

test("a refused microphone stops at the question, and listening goes on without", async () => {
  const session = await looking();
  microphone = async () => {
    throw new DOMException("", "NotAllowedError");
  };
  await session.join("general");
  await settle();
  assert.equal(shown.microphone, "refused");
  assert.equal(shown.joining, "general");
  assert.deepEqual(said("join-channel"), []);
  await session.join("general", { listenOnly: true });
  await settle();
  assert.equal(said("join-channel").length, 1);
  assert.equal(shown.listening, true);
});

test("a full channel leaves us where we were", async () => {
  const session = await talking();
  await session.join("other");
  sockets.at(-1).say({ type: "error", message: "Channel full", code: "channel-full" });
  await settle();
  assert.equal(shown.call.channelId, "general");
  assert.equal(shown.call.joined, true);
  assert.equal(shown.joining, null);
  assert.match(shown.notice.text, /full/);
  assert.equal(track.stopped, false);
});

test("a full channel without a call gives the microphone back", async () => {
  const session = await looking();
  await session.join("general");
  sockets.at(-1).say({ type: "error", message: "Channel full", code: "channel-full" });
  await settle();
  assert.equal(shown.call, null);
  assert.equal(track.stopped, true);
});

test("who is let in after changing their mind goes out again", async () => {
  const session = await looking();
  await session.join("general");
  session.cancelJoin();
  sockets.at(-1).say({ type: "channel-joined", tavernId: "t", channelId: "general", peers: [] });
  await settle();
  assert.equal(shown.call, null);
  assert.equal(said("leave-channel").length, 1);
  assert.equal(track.stopped, true);
});

test("who changes their mind about another channel goes back to the first", async () => {
  const session = await talking();
  await session.join("other");
  session.cancelJoin();
  sockets.at(-1).say({ type: "channel-joined", tavernId: "t", channelId: "other", peers: [] });
  await settle();
  assert.deepEqual(said("join-channel").map(({ channelId }) => channelId), ["general", "other", "general"]);
  assert.equal(track.stopped, false);
});

test("people come, go and are renamed", async () => {
  await talking();
  const place = { tavernId: "t", channelId: "general" };
  const server = sockets.at(-1);
  server.say({ type: "peer-identity-updated", peerId: "ada", identity: { ...peer("ada"), displayName: " Ada L. " } });
  server.say({ type: "peer-left-channel", tavernId: "t", channelId: "other", publicKeyHex: "ada" });
  await settle();
  assert.equal(shown.members.get("ada").displayName, "Ada L.");
  server.say({ type: "peer-left-channel", ...place, publicKeyHex: "ada" });
  await settle();
  assert.equal(shown.members.size, 0);
});

test("a new channel is added once", async () => {
  await looking();
  const created = { type: "channel-created", tavernId: "t", channel: { id: "new", name: "New", peers: [] } };
  for (const message of [created, created, { ...created, tavernId: "elsewhere" }]) sockets.at(-1).say(message);
  await settle();
  assert.deepEqual(shown.tavern.channels.map(({ id }) => id), ["general", "other", "new"]);
});

test("a lost connection is opened again and the channel joined again", async () => {
  await talking();
  sockets[0].onclose();
  await settle();
  assert.equal(shown.connection, "waiting");
  assert.equal(shown.call.joined, false);
  assert.deepEqual([...shown.members.keys()], ["ada"], "who was there is still shown");
  mock.timers.tick(1_000);
  opened();
  await settle();
  assert.equal(said("join-channel").length, 1);
  sockets[1].say({ type: "channel-joined", tavernId: "t", channelId: "general", peers: [] });
  await settle();
  assert.equal(shown.call.joined, true);
  assert.equal(shown.members.size, 0);
});

test("a rate limit while coming back does not end the call", async () => {
  await talking();
  sockets[0].onclose();
  mock.timers.tick(1_000);
  opened();
  await settle();
  sockets[1].say({ type: "error", message: "rate-limited", code: "rate-limited" });
  await settle();
  assert.equal(shown.call.channelId, "general");
  mock.timers.tick(5_000);
  await settle();
  assert.equal(said("join-channel").length, 2);
});

test("a session taken over is given up, and taken back only by a press", async () => {
  const session = await talking();
  sockets[0].say({ type: "session-replaced" });
  await settle();
  assert.equal(shown.connection, "replaced");
  assert.equal(shown.call, null);
  assert.equal(track.stopped, true);
  mock.timers.tick(600_000);
  assert.equal(sockets.length, 1);
  const back = session.useHere();
  opened();
  await back;
  await settle();
  assert.equal(said("join-channel").length, 1);
  assert.equal(shown.call.channelId, "general");
});

test("a tavern that is not there is said to be missing, and not asked for again and again", async () => {
  await looking();
  sockets[0].say({ type: "error", message: "Tavern not found", code: "tavern-not-found" });
  await settle();
  assert.equal(shown.missing, true);
  assert.equal(shown.notice, null);
  const before = said("get-tavern-info").length;
  mock.timers.tick(60_000);
  assert.equal(said("get-tavern-info").length, before);
});

test("leaving says so and gives the microphone back", async () => {
  const session = await talking();
  session.leave();
  await settle();
  assert.equal(said("leave-channel").length, 1);
  assert.equal(shown.call, null);
  assert.equal(track.stopped, true);
});

test("a microphone that goes away is said, and the call goes on", async () => {
  await talking();
  track.onended();
  await settle();
  assert.equal(shown.microphone, "lost");
  assert.equal(shown.listening, true);
  assert.equal(shown.call.joined, true);
});

test("a new tavern is made under our identity", async () => {
  const session = await looking();
  const led = [];
  session.createTavern("New", (id) => led.push(id));
  assert.deepEqual(
    sockets[0].sent.slice(-2).map(({ type }) => type),
    ["update-identity", "create-tavern"],
  );
  sockets[0].say({ type: "tavern-created", tavern: tavern("n") });
  assert.deepEqual(led, ["n"]);
});
