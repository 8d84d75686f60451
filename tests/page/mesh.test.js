import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { isUseful, parseCandidate } from "../../src/tavern/web/static/candidates.js";
import { Mesh } from "../../src/tavern/web/static/mesh.js";
import { FakeConnection, settle } from "./fakes.js";

const PLACE = { tavernId: "t", channelId: "c" };
const TURN = [{ urls: ["turn:a:3478"], username: "u", credential: "c" }];
const candidate = (text) => JSON.stringify({ candidate: text, sdpMid: "0" });

/** A mesh with its surroundings written down. */
function made(context, { self = "m", servers = TURN, createConnection, vouches } = {}) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  context.after(() => mock.timers.reset());
  for (const level of ["warn", "debug"]) context.mock.method(console, level, () => {});
  const vouching = { vouch: async () => null, judge: async (_place, _from, _type, _sdp, signature) => signature ?? "unsigned" };
  const world = { connections: [], sent: [], dropped: [], states: new Map(), troubles: new Map(), trusted: [], texts: [], reads: new Map(), tracks: [], gone: [] };
  const mesh = new Mesh({
    self,
    stream: "stream",
    vouching: { ...vouching, ...vouches },
    onText: (peer, text) => world.texts.push([peer, text]),
    onReads: (peer, reads) => world.reads.set(peer, reads),
    onTrust: (peer, trust) => world.trusted.push([peer, trust]),
    send: (message) => world.sent.push(message),
    drop: (target) => world.dropped.push(target),
    iceServers: async () => servers,
    onState: (peer, state, trouble) => {
      world.states.set(peer, state);
      world.troubles.set(peer, trouble);
    },
    onTrack: (peer, track) => world.tracks.push([peer, track]),
    onGone: (peer) => world.gone.push(peer),
    createConnection: createConnection ?? ((configuration) => {
      world.connections.push(new FakeConnection(configuration));
      return world.connections.at(-1);
    }),
    random: () => 0,
  });
  return { mesh, world };
}

/** The types and targets of what was sent. */
const said = ({ sent }) => sent.map(({ type, target }) => `${type} ${target}`);

test("who is there already offers to the one who joins", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.setTrack("voice");
  mesh.peerJoined("z");
  await settle();
  assert.deepEqual(said(world), ["offer z"]);
  assert.deepEqual(world.sent[0], { type: "offer", target: "z", ...PLACE, sdp: "v=0\r\noffer" });
  const [connection] = world.connections;
  assert.deepEqual(connection.configuration, { iceServers: TURN, bundlePolicy: "max-bundle" });
  assert.equal(connection.transceivers[0].sender.track, "voice");
  mesh.receiveAnswer("z", "v=0\r\nanswer", null);
  await settle();
  connection.become("connected");
  assert.equal(world.states.get("z"), "connected");
});

test("who joins waits for offers and answers them with its voice", async (context) => {
  const { mesh, world } = made(context);
  mesh.setTrack("voice");
  mesh.enter(PLACE, ["a", "b"]);
  await settle();
  assert.deepEqual(world.sent, []);
  assert.equal(world.states.get("a"), "connecting");
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  assert.deepEqual(said(world), ["answer a"]);
  const [transceiver] = world.connections[0].transceivers;
  assert.equal(transceiver.direction, "sendrecv");
  assert.equal(transceiver.sender.track, "voice");
  assert.deepEqual(transceiver.sender.streams, ["stream"]);
});

test("candidates wait for the description they belong to, within bounds", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  for (let n = 0; n < 200; n += 1) mesh.receiveCandidate("a", candidate(`candidate:${n}`));
  for (let turn = 0; turn < 20; turn += 1) await settle();
  mesh.receiveCandidate("a", candidate("candidate:last"));
  await settle();
  const got = world.connections[0].candidates.map((each) => each.candidate);
  assert.equal(got.length, 100); // with the offer a hundred, and the last one
  assert.equal(got[0], "candidate:0");
  assert.equal(got.at(-1), "candidate:last");
});

test("candidates that are refused or no JSON do no harm", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  for (const each of ["", "{", "7", candidate(""), candidate("candidate:refused"), candidate("candidate:good")]) {
    mesh.receiveCandidate("a", each);
  }
  await settle();
  assert.deepEqual(world.connections[0].candidates.map((each) => each.candidate), ["candidate:good"]);
  assert.equal(world.states.get("a"), "connecting");
  assert.equal(parseCandidate("null"), null);
});

