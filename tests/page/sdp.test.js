import assert from "node:assert/strict";
import { test } from "node:test";

import { withVoiceOpus } from "../../src/tavern/web/static/sdp.js";

const lines = (...rest) => ["v=0", "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0", ...rest, ""].join("\r\n");

function parameters(sdp, type) {
  const line = sdp.split("\r\n").find((each) => each.startsWith(`a=fmtp:${type} `));
  return new Map(line?.replace(/^\S+ /, "").split(";").map((pair) => pair.split("=")));
}

test("Opus is limited, mono, silent in silence and mends itself", () => {
  const sdp = withVoiceOpus(lines("a=rtpmap:111 opus/48000/2", "a=fmtp:111 minptime=10;useinbandfec=1;stereo=1"));
  const got = parameters(sdp, 111);
  assert.equal(got.get("maxaveragebitrate"), "64000");
  assert.equal(got.get("stereo"), "0");
  assert.equal(got.get("usedtx"), "1");
  assert.equal(got.get("useinbandfec"), "1");
  assert.equal(got.get("minptime"), "10");
  assert.ok(sdp.endsWith("\r\n"));
});

test("an Opus without parameters gets them", () => {
  const sdp = withVoiceOpus(lines("a=rtpmap:111 opus/48000/2", "a=rtpmap:0 PCMU/8000"));
  assert.equal(parameters(sdp, 111).get("usedtx"), "1");
  assert.ok(sdp.indexOf("a=rtpmap:111") < sdp.indexOf("a=fmtp:111"));
});

test("other codecs stay as they are, and doing it twice is doing it once", () => {
  const before = lines("a=rtpmap:111 opus/48000/2", "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111");
  const once = withVoiceOpus(before);
  assert.ok(once.includes("\r\na=fmtp:63 111/111\r\n"));
  assert.equal(withVoiceOpus(once), once);
  assert.equal(withVoiceOpus("v=0\r\nno audio\r\n"), "v=0\r\nno audio\r\n");
});
