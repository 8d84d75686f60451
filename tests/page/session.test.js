import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Session } from "../../src/tavern/web/static/session.js";
import { FakeConnection, settle } from "./fakes.js";

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
  constructor() {
    context = this;
  }
  createMediaStreamSource = () => ({ connect() {}, disconnect() {} });
  createAnalyser = () => ({ getFloatTimeDomainData() {} });
  resume = async () => {
    this.state = "running";
  };
  suspend = async () => {
    this.state = "suspended";
  };
}

/** The pairs' connections, newest last. */
let connections = [];
let context;
let track;
let microphone;
let shown;

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
  sockets = [];
  connections = [];
  track = new FakeTrack();
  microphone = async () => new FakeStream([track]);
  const globals = {
    WebSocket: FakeSocket,
    MediaStream: FakeStream,
    AudioContext: FakeAudioContext,
    RTCPeerConnection: class extends FakeConnection {
      constructor(configuration) {
        super(configuration);
        connections.push(this);
      }
    },
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
  microphone = async () => {
    throw new DOMException("none", "NotFoundError");
  };
  track.onended();
  await settle();
  assert.equal(shown.microphone, "lost");
  assert.equal(shown.listening, true);
  assert.equal(shown.call.joined, true);
});

test("where there is another microphone, it takes the place of one that goes away", async () => {
  await talking();
  const other = new FakeTrack();
  microphone = async () => new FakeStream([other]);
  track.onended();
  await settle();
  assert.equal(shown.microphone, null);
  assert.equal(shown.listening, false);
  sockets[0].say({ type: "peer-joined-channel", tavernId: "t", channelId: "general", peer: peer("zoe") });
  await settle();
  assert.equal(connections[0].transceivers[0].sender.track, other);
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

/** The browser's question for the microphone, answered when the test says so; counts how often it is put. */
function questions() {
  const asked = [];
  microphone = () => new Promise((resolve) => asked.push(() => resolve(new FakeStream([track]))));
  return asked;
}

const joinedGeneral = { type: "channel-joined", tavernId: "t", channelId: "general", peers: [peer("ada")] };

test("joining again while the browser still asks puts no second question, and leaves no microphone open", async () => {
  const session = await looking();
  const asked = questions();
  const first = session.join("general");
  session.cancelJoin();
  const second = session.join("general");
  assert.equal(asked.length, 1);
  asked[0]();
  await Promise.all([first, second]);
  await settle();
  assert.equal(said("join-channel").length, 1);
  assert.equal(track.stopped, false);
  session.leave();
  assert.equal(track.stopped, true);
});

test("a microphone given after the wish to join was taken back is given back", async () => {
  const session = await looking();
  const asked = questions();
  const joining = session.join("general");
  session.cancelJoin();
  asked[0]();
  await joining;
  assert.equal(track.stopped, true);
  assert.equal(said("join-channel").length, 0);
});

test("who only listens, and takes back the wish to switch, is not recorded", async () => {
  const session = await looking();
  await session.join("general", { listenOnly: true });
  sockets.at(-1).say(joinedGeneral);
  const asked = questions();
  const joining = session.join("other");
  session.cancelJoin();
  asked[0]();
  await joining;
  await settle();
  assert.equal(shown.listening, true);
  assert.equal(track.stopped, true);
});

test("a connection lost while credentials are awaited does not make the page join twice", async () => {
  const session = new Session({ url: "ws://x/", identity, notice: null, onChange: () => {} });
  session.open("t");
  session.start();
  sockets[0].onopen();
  sockets[0].say({ type: "tavern-info", tavern: tavern() });
  const joining = session.join("general");
  await settle();
  sockets[0].onclose();
  mock.timers.tick(1_000);
  opened();
  await joining;
  await settle();
  assert.equal(said("join-channel").length, 1);
});

test("being told twice that we are in does not tear the pairs down", async () => {
  await talking();
  sockets.at(-1).say({ type: "offer", from: "ada", sdp: "v=0\r\n" });
  await settle();
  assert.equal(connections.length, 1);
  sockets.at(-1).say(joinedGeneral);
  await settle();
  assert.equal(connections[0].closed, false);
});

test("two rate limits in a row ask once more, not twice", async () => {
  await talking();
  sockets[0].onclose();
  mock.timers.tick(1_000);
  opened();
  await settle();
  const limited = { type: "error", message: "rate-limited", code: "rate-limited" };
  sockets[1].say(limited);
  sockets[1].say(limited);
  mock.timers.tick(5_000);
  await settle();
  assert.equal(said("join-channel").length, 2);
});

test("a rate limit while coming back does not leave the button that creates taverns pressed", async () => {
  const session = await talking();
  sockets[0].onclose();
  mock.timers.tick(1_000);
  opened();
  session.createTavern("New", () => {});
  sockets[1].say({ type: "error", message: "rate-limited", code: "rate-limited" });
  await settle();
  assert.equal(shown.creating, false);
});

const notFound = { type: "error", message: "Tavern not found", code: "tavern-not-found" };

test("a late answer about the tavern looked at before says nothing about this one", async () => {
  const session = await looking();
  session.open("gone");
  session.open("t");
  sockets[0].say(notFound); // about "gone"
  sockets[0].say({ type: "tavern-info", tavern: tavern() });
  await settle();
  assert.equal(shown.missing, false);
  assert.equal(shown.tavern.id, "t");
});

test("looking at a tavern that is gone does not end the call elsewhere when the connection comes back", async () => {
  const session = await talking();
  session.open("gone");
  sockets[0].say(notFound);
  await settle();
  assert.equal(shown.missing, true);
  sockets[0].onclose();
  mock.timers.tick(1_000);
  sockets[1].onopen();
  for (const message of sockets[1].sent.filter(({ tavernId }) => tavernId === "gone")) {
    assert.equal(message.type, "get-tavern-info");
    sockets[1].say(notFound);
  }
  sockets[1].say({ type: "ice-servers", iceServers: [], expiresAt: new Date(Date.now() + 3_600_000).toISOString() });
  await settle();
  sockets[1].say(joinedGeneral);
  await settle();
  assert.equal(shown.call?.joined, true);
  sockets[1].say(notFound);
  await settle();
  assert.equal(shown.missing, true);
  assert.equal(shown.call?.joined, true);
});

test("a name changed on the way in is told", async () => {
  const session = await looking();
  await session.join("general");
  session.rename("Ada");
  const names = sockets[0].sent.filter(({ identity: own }) => own).map(({ type, identity: own }) => [type, own.displayName]);
  assert.deepEqual(names, [["join-channel", null], ["update-identity", "Ada"]]);
});

test("a channel that cannot be made for want of a connection is said, not swallowed", async () => {
  const session = await looking();
  sockets[0].onclose();
  assert.equal(session.createChannel("New"), false);
  await settle();
  assert.match(shown.notice.text, /no connection/);
});

test("a sound that cannot be measured does not keep us out", async (t) => {
  t.mock.method(console, "warn", () => {});
  const session = await looking();
  const original = FakeAudioContext;
  globalThis.AudioContext = class extends original {
    createMediaStreamSource = () => {
      throw new DOMException("sample rates differ", "NotSupportedError");
    };
  };
  await session.join("general");
  assert.equal(said("join-channel").length, 1);
});

test("a browser without room for another audio context joins all the same", async (t) => {
  t.mock.method(console, "warn", () => {});
  const session = await looking();
  globalThis.AudioContext = class {
    constructor() {
      throw new DOMException("too many", "NotSupportedError");
    }
  };
  await session.join("general");
  assert.equal(said("join-channel").length, 1);
});

test("nothing is measured, and the audio context rests, when the call is over", async () => {
  const session = await talking();
  assert.equal(context.state, "running");
  session.leave();
  await settle();
  assert.equal(context.state, "suspended");
});

test("going elsewhere ends a join that got no further than the microphone", async () => {
  const session = await looking();
  microphone = async () => {
    throw new DOMException("", "NotAllowedError");
  };
  await session.join("general");
  session.open("u");
  await settle();
  assert.equal(shown.joining, null);
  assert.equal(shown.microphone, null);
});

test("use here, then joining elsewhere before the microphone is given, leads elsewhere", async () => {
  const session = await talking();
  sockets[0].say({ type: "session-replaced" });
  const asked = questions();
  const back = session.useHere();
  opened();
  const other = session.join("other");
  for (const answer of asked) answer();
  await Promise.all([back, other]);
  await settle();
  assert.deepEqual(said("join-channel").map(({ channelId }) => channelId), ["other"]);
});

/** The page, in channel "general" with Ada, whose connection works; and with a token to come back with. */
async function talkingWithToken() {
  const session = await talking();
  assert.equal(said("get-resume-token").length, 1);
  sockets[0].say({ type: "resume-token", token: "one", expiresAt: "" });
  sockets[0].say({ type: "offer", from: "ada", sdp: "v=0\r\n" });
  await settle();
  connections[0].become("connected");
  sockets[0].onclose();
  mock.timers.tick(1_000);
  await settle();
  return session;
}

const resumed = (peers, continued = true) =>
  ({ type: "resumed", tavernId: "t", channelId: "general", peers, continued, connection: "c" });

test("who has a token asks for the place that was lost, first of all, and keeps the connections that work", async () => {
  await talkingWithToken();
  opened();
  assert.deepEqual(sockets[1].sent[0], { type: "resume", token: "one" });
  sockets[1].say(resumed([{ ...peer("ada"), displayName: "Ada" }]));
  await settle();
  assert.equal(shown.call.joined, true);
  assert.equal(shown.members.get("ada").displayName, "Ada");
  assert.equal(said("join-channel").length, 0);
  assert.deepEqual(connections.map(({ closed }) => closed), [false]);
  sockets[1].onclose(); // before there is a new token: as anybody
  mock.timers.tick(2_000);
  opened();
  await settle();
  assert.equal(said("resume").length, 0);
  assert.equal(said("join-channel").length, 1);
});

test("who came meanwhile is called, who left is gone", async () => {
  await talkingWithToken();
  opened();
  sockets[1].say(resumed([peer("ben")]));
  await settle();
  assert.deepEqual([...shown.members.keys()], ["ben"]);
  assert.deepEqual(said("offer").map(({ target }) => target), ["ben"]);
  assert.deepEqual(connections.map(({ closed }) => closed), [true, false]);
});

test("a place that is gone is joined anew", async () => {
  await talkingWithToken();
  opened();
  sockets[1].say({ type: "error", message: "There is nothing to come back to: join again", code: "resume-failed" });
  await settle();
  assert.equal(said("join-channel").length, 1);
  assert.equal(shown.notice, null);
});

test("after a restart others may come back as well, for a minute", async () => {
  await talkingWithToken();
  opened();
  sockets[1].say(resumed([], false));
  await settle();
  assert.deepEqual([...shown.members.keys()], ["ada"]);
  sockets[1].say({ type: "peer-resumed", tavernId: "t", channelId: "general", peer: peer("ada") });
  await settle();
  mock.timers.tick(120_000);
  await settle();
  assert.deepEqual([...shown.members.keys()], ["ada"]);
});

test("who does not come back in that minute is gone", async () => {
  await talkingWithToken();
  opened();
  sockets[1].say(resumed([], false));
  await settle();
  mock.timers.tick(59_000);
  await settle();
  assert.equal(shown.members.size, 1);
  mock.timers.tick(2_000);
  await settle();
  assert.equal(shown.members.size, 0);
  assert.deepEqual(connections.map(({ closed }) => closed), [true]);
});

test("who leaves while the connection is lost does not come back", async () => {
  const session = await talkingWithToken();
  session.leave();
  opened();
  await settle();
  assert.equal(said("resume").length + said("join-channel").length, 0);
});