test("what is found at once goes along with our description, what is found later follows, if it is of use", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await Promise.resolve();
  world.connections[0].iceGatheringState = "gathering";
  await settle();
  world.connections[0].find("candidate:early typ host");
  assert.deepEqual(said(world), []);
  mock.timers.tick(250);
  await settle();
  world.connections[0].find("candidate:1 1 tcp 1 10.0.0.1 9 typ host tcptype active");
  world.connections[0].find("");
  world.connections[0].onicecandidate({ candidate: null });
  world.connections[0].find("candidate:late typ relay");
  await settle();
  assert.deepEqual(said(world), ["offer z", "ice-candidate z"]);
  assert.match(world.sent[0].sdp, /a=candidate:early typ host/);
  assert.equal(JSON.parse(world.sent[1].candidate).candidate, "candidate:late typ relay");
  assert.ok(!isUseful(""));
});

test("a description goes out as soon as all candidates are found", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await Promise.resolve();
  const [connection] = world.connections;
  connection.iceGatheringState = "gathering";
  await settle();
  connection.onicegatheringstatechange();
  await settle();
  assert.deepEqual(said(world), []);
  connection.iceGatheringState = "complete";
  connection.onicegatheringstatechange();
  await settle();
  assert.deepEqual(said(world), ["offer z"]);
});

test("joining again tears everything down", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("a");
  mesh.peerJoined("b");
  await settle();
  mesh.enter(PLACE, ["a"]);
  assert.deepEqual(world.connections.map(({ closed }) => closed), [true, true]);
  assert.deepEqual(world.gone, ["a", "b"]);
});

test("who leaves is forgotten, with what waits to be sent to them", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  mesh.peerLeft("z");
  assert.ok(world.connections[0].closed);
  assert.ok(world.dropped.includes("z"));
  mesh.receiveOffer("z", "v=0\r\n", null);
  await settle();
  assert.equal(world.connections.length, 1);
});

test("who leaves while credentials are awaited gets no connection", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  mesh.peerLeft("z");
  await settle();
  assert.deepEqual(world.connections, []);
});

test("a new offer replaces the pair", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  world.connections[0].become("connected");
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  assert.deepEqual(world.connections.map(({ closed }) => closed), [true, false]);
  assert.deepEqual(said(world), ["answer a", "answer a"]);
});

test("when offers cross, that of the smaller key counts", async (context) => {
  const { mesh, world } = made(context, { self: "m" });
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  mesh.peerJoined("a");
  await settle();
  mesh.receiveOffer("z", "v=0\r\n", null); // ours counts
  mesh.receiveOffer("a", "v=0\r\n", null); // theirs counts
  await settle();
  assert.deepEqual(said(world), ["offer z", "offer a", "offer z", "answer a"], "ours is said again: it may be lost");
  mesh.receiveAnswer("a", "v=0\r\n", null); // to an offer that is gone
  mesh.receiveAnswer("z", "v=0\r\n", null);
  await settle();
  assert.equal(world.connections[0].remote[0].type, "answer");
  assert.deepEqual(world.connections[2].remote.map(({ type }) => type), ["offer"]);
});

test("the offering side rebuilds a failed pair a few times, ever later, then says that it failed", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  for (const wait of [500, 1_000, 2_000, 4_000]) {
    await settle();
    const count = world.connections.length;
    mesh.receiveAnswer("z", "v=0\r\n", null);
    await settle();
    world.connections.at(-1).become("failed");
    assert.equal(world.states.get("z"), "retrying");
    assert.ok(world.connections.at(-1).closed);
    mock.timers.tick(wait - 1);
    await settle();
    assert.equal(world.connections.length, count);
    mock.timers.tick(1);
  }
  await settle();
  mesh.receiveAnswer("z", "v=0\r\n", null);
  await settle();
  world.connections.at(-1).become("failed");
  assert.equal(world.states.get("z"), "failed");
  assert.equal(world.troubles.get("z"), "relay-silent");
  mock.timers.tick(600_000);
  await settle();
  assert.equal(world.connections.length, 5);
  mesh.retry("z");
  await settle();
  assert.equal(world.connections.length, 6);
  assert.equal(world.states.get("z"), "connecting");
});

