import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { IceServers } from "../../src/tavern/web/static/ice.js";
import { Signaling } from "../../src/tavern/web/static/signaling.js";
import { settle } from "./fakes.js";

class FakeSocket {
  sent = [];
  closed = false;
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.closed = true;
  }
}

function made(context) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  context.after(() => mock.timers.reset());
  const world = { sockets: [], states: [], messages: [] };
  const signaling = new Signaling({
    url: "ws://x/",
    onMessage: (message) => world.messages.push(message.type),
    onState: (state) => world.states.push(state),
    openSocket: () => {
      world.sockets.push(new FakeSocket());
      return world.sockets.at(-1);
    },
    random: () => 0,
  });
  signaling.connect();
  return { signaling, world };
}

test("a connection that breaks is opened again, ever later", (context) => {
  const { world } = made(context);
  world.sockets[0].onopen();
  for (const wait of [300, 600, 1_200]) {
    const count = world.sockets.length;
    world.sockets.at(-1).onclose();
    mock.timers.tick(wait - 1);
    assert.equal(world.sockets.length, count);
    mock.timers.tick(1);
    assert.equal(world.sockets.length, count + 1);
  }
  assert.deepEqual(world.states.slice(0, 4), ["connecting", "open", "waiting", "connecting"]);
});

test("after a good connection the waits start anew", (context) => {
  const { world } = made(context);
  world.sockets[0].onclose();
  mock.timers.tick(300);
  world.sockets[1].onopen();
  mock.timers.tick(10_000);
  world.sockets[1].onclose();
  mock.timers.tick(300);
  assert.equal(world.sockets.length, 3);
});

test("a connection that never opens, or never answers, is given up", (context) => {
  const { signaling, world } = made(context);
  mock.timers.tick(10_000);
  assert.equal(world.states.at(-1), "waiting");
  assert.ok(world.sockets[0].closed);
  mock.timers.tick(300);
  world.sockets[1].onopen();
  signaling.probe({ type: "get-tavern-info", tavernId: "t" });
  mock.timers.tick(9_999);
  assert.equal(world.states.at(-1), "open");
  world.sockets[1].onmessage({ data: "{}" });
  mock.timers.tick(60_000);
  assert.equal(world.states.at(-1), "open");
  signaling.probe({ type: "get-tavern-info", tavernId: "t" });
  mock.timers.tick(10_000);
  assert.equal(world.states.at(-1), "waiting");
});

test("a replaced session stays quiet until it is told to connect", (context) => {
  const { signaling, world } = made(context);
  world.sockets[0].onopen();
  world.sockets[0].onmessage({ data: '{"type":"session-replaced"}' });
  world.sockets[0].onclose();
  mock.timers.tick(600_000);
  assert.equal(world.sockets.length, 1);
  assert.equal(world.states.at(-1), "replaced");
  assert.deepEqual(world.messages, ["session-replaced"]);
  signaling.connect();
  assert.equal(world.sockets.length, 2);
});

test("what an abandoned connection still says is not heard", (context) => {
  const { world } = made(context);
  world.sockets[0].onopen();
  world.sockets[0].onclose();
  mock.timers.tick(300);
  world.sockets[1].onopen();
  world.sockets[0].onmessage({ data: '{"type":"session-replaced"}' });
  world.sockets[0].onclose();
  assert.equal(world.states.at(-1), "open");
});

test("what is said without a connection is not kept for the next", (context) => {
  const { signaling, world } = made(context);
  signaling.send({ type: "get-ice-servers" });
  world.sockets[0].onopen();
  assert.deepEqual(world.sockets[0].sent, []);
  signaling.send({ type: "get-ice-servers" });
  assert.deepEqual(world.sockets[0].sent, [{ type: "get-ice-servers" }]);
});

/** Credentials with their surroundings. */
function iceServers(context) {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_000_000 });
  context.after(() => mock.timers.reset());
  const world = { asked: 0, changes: [] };
  const ice = new IceServers({
    ask: () => {
      world.asked += 1;
    },
    onChange: (servers) => world.changes.push(servers),
  });
  return { ice, world };
}

const inSeconds = (seconds) => new Date(Date.now() + seconds * 1_000).toISOString();

test("credentials are asked for again a minute before they run out", (context) => {
  const { ice, world } = iceServers(context);
  ice.refresh();
  ice.given([{ urls: ["stun:a"] }], inSeconds(3_600));
  mock.timers.tick(3_539_000);
  assert.equal(world.asked, 1);
  mock.timers.tick(1_000);
  assert.equal(world.asked, 2);
  assert.deepEqual(world.changes, [[{ urls: ["stun:a"] }]]);
});

test("a new pair waits for fresh credentials, and does without if none come", async (context) => {
  const { ice, world } = iceServers(context);
  ice.refresh();
  const answered = ice.fresh();
  ice.given([{ urls: ["stun:a"] }], inSeconds(3_600));
  assert.deepEqual(await answered, [{ urls: ["stun:a"] }]);
  assert.equal(world.asked, 1);
  assert.deepEqual(await ice.fresh(), [{ urls: ["stun:a"] }]);
  ice.stop();
  mock.timers.tick(3_590_000);
  const silent = ice.fresh();
  assert.equal(world.asked, 2);
  await settle();
  mock.timers.tick(3_000);
  assert.deepEqual(await silent, [{ urls: ["stun:a"] }]);
});

test("a clock that is far ahead does not make the page ask without end", async (context) => {
  const { ice, world } = iceServers(context);
  ice.refresh();
  ice.given([], inSeconds(-7_200));
  await ice.fresh();
  assert.equal(world.asked, 1);
  mock.timers.tick(29_999);
  assert.equal(world.asked, 1);
  mock.timers.tick(1);
  assert.equal(world.asked, 2);
});

test("an expiry that cannot be read, or is very far, is no reason to ask", (context) => {
  const { ice, world } = iceServers(context);
  ice.given([], "soon");
  ice.given([], inSeconds(10 * 365 * 86_400));
  mock.timers.tick(86_400_000);
  assert.equal(world.asked, 0);
});
