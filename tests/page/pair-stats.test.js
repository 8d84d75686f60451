import assert from "node:assert/strict";
import { test } from "node:test";

import { summarize } from "../../src/tavern/web/static/pair-stats.js";

const NOTHING = { received: 0, lost: 0 };
const report = ({ local = {}, remote = {}, pair = {}, inbound = {} } = {}) => [
  { id: "T", type: "transport", selectedCandidatePairId: "P" },
  { id: "P", type: "candidate-pair", localCandidateId: "L", remoteCandidateId: "R", currentRoundTripTime: 0.0234, ...pair },
  { id: "L", type: "local-candidate", candidateType: "srflx", protocol: "udp", ...local },
  { id: "R", type: "remote-candidate", candidateType: "prflx", ...remote },
  { id: "I", type: "inbound-rtp", kind: "audio", packetsReceived: 90, packetsLost: 10, codecId: "C", ...inbound },
  { id: "C", type: "codec", mimeType: "audio/opus" },
];

test("a connection is told in a few words", () => {
  assert.deepEqual(summarize(report(), NOTHING), {
    stats: { path: "direct", protocol: "udp", roundTripMs: 23, lossPercent: 10, codec: "opus" },
    counted: { received: 90, lost: 10 },
  });
});

test("either side's relay makes it relayed, and says how it is reached", () => {
  const ours = summarize(report({ local: { candidateType: "relay", relayProtocol: "tls" } }), NOTHING);
  assert.deepEqual([ours.stats.path, ours.stats.protocol], ["relayed", "tls"]);
  assert.equal(summarize(report({ remote: { candidateType: "relay" } }), NOTHING).stats.path, "relayed");
});

test("losses are those since the last look", () => {
  assert.equal(summarize(report(), { received: 40, lost: 10 }).stats.lossPercent, 0);
  assert.equal(summarize(report(), { received: 90, lost: 10 }).stats.lossPercent, null);
  assert.equal(summarize(report({ inbound: { packetsLost: -3 } }), NOTHING).stats.lossPercent, 0);
});

test("what is not connected, or not known, is not told", () => {
  assert.equal(summarize([], NOTHING), null);
  assert.equal(summarize(report().filter(({ id }) => id !== "R"), NOTHING), null);
  assert.equal(summarize(report({ pair: { currentRoundTripTime: undefined } }), NOTHING).stats.roundTripMs, null);
});

test("without a transport the pair is the one that is selected, or was nominated and works", () => {
  const without = (pair) => report({ pair }).filter(({ id }) => id !== "T");
  assert.equal(summarize(without({}), NOTHING), null);
  assert.equal(summarize(without({ nominated: true, state: "in-progress" }), NOTHING), null);
  assert.equal(summarize(without({ nominated: true, state: "succeeded" }), NOTHING).stats.path, "direct");
  assert.equal(summarize(without({ selected: true }), NOTHING).stats.path, "direct");
});