test("the other side leaves the rebuilding to the one who offered, and steps in when nothing comes", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  world.connections[0].become("failed");
  mock.timers.tick(12_000);
  await settle();
  assert.deepEqual(said(world), ["answer a"]);
  mock.timers.tick(1_000);
  await settle();
  assert.deepEqual(said(world), ["answer a", "offer a"]);
});

test("an offer that comes meanwhile is taken, and nobody steps in", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  world.connections[0].become("failed");
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  world.connections[1].become("connected");
  mock.timers.tick(100_000);
  await settle();
  assert.deepEqual(said(world), ["answer a", "answer a"]);
});

test("who is never offered anything says so, and tries itself", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mock.timers.tick(20_000);
  assert.equal(world.states.get("a"), "retrying");
  assert.equal(world.troubles.get("a"), "no-answer");
  mock.timers.tick(13_000);
  await settle();
  assert.deepEqual(said(world), ["offer a"]);
});

test("why it failed is told by what was there", async (context) => {
  for (const [servers, found, expected] of [
    [[], [], "no-relay-named"],
    [TURN, ["candidate:1 typ host"], "relay-silent"],
    [TURN, ["candidate:1 typ relay"], "no-path"],
  ]) {
    const { mesh, world } = made(context, { servers });
    mesh.enter(PLACE, ["a"]);
    mesh.receiveOffer("a", "v=0\r\n", null);
    await settle();
    for (const each of found) world.connections[0].find(each);
    world.connections[0].become("failed");
    assert.equal(world.troubles.get("a"), expected);
    mock.timers.reset();
  }
});

test("a description that cannot be read fails the pair, not the page", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "garbage", null);
  await settle();
  assert.equal(world.states.get("a"), "retrying");
  assert.ok(world.connections[0].closed);
});

test("a microphone that comes or goes is taken up by the pairs there are", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  assert.equal(world.connections[0].transceivers[0].sender.track, null);
  mesh.setTrack("voice");
  await settle();
  assert.equal(world.connections[0].transceivers[0].sender.track, "voice");
});

test("new credentials reach the pairs there are", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  mesh.setIceServers([]);
  assert.deepEqual(world.connections[0].configuration.iceServers, []);
});

test("sound reaches the page only from the pair there is", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  const [old] = world.connections;
  old.ontrack({ track: { kind: "audio", id: 1 } });
  mesh.receiveOffer("a", "v=0\r\n", null);
  await settle();
  old.ontrack({ track: { kind: "audio", id: 2 } });
  old.become("failed");
  assert.deepEqual(world.tracks, [["a", { kind: "audio", id: 1 }]]);
  assert.equal(world.states.get("a"), "connecting");
});

test("a browser that refuses a connection fails the pair at once, not the page", async (context) => {
  const { mesh, world } = made(context, {
    createConnection: () => {
      throw new DOMException("too many", "OperationError");
    },
  });
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", null);
  mesh.peerJoined("z");
  await settle();
  assert.deepEqual([...world.states], [["a", "retrying"], ["z", "retrying"]]);
});

test("what we describe goes out with our signature, candidates after it", async (context) => {
  let signed;
  const vouch = (...about) => new Promise((resolve) => {
    signed = () => resolve(`signature of ${JSON.stringify(about)}`);
  });
  const { mesh, world } = made(context, { vouches: { vouch } });
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  world.connections[0].find("candidate:late typ host");
  await settle();
  assert.deepEqual(said(world), []);
  signed();
  await settle();
  assert.deepEqual(said(world), ["offer z", "ice-candidate z"]);
  const about = JSON.stringify([PLACE, "z", "offer", "v=0\r\noffer"]);
  assert.equal(world.sent[0].signature, `signature of ${about}`);
});

test("what waits for its signature when the pair is over is not sent", async (context) => {
  let signed;
  const vouch = () => new Promise((resolve) => {
    signed = resolve;
  });
  const { mesh, world } = made(context, { vouches: { vouch } });
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  mesh.peerLeft("z");
  signed("late");
  await settle();
  assert.deepEqual(world.sent, []);
});

