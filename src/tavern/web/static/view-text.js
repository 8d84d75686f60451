/** The card with what is written in the channel. */

import { el, list, setText, show } from "./dom.js";
import { strings } from "./strings.js";
import { MOST_CHARACTERS, withLinks } from "./text.js";

/**
 * @typedef {import("./state.js").Written} Written
 *
 * @typedef {object} TextActions
 * @property {(text: string) => boolean} sendText whether somebody gets it
 */

const words = strings.text;

export class TextView {
  #log = el("ol", { class: "log", role: "log", "aria-label": words.title, tabindex: 0 });
  #unread = el("span", { class: "unread", role: "status" });
  #empty = el("p", { class: "hint" }, words.empty);
  #blind = el("p", { class: "hint" });
  #input = el("input", {
    id: "text-input",
    maxlength: MOST_CHARACTERS,
    autocomplete: "off",
    "aria-label": words.label,
    placeholder: words.placeholder,
  });
  #send = el("button", { type: "submit" }, words.send);
  #seen = 0;
  #count = 0;

  /** @param {TextActions} actions */
  constructor({ sendText }) {
    this.element = el(
      "details",
      { class: "card text", id: "text", ontoggle: () => this.#look() },
      el("summary", {}, el("h2", {}, words.title), this.#unread),
      this.#empty,
      this.#log,
      this.#blind,
      el(
        "form",
        {
          class: "field",
          onsubmit: (event) => {
            event.preventDefault();
            const text = this.#input.value.trim();
            if (text && sendText(text)) this.#input.value = "";
          },
        },
        this.#input,
        this.#send,
      ),
    );
  }

  /** @param {import("./state.js").State} state */
  update({ call, written, members }) {
    show(this.element, call !== null);
    if (written.length === 0) this.#seen = 0;
    const grown = written.length > 0 && written.at(-1)?.number !== this.#count;
    this.#count = written.at(-1)?.number ?? 0;
    const follows = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    list(this.#log, written, { key: ({ number }) => String(number), make, update: () => {} });
    if (grown && follows) this.#log.scrollTop = this.#log.scrollHeight;
    show(this.#empty, written.length === 0);
    const blind = [...members.values()].filter(({ reads }) => !reads).map(({ displayName }) => displayName);
    show(this.#blind, members.size > 0 && blind.length > 0);
    setText(this.#blind, words.blind(blind));
    this.#send.disabled = blind.length === members.size;
    this.#look();
  }

  /** Who has the card open has read it. */
  #look() {
    if (this.element.hasAttribute("open")) this.#seen = this.#count;
    const unread = Math.max(0, this.#count - this.#seen);
    show(this.#unread, unread > 0);
    setText(this.#unread, unread > 0 ? words.unread(unread) : "");
  }
}

/**
 * @param {Written} written
 * @returns {HTMLLIElement}
 */
function make({ name, text, at, own }) {
  const time = new Date(at);
  return el(
    "li",
    { class: own ? "own" : "" },
    el("span", { class: "name" }, name),
    el("time", { datetime: time.toISOString() }, time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })),
    el(
      "p",
      {},
      ...withLinks(text).map((part) =>
        part.href === null
          ? part.text
          : el("a", { href: part.href, target: "_blank", rel: "noopener noreferrer nofollow" }, part.text)),
    ),
  );
}
