import assert from "node:assert/strict";
import { test } from "node:test";

import { MOST_CHARACTERS, parseText, wireText, withLinks } from "../../src/tavern/web/static/text.js";

test("what is too long is cut when it is sent, and not taken when it comes", () => {
  assert.equal(parseText(wireText("x".repeat(5_000))).length, MOST_CHARACTERS);
  assert.equal(parseText(wireText("\u0001".repeat(2_000))).length, MOST_CHARACTERS);
  assert.equal(parseText(JSON.stringify({ type: "text", text: "x".repeat(MOST_CHARACTERS + 1) })), null);
  assert.equal(parseText(`{"type":"text","text":"a","more":"${"x".repeat(100_000)}"}`), null);
});

test("links are what begins like an address of the web, without what ends the sentence", () => {
  const links = (text) => withLinks(text).flatMap(({ href }) => href ?? []);
  assert.deepEqual(links("see https://a.example/b?c=d#e, and (http://b.example)."), ["https://a.example/b?c=d#e", "http://b.example"]);
  for (const none of ["javascript:alert(1)", "data:text/html,x", "www.a.example", "ftp://a", "https://", "x"]) {
    assert.deepEqual(links(none), [], none);
  }
  const text = "a https://a.example. b\nhttps://b.example/<script>";
  assert.equal(withLinks(text).map((part) => part.text).join(""), text);
});
