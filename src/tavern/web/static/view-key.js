/** Our key: taken along to another browser or client, or brought from there. */

import { el, setText } from "./dom.js";
import { exportKey, importKey } from "./identity.js";
import { strings } from "./strings.js";

const words = strings.key;
/** A key file has some 300 characters. */
const MOST_BYTES = 10_000;

export class KeyView {
  #said = el("p", { class: "done", role: "status" });
  #problem = el("p", { class: "problem", role: "alert" });
  #file = el("input", {
    type: "file",
    id: "key-file",
    class: "visually-hidden",
    tabindex: -1,
    accept: ".tavern-key,application/json",
    onchange: () => void this.#import(),
  });

  constructor() {
    this.element = el(
      "details",
      { class: "key", id: "key" },
      el("summary", {}, words.title),
      el("p", { class: "hint" }, words.text),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", class: "small", onclick: () => void this.#export() }, words.export),
        el("button", { type: "button", class: "small", onclick: () => this.#file.click() }, words.import),
      ),
      el("label", { for: "key-file", class: "visually-hidden" }, words.import),
      this.#file,
      this.#said,
      this.#problem,
    );
  }

  async #export() {
    const made = await exportKey();
    if (!made) {
      this.#say("", words.none);
      return;
    }
    const url = URL.createObjectURL(new Blob([made.content], { type: "application/json" }));
    el("a", { href: url, download: made.name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    this.#say(words.exported, "");
  }

  async #import() {
    const file = this.#file.files?.[0];
    this.#file.value = "";
    if (!file) return;
    if (file.size > MOST_BYTES || !(await importKey(await file.text()))) {
      this.#say("", words.wrong);
    } else {
      location.reload(); // as who one is now
    }
  }

  /**
   * @param {string} done
   * @param {string} problem
   */
  #say(done, problem) {
    setText(this.#said, done);
    setText(this.#problem, problem);
  }
}