test("no sound comes of an offer or answer that is not the key's", async (context) => {
  for (const distrust of ["forged", "unsigned-now"]) {
    const { mesh, world } = made(context);
    mesh.enter(PLACE, ["a"]);
    mesh.receiveOffer("a", "v=0\r\n", distrust);
    mesh.peerJoined("z");
    await settle();
    mesh.receiveAnswer("z", "v=0\r\n", distrust);
    await settle();
    assert.deepEqual(said(world), ["offer z"]);
    assert.deepEqual(world.connections.map(({ remote }) => remote.length), [0]);
    assert.deepEqual([...world.states], [["a", "failed"], ["z", "failed"]]);
    assert.equal(world.troubles.get("a"), distrust);
    assert.deepEqual(world.trusted, []);
    mock.timers.tick(600_000);
    await settle();
    assert.equal(world.connections.length, 1);
    mesh.receiveOffer("a", "v=0\r\n", "verified"); // theirs, after all
    await settle();
    assert.deepEqual(world.trusted, [["a", "verified"]]);
    assert.deepEqual(said(world), ["offer z", "answer a"]);
    mock.timers.reset();
  }
});

test("a forged offer does not end a call that goes on", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", "v=0\r\n", "verified");
  await settle();
  world.connections[0].become("connected");
  mesh.receiveOffer("a", "v=0\r\n", "forged");
  await settle();
  assert.equal(world.states.get("a"), "connected");
  assert.deepEqual(world.connections.map(({ closed }) => closed), [false]);
});

test("candidates that come while a signature is looked at belong to its offer", async (context) => {
  const judge = () => new Promise((resolve) => setImmediate(() => resolve("verified")));
  const { mesh, world } = made(context, { vouches: { judge } });
  mesh.enter(PLACE, ["a"]);
  for (const round of [0, 1]) {
    mesh.receiveOffer("a", "v=0\r\n", "x");
    mesh.receiveCandidate("a", candidate(`candidate:${round}`));
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    await settle();
  }
  assert.deepEqual(
    world.connections.map(({ candidates }) => candidates.map((each) => each.candidate)),
    [["candidate:0"], ["candidate:1"]],
  );
});

const ADA = "v=0\r\na=fingerprint:sha-256 AA\r\n";

/** Connected with "a", who signs, by this kind of candidate. */
async function connected(context, { self = "m", kind = "host", signature = "verified" } = {}) {
  const { mesh, world } = made(context, { self });
  mesh.enter(PLACE, ["a"]);
  mesh.receiveOffer("a", ADA, signature);
  await settle();
  const [connection] = world.connections;
  connection.become("connected");
  connection.stats = {
    T: { id: "T", type: "transport", selectedCandidatePairId: "P" },
    P: { id: "P", localCandidateId: "L", remoteCandidateId: "L" },
    L: { id: "L", candidateType: kind },
  };
  return { mesh, world, connection };
}

test("after another network came, those who sign look for another way over the same connection", async (context) => {
  const { mesh, world, connection } = await connected(context);
  await mesh.renew({ unlessConnected: false });
  await settle();
  assert.deepEqual(said(world), ["answer a", "offer a"]);
  assert.equal(world.sent[1].sdp, "v=0\r\nanother way");
  mesh.receiveAnswer("a", ADA, "verified");
  await settle();
  connection.become("connected");
  assert.equal(world.states.get("a"), "connected");
  assert.deepEqual(world.connections.map(({ closed }) => closed), [false]);
});

test("an existing client's connection that works is left alone, one that does not is made anew", async (context) => {
  const { mesh, world, connection } = await connected(context, { signature: null });
  await mesh.renew({ unlessConnected: false });
  await settle();
  assert.deepEqual(said(world), ["answer a"]);
  connection.become("disconnected");
  await mesh.renew({ unlessConnected: true, peer: "a" });
  await settle();
  assert.deepEqual(said(world), ["answer a", "offer a"]);
  assert.deepEqual(world.connections.map(({ closed }) => closed), [true, false]);
});

test("an offer of the same connection is answered by the same, another one replaces it", async (context) => {
  const { mesh, world } = await connected(context);
  mesh.receiveOffer("a", ADA.toLowerCase(), "verified");
  await settle();
  assert.equal(world.connections.length, 1);
  assert.deepEqual(said(world), ["answer a", "answer a"]);
  mesh.receiveOffer("a", ADA.replace("AA", "BB"), "verified");
  await settle();
  assert.deepEqual(world.connections.map(({ closed }) => closed), [true, false]);
});

