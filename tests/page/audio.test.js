import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { parseSettings, SETTINGS_AT_FIRST, THRESHOLDS } from "../../src/tavern/web/static/audio-settings.js";
import { Gate } from "../../src/tavern/web/static/gate.js";
import { parseEntries, withEntry } from "../../src/tavern/web/static/memory.js";
import { PushToTalk } from "../../src/tavern/web/static/push-to-talk.js";
import { keyName, levelShownAs, shownLevel } from "../../src/tavern/web/static/view-audio.js";

test("a gate opens at once, and stays open between two words and at their quiet ends", () => {
  const gate = new Gate();
  gate.threshold = 0.1;
  assert.equal(gate.hear(0.09, 0), false);
  assert.equal(gate.hear(0.1, 10), true);
  assert.equal(gate.hear(0.07, 300), true, "a quieter end keeps it open");
  assert.equal(gate.hear(0, 699), true);
  assert.equal(gate.hear(0, 700), false);
  assert.equal(gate.hear(0.07, 710), false, "and does not open it");
});

test("what was said last before the key was let go goes out, too", (context) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  context.after(() => mock.timers.reset());
  const told = [];
  const push = new PushToTalk((talking) => told.push(talking));
  push.release();
  push.press();
  push.press();
  push.release();
  mock.timers.tick(199);
  assert.deepEqual(told, [true]);
  push.press();
  mock.timers.tick(1_000);
  assert.deepEqual(told, [true], "pressed again in time, it goes on");
  push.release();
  push.release();
  mock.timers.tick(200);
  assert.deepEqual(told, [true, false]);
});

test("what was remembered of sound is taken as far as it makes sense", () => {
  const stored = { input: "mic", output: "", noise: "off", mode: "push", threshold: 0.05, pushKey: "KeyV" };
  assert.deepEqual(parseSettings(JSON.stringify(stored)), stored);
  for (const broken of ["", "{", "null", "7", "[]", '"x"']) assert.deepEqual(parseSettings(broken), SETTINGS_AT_FIRST);
  const wrong = { input: 7, noise: "loud", mode: "shout", threshold: 9, pushKey: {} };
  assert.deepEqual(parseSettings(JSON.stringify(wrong)), SETTINGS_AT_FIRST);
  assert.equal(parseSettings(JSON.stringify({ input: "x".repeat(999) })).input.length, 200);
});

test("a threshold is what the slider shows", () => {
  for (const shown of [0, 0.25, 0.5, 1]) assert.ok(Math.abs(shownLevel(levelShownAs(shown)) - shown) < 1e-9);
  assert.equal(shownLevel(0), 0);
  assert.equal(shownLevel(1), 1);
  assert.equal(levelShownAs(9), THRESHOLDS.most);
});

test("keys are called as they are labelled", () => {
  assert.deepEqual(
    ["KeyV", "Digit4", "Space", "ControlLeft", "F13", "Backquote"].map(keyName),
    ["V", "4", "Space", "Control Left", "F13", "Backquote"],
  );
});

test("of what is remembered of others there is no more than five hundred, the latest", () => {
  let entries = new Map();
  for (let n = 0; n < 600; n += 1) entries = withEntry(entries, String(n), "x");
  entries = withEntry(entries, "100", "again");
  assert.equal(entries.size, 500);
  assert.equal(entries.get("100"), "again");
  assert.equal([...entries.keys()].at(-1), "100");
  assert.deepEqual(parseEntries(JSON.stringify([...entries])), entries);
  for (const broken of ["", "{", "{}", "[[1,2]]", '[["a"]]', "[3]"]) assert.equal(parseEntries(broken).size, 0);
});
