import assert from "node:assert/strict";
import { test } from "node:test";

import { microphoneTrouble } from "../../src/tavern/web/static/microphone.js";
import { delayBefore } from "../../src/tavern/web/static/backoff.js";
import { isStoredIdentity, makeIdentity, tagOf, toHex } from "../../src/tavern/web/static/identity.js";
import {
  inviteLink,
  isLoopback,
  parseInvite,
  sameHost,
  tavernInPath,
} from "../../src/tavern/web/static/links.js";
import { parseVisited, withVisit } from "../../src/tavern/web/static/memory.js";
import { hueOf, initialOf } from "../../src/tavern/web/static/people.js";
import { strings } from "../../src/tavern/web/static/strings.js";
import { firstWithRoom, peopleIn } from "../../src/tavern/web/static/channel-people.js";
import { isGlyph } from "../../src/tavern/web/static/view-tavern.js";

const ID = "3f2b8c1e-9a47-4d55-8f10-0c2d7e9b6a31";

test("waits double up to a ceiling and never below half", () => {
  const backoff = { first: 600, most: 15_000 };
  assert.deepEqual([0, 1, 2, 3].map((n) => delayBefore(n, backoff, () => 0)), [300, 600, 1_200, 2_400]);
  assert.equal(delayBefore(0, backoff, () => 0.5), 450);
  for (const attempt of [5, 50, 5_000]) {
    assert.equal(delayBefore(attempt, backoff, () => 0), 7_500);
    assert.ok(delayBefore(attempt, backoff, () => 0.999) <= 15_000);
  }
});

test("a tag is made of the key's first eight digits", () => {
  assert.equal(tagOf("0123abcd" + "0".repeat(56)), "TVN-0123-abcd");
});

test("a new identity is an Ed25519 key pair in hex, the private key as PKCS#8", async () => {
  const made = await makeIdentity();
  assert.ok(isStoredIdentity(made));
  const bytes = Buffer.from(made.privateKeyHex, "hex");
  const key = await crypto.subtle.importKey("pkcs8", bytes, "Ed25519", true, ["sign"]);
  const jwk = await crypto.subtle.exportKey("jwk", key);
  assert.equal(Buffer.from(jwk.x, "base64url").toString("hex"), made.publicKeyHex);
  assert.notEqual((await makeIdentity()).publicKeyHex, made.publicKeyHex);
});

test("a browser without Ed25519 gets a name that nobody can guess, and no key to sign with", async (context) => {
  for (const generateKey of [async () => Promise.reject(new DOMException("", "NotSupportedError")), undefined]) {
    Object.defineProperty(crypto.subtle, "generateKey", { value: generateKey, configurable: true });
    context.after(() => delete crypto.subtle.generateKey);
    const [one, other] = [await makeIdentity(), await makeIdentity()];
    assert.ok(isStoredIdentity(one));
    assert.equal(one.privateKeyHex, "");
    assert.notEqual(one.publicKeyHex, other.publicKeyHex);
  }
});

test("what is stored is checked before it is used", () => {
  for (const stored of [undefined, null, 1, {}, { publicKeyHex: "ab", privateKeyHex: "" }]) {
    assert.equal(isStoredIdentity(stored), false);
  }
  assert.equal(toHex(new Uint8Array([0, 15, 255])), "000fff");
});

test("invite links lead back to their tavern", () => {
  const link = inviteLink("https://voice.example:3001", ID);
  assert.equal(link, `https://voice.example:3001/join/${ID}`);
  assert.deepEqual(parseInvite(link), { tavernId: ID, origin: "https://voice.example:3001" });
  assert.equal(tavernInPath(new URL(link).pathname), ID);
});

test("people paste links in many ways", () => {
  assert.deepEqual(parseInvite(`  ${ID.toUpperCase()} `), { tavernId: ID, origin: null });
  assert.deepEqual(parseInvite(`voice.example/join/${ID}`), { tavernId: ID, origin: "https://voice.example" });
  assert.deepEqual(parseInvite(`http://localhost:3001/join/${ID}/?x=1#y`), {
    tavernId: ID,
    origin: "http://localhost:3001",
  });
  for (const other of ["", "hello", "https://voice.example/", `javascript:alert(1)//join/${ID}`, "https://x/join/1"]) {
    assert.equal(parseInvite(other), null, other);
  }
});

test("the same host under another scheme is this server", () => {
  assert.ok(sameHost("https://voice.example:3001", "http://voice.example:3001"));
  assert.ok(!sameHost("https://voice.example", "http://voice.example:3001"));
});