test("when both look for another way, the smaller key's offer counts", async (context) => {
  for (const [self, answers] of [["m", ["answer a", "offer a", "answer a"]], ["A", ["answer a", "offer a", "offer a"]]]) {
    const { mesh, world } = await connected(context, { self });
    await mesh.renew({ unlessConnected: false });
    await settle();
    mesh.receiveOffer("a", ADA, "verified");
    await settle();
    assert.deepEqual(said(world), answers);
    assert.equal(world.connections.length, 1);
    mock.timers.reset();
  }
});

test("a way that is disturbed for a while is given up for another", async (context) => {
  const { world, connection } = await connected(context);
  connection.become("disconnected");
  mock.timers.tick(3_900);
  connection.become("connected");
  mock.timers.tick(10_000);
  await settle();
  assert.deepEqual(said(world), ["answer a"]);
  connection.become("disconnected");
  mock.timers.tick(4_000);
  await settle();
  assert.deepEqual(said(world), ["answer a", "offer a"]);
});

test("after a restart of the server what is direct goes on, and what is relayed is looked for anew", async (context) => {
  for (const [kind, expected] of [["host", ["answer a"]], ["relay", ["answer a", "offer a"]]]) {
    const { mesh, world } = await connected(context, { kind });
    await mesh.renew({ unlessConnected: true, relayHolds: true });
    await settle();
    assert.deepEqual(said(world), ["answer a"]);
    await mesh.renew({ unlessConnected: true, relayHolds: false, peer: "a" });
    await settle();
    assert.deepEqual(said(world), expected);
    mock.timers.reset();
  }
});

test("an offer that nobody heard is made again", async (context) => {
  const { mesh, world } = await connected(context, { kind: "relay" });
  for (const _ of [0, 1]) {
    await mesh.renew({ unlessConnected: true, relayHolds: false, peer: "a" });
    await settle();
  }
  assert.deepEqual(said(world), ["answer a", "offer a", "offer a"]);
  assert.equal(world.connections.length, 1);
});

test("what is written goes to those who sign, once they are connected, and comes from them within bounds", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, []);
  mesh.peerJoined("z");
  await settle();
  mesh.receiveAnswer("z", ADA, "verified");
  await settle();
  const [connection] = world.connections;
  assert.equal(connection.channel, undefined, "sound comes first");
  connection.become("connected");
  await settle();
  assert.deepEqual(said(world), ["offer z", "offer z"]);
  mesh.receiveAnswer("z", ADA, "verified");
  await settle();
  assert.equal(mesh.sendText("too early"), false);
  connection.channel.readyState = "open";
  connection.channel.onopen();
  assert.equal(world.reads.get("z"), true);
  assert.equal(mesh.sendText("hello"), true);
  assert.deepEqual(connection.channel.sent.map((data) => JSON.parse(data)), [{ type: "text", text: "hello" }]);
  for (const data of ["", "{", "null", "[]", new ArrayBuffer(2), '{"type":"text"}', '{"type":"text","text":" "}', '{"type":"x","text":"a"}']) {
    connection.channel.onmessage({ data });
  }
  for (let n = 0; n < 20; n += 1) connection.channel.onmessage({ data: `{"type":"text","text":"${n}"}` });
  assert.deepEqual(world.texts.map(([, text]) => text), Array.from({ length: 10 }, (_, n) => String(n)));
  connection.channel.bufferedAmount = 1e6;
  assert.equal(mesh.sendText("stuck"), false);
  mesh.peerLeft("z");
  assert.equal(world.reads.get("z"), false);
});

test("to existing clients no channel is opened, and of others' channels only ours is taken", async (context) => {
  const { mesh, world } = made(context);
  mesh.enter(PLACE, ["a"]);
  mesh.peerJoined("z");
  mesh.receiveOffer("a", ADA, "verified");
  await settle();
  mesh.receiveAnswer("z", ADA, null);
  await settle();
  const answering = world.connections.find(({ remote }) => remote[0].type === "offer");
  for (const connection of world.connections) connection.become("connected");
  await settle();
  assert.ok(world.connections.every(({ channel }) => channel === undefined));
  const closed = [];
  const channel = (label) => ({ label, readyState: "open", bufferedAmount: 0, close: () => closed.push(label) });
  for (const label of ["other", "tavern-text-v1", "tavern-text-v1"]) answering.ondatachannel({ channel: channel(label) });
  assert.deepEqual(closed, ["other", "tavern-text-v1"]);
  assert.equal(world.reads.get("a"), true);
});
