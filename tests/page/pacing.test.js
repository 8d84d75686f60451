import assert from "node:assert/strict";
import { test } from "node:test";

import { Pacer } from "../../src/tavern/web/static/pacing.js";
import { FakeClock } from "./fakes.js";

const offer = (target, sdp = "") => ({ type: "offer", target, tavernId: "t", channelId: "c", sdp });
const candidate = (target, n) => ({ type: "ice-candidate", target, tavernId: "t", channelId: "c", candidate: `${n}` });
const ask = { type: "get-ice-servers" };

function pacer() {
  const clock = new FakeClock();
  const sent = [];
  return { clock, sent, pacer: new Pacer((message) => sent.push({ at: clock.time, ...message }), clock) };
}

test("what fits is sent at once", () => {
  const { sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(candidate("a", n));
  assert.equal(sent.length, 10);
});

test("no two seconds see more than 30 messages, and all arrive", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 130; n += 1) {
    paced.push(candidate(`peer ${n % 7}`, n));
    if (n % 10 === 0) clock.advance(37);
  }
  clock.advance(20_000);
  assert.equal(sent.length, 130);
  for (const { at } of sent) {
    assert.ok(sent.filter((other) => other.at >= at && other.at < at + 1_999).length <= 30);
    assert.ok(sent.filter((other) => other.at >= at && other.at < at + 999).length <= 20);
  }
});

test("requests go first, then descriptions, then candidates", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(ask);
  paced.push(candidate("a", 1));
  paced.push(offer("b"));
  paced.push({ type: "leave-channel", tavernId: "t", channelId: "c" });
  clock.advance(5_000);
  assert.deepEqual(sent.slice(10).map(({ type }) => type), ["leave-channel", "offer", "ice-candidate"]);
});

test("what one target gets keeps its order, also when a description waits behind candidates", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(ask);
  const toA = [candidate("a", 1), candidate("a", 2), offer("a", "new"), candidate("a", 3)];
  for (const message of toA) paced.push(message);
  paced.push(offer("b"));
  clock.advance(5_000);
  assert.deepEqual(
    sent.filter(({ target }) => target === "a").map(({ at, ...message }) => message),
    toA,
  );
});

test("targets take turns", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(ask);
  for (const target of ["a", "a", "a", "b", "b", "b"]) paced.push(candidate(target, 0));
  clock.advance(5_000);
  assert.deepEqual(sent.slice(10).map(({ target }) => target), ["a", "b", "a", "b", "a", "b"]);
});

test("what waits for a pair that is gone is dropped", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(ask);
  paced.push(candidate("a", 1));
  paced.push(candidate("b", 2));
  paced.drop("a");
  clock.advance(5_000);
  assert.deepEqual(sent.slice(10).map(({ target }) => target), ["b"]);
});

test("after a rebuke there is silence for a while", () => {
  const { clock, sent, pacer: paced } = pacer();
  paced.pause();
  paced.push(ask);
  clock.advance(1_000);
  assert.equal(sent.length, 0);
  clock.advance(200);
  assert.equal(sent.length, 1);
});

test("a flood of candidates is bounded, requests are not lost in it", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 5_000; n += 1) paced.push(candidate("a", n));
  paced.push(ask);
  clock.advance(200_000);
  assert.ok(sent.length <= 1_030);
  assert.equal(sent.filter(({ type }) => type === "get-ice-servers").length, 1);
});

test("reset forgets what waits and starts counting anew", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 40; n += 1) paced.push(candidate("a", n));
  paced.reset();
  paced.push(ask);
  clock.advance(5_000);
  assert.equal(sent.length, 11);
});

test("after a silence the burst is whole again, and no more than whole", () => {
  const { clock, sent, pacer: paced } = pacer();
  for (let n = 0; n < 10; n += 1) paced.push(ask);
  clock.advance(60_000);
  for (let n = 0; n < 30; n += 1) paced.push(ask);
  assert.equal(sent.length, 20);
});
