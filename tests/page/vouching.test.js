import assert from "node:assert/strict";
import { test } from "node:test";

import { fingerprintsOf } from "../../src/tavern/web/static/fingerprints.js";
import { toHex } from "../../src/tavern/web/static/identity.js";
import { safetyNumber } from "../../src/tavern/web/static/safety.js";
import { Vouching } from "../../src/tavern/web/static/vouching.js";

const PLACE = { tavernId: "t", channelId: "c" };
const FINGERPRINT = "a=fingerprint:sha-256 AA:BB";
const SDP = `v=0\r\na=group:BUNDLE 0\r\n${FINGERPRINT}\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n`;

/** Somebody with a key, and what they know of others. */
async function person(known = []) {
  const pair = await crypto.subtle.generateKey("Ed25519", false, ["sign"]);
  const key = toHex(await crypto.subtle.exportKey("raw", pair.publicKey));
  const sign = async (text) => toHex(await crypto.subtle.sign("Ed25519", pair.privateKey, new TextEncoder().encode(text)));
  const signers = new Set(known);
  return { key, signers, vouching: new Vouching({ self: key, sign, signers }) };
}

test("a signature holds for its key, its receiver, its place and its fingerprints, and for nothing else", async () => {
  const [ada, ben, eve] = await Promise.all([person(), person(), person()]);
  const signature = await ada.vouching.vouch(PLACE, ben.key, "offer", SDP);
  const judge = (changes = {}) => {
    const { place = PLACE, from = ada.key, type = "offer", sdp = SDP, by = ben, what = signature } = changes;
    return by.vouching.judge(place, from, type, sdp, what);
  };
  assert.equal(await judge(), "verified");
  for (const changes of [
    { place: { ...PLACE, channelId: "other" } },
    { place: { ...PLACE, tavernId: "other" } },
    { from: eve.key },
    { from: "any text" },
    { from: "0".repeat(64) },
    { type: "answer" },
    { by: eve },
    { what: "" },
    { what: signature.toUpperCase() },
    { what: `${signature}00` },
    { what: signature.replace(/^../, (byte) => (byte === "00" ? "01" : "00")) },
    { sdp: SDP.replace("AA:BB", "AA:BC") },
    { sdp: SDP.replace(FINGERPRINT, "") },
    { sdp: `${SDP}a=fingerprint:sha-256 EE:EE\r\n` },
    { sdp: `${SDP}a=fingerprint:sha-256 EE:EE and more\r\n` },
    { sdp: `${SDP} A=FingerPrint:sha-256 EE:EE\r\n` },
    { sdp: `${SDP}a=fingerprint:sha-512\tEE:EE\n` },
  ]) {
    assert.equal(await judge(changes), "forged", JSON.stringify(changes));
  }
});

test("what changes nothing of whom the media is for does not matter", async () => {
  const [ada, ben] = await Promise.all([person(), person()]);
  const signature = await ada.vouching.vouch(PLACE, ben.key, "answer", SDP);
  for (const sdp of [
    SDP.toLowerCase(),
    SDP.replaceAll("\r\n", "\n"),
    `${SDP}${FINGERPRINT}\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n`,
  ]) {
    assert.equal(await ben.vouching.judge(PLACE, ada.key, "answer", sdp, signature), "verified");
  }
});

test("a key that signed once must always sign", async () => {
  const [ada, ben] = await Promise.all([person(), person()]);
  assert.equal(await ben.vouching.judge(PLACE, ada.key, "offer", SDP, null), "unsigned");
  await ben.vouching.judge(PLACE, ada.key, "offer", SDP, "0".repeat(128));
  assert.equal(await ben.vouching.judge(PLACE, ada.key, "offer", SDP, null), "unsigned");
  await ben.vouching.judge(PLACE, ada.key, "offer", SDP, await ada.vouching.vouch(PLACE, ben.key, "offer", SDP));
  assert.equal(await ben.vouching.judge(PLACE, ada.key, "offer", SDP, null), "unsigned-now");
  assert.equal(await ben.vouching.judge(PLACE, "another", "offer", SDP, null), "unsigned");
});

test("who has no key, or nothing to sign, does not sign", async (context) => {
  context.mock.method(console, "warn", () => {});
  const signers = new Set();
  const failing = async () => {
    throw new Error("no key");
  };
  for (const sign of [null, failing]) {
    assert.equal(await new Vouching({ self: "a", sign, signers }).vouch(PLACE, "b", "offer", SDP), null);
  }
  const { vouching } = await person();
  assert.equal(await vouching.vouch(PLACE, "b", "offer", "v=0\r\n"), null);
  assert.deepEqual(fingerprintsOf("v=0\r\n"), []);
});

test("both read the same number, and nobody else does", async () => {
  const number = await safetyNumber("a".repeat(64), "b".repeat(64));
  assert.match(number, /^(\d{5} ){11}\d{5}$/);
  assert.equal(await safetyNumber("b".repeat(64), "a".repeat(64)), number);
  assert.notEqual(await safetyNumber("a".repeat(64), "c".repeat(64)), number);
  assert.equal(new Set(number.split(" ")).size, 12);
});