test("paths that are no invitation are the front page", () => {
  for (const path of ["/", "/join/", "/join/a/b", "/elsewhere"]) assert.equal(tavernInPath(path), null);
  assert.equal(tavernInPath("/join/%E0%A4%A"), "%E0%A4%A");
});

test("links to this computer are told from links that others can open", () => {
  for (const host of ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0"]) {
    assert.ok(isLoopback(host), host);
  }
  for (const host of ["voice.example", "192.168.1.2", "127.example", "localhost.example", "[fe80::1]"]) {
    assert.ok(!isLoopback(host), host);
  }
});

test("visited taverns: the latest first, each once, not too many, whatever was stored", () => {
  let visited = parseVisited("");
  for (let n = 0; n < 20; n += 1) visited = withVisit(visited, { id: `${n}`, name: `n${n}` });
  visited = withVisit(visited, { id: "15", name: "renamed" });
  assert.equal(visited.length, 12);
  assert.deepEqual(visited[0], { id: "15", name: "renamed" });
  assert.equal(visited.filter(({ id }) => id === "15").length, 1);
  for (const stored of ["{", "7", '[1,null,{"id":1}]']) assert.deepEqual(parseVisited(stored), []);
});

test("people have an initial and a colour that stays", () => {
  assert.equal(initialOf(" ada"), "A");
  assert.equal(initialOf("🦊 fox"), "🦊");
  assert.equal(initialOf(" "), "?");
  for (const key of ["", "same_key_123", "#1", "ab".repeat(32)]) {
    assert.equal(hueOf(key), hueOf(key));
    assert.ok(hueOf(key) >= 0 && hueOf(key) < 8);
  }
});

test("the one button joins the first channel with room", () => {
  const peers = (count) => Array.from({ length: count }, (_, n) => ({ publicKeyHex: `${n}`, tag: "", displayName: "" }));
  const channel = (id, count) => ({ id, name: id, peers: peers(count) });
  const tavern = (...channels) => ({ id: "t", name: "t", icon: "", channels });
  assert.equal(firstWithRoom(tavern(channel("a", 7), channel("b", 0)))?.id, "a");
  assert.equal(firstWithRoom(tavern(channel("a", 8), channel("b", 0)))?.id, "b");
  assert.equal(firstWithRoom(tavern(channel("a", 8)))?.id, "a");
  assert.equal(firstWithRoom(tavern()), null);
});

test("in our own channel we and those we are connected with are shown, elsewhere those the server named", () => {
  const named = { publicKeyHex: "n", tag: "TVN-n", displayName: "Named" };
  const channels = [{ id: "here", name: "", peers: [named] }, { id: "there", name: "", peers: [named] }];
  const tavern = { id: "t", name: "t", icon: "", channels, owner: "m", locked: false, moderators: ["me"] };
  const member = { publicKeyHex: "m", tag: "", displayName: "Member", state: "connected", trouble: null, speaking: true };
  const state = {
    tavernId: "t",
    tavern,
    identity: { publicKeyHex: "me", tag: "TVN-me", kept: true },
    displayName: "",
    call: { tavern, channelId: "here", channelName: "", joined: true },
    members: new Map([["m", member]]),
    muted: true,
    speaking: true,
    listening: false,
  };
  const here = peopleIn(state, channels[0]);
  assert.deepEqual(here.map(({ name, self, speaking, muted }) => [name, self, speaking, muted]), [
    ["TVN-me", true, false, true],
    ["Member", false, true, false],
  ]);
  assert.deepEqual(here.map(({ role, ownRole }) => [role, ownRole]), [["moderator", "moderator"], ["owner", "moderator"]]);
  assert.deepEqual(peopleIn(state, channels[1]).map(({ name, state: pair }) => [name, pair]), [["Named", null]]);
});

test("an icon is shown if it is a character, not if it is a picture's address", () => {
  for (const icon of ["🍺", "👨‍👩‍👧", "★", "AB"]) assert.ok(isGlyph(icon), icon);
  for (const icon of ["", " ", "data:image/png;base64,AAAA", "/a.png", "beer.png"]) assert.ok(!isGlyph(icon), icon);
});

test("each reason for having no microphone has its own words", () => {
  const kinds = ["NotAllowedError", "NotFoundError", "NotReadableError", "Other"].map((name) =>
    microphoneTrouble(new DOMException("", name)),
  );
  assert.deepEqual(kinds, ["refused", "absent", "busy", "broken"]);
  for (const kind of kinds) assert.ok(strings.microphone.trouble(kind).text);
});

test("the server's errors are said in words, also those not known here", () => {
  assert.match(strings.serverError("Channel full", "channel-full"), /eight/);
  assert.match(strings.serverError("Field name: is missing", "bad-message"), /Field name: is missing/);
  assert.ok(strings.serverError("", ""));
});
