/** What the owner of a tavern does with it, and in part its moderators: shown to nobody else. */

import { el, show } from "./dom.js";
import { strings } from "./strings.js";

/**
 * @typedef {import("./messages.js").Manage} Manage
 * @typedef {import("./messages.js").Tavern} Tavern
 *
 * @typedef {object} ManageActions
 * @property {(message: Manage) => void} manage
 */

const words = strings.manage;

/**
 * What somebody may do in a tavern.
 *
 * @param {Tavern} tavern
 * @param {string | null} key
 * @returns {"owner" | "moderator" | null}
 */
export function roleIn({ owner, moderators }, key) {
  if (key === null || owner === null) return null;
  if (owner === key) return "owner";
  return moderators.includes(key) ? "moderator" : null;
}

export class ManageView {
  #actions;
  #tavernId = "";
  #named = "";
  #name = el("input", { id: "tavern-rename", maxlength: 100, required: true, autocomplete: "off" });
  #rename = el("form", { class: "field" });
  #lock = el("input", {
    type: "checkbox",
    id: "tavern-lock",
    onchange: () => this.#manage({ type: "update-tavern", locked: this.#lock.checked }),
  });
  #owners = el("div");
  #delete = el(
    "button",
    {
      type: "button",
      class: "danger small",
      onclick: () => {
        if (window.confirm(words.confirmDelete(this.#named))) this.#manage({ type: "delete-tavern" });
      },
    },
    words.delete,
  );

  /** @param {ManageActions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#rename.append(this.#name, el("button", { type: "submit" }, words.rename));
    this.#rename.addEventListener("submit", (event) => {
      event.preventDefault();
      const name = this.#name.value.trim();
      if (name) this.#manage({ type: "update-tavern", name });
    });
    this.#owners.append(
      el("label", { for: "tavern-rename" }, words.name),
      this.#rename,
      el("p", { class: "check" }, this.#lock, el("label", { for: "tavern-lock" }, words.lock)),
      el("p", { class: "hint" }, words.lockHint),
    );
    this.element = el(
      "details",
      { class: "card manage", id: "manage" },
      el("summary", {}, el("h2", {}, words.title)),
      this.#owners,
      el(
        "p",
        {},
        el(
          "button",
          { type: "button", class: "small", onclick: () => this.#manage({ type: "create-invite" }) },
          words.invite,
        ),
      ),
      el("p", { class: "hint" }, words.inviteHint),
      this.#delete,
    );
  }

  /** @param {import("./state.js").State} state */
  update({ tavern, identity }) {
    const role = tavern && roleIn(tavern, identity?.publicKeyHex ?? null);
    show(this.element, role !== null);
    if (!tavern || role === null) return;
    this.#tavernId = tavern.id;
    show(this.#owners, role === "owner");
    show(this.#delete, role === "owner");
    this.#lock.checked = tavern.locked;
    if (this.#named !== tavern.name) this.#name.value = tavern.name;
    this.#named = tavern.name;
  }

  /** @param {import("./messages.js").ManageWithout} message */
  #manage(message) {
    this.#actions.manage(/** @type {Manage} */ ({ ...message, tavernId: this.#tavernId }));
  }
}

/**
 * What may be done about somebody: buttons, for the row of a person.
 *
 * @param {(message: import("./messages.js").ManageWithout) => void} manage
 * @param {string} key
 * @returns {HTMLElement}
 */
export function personButtons(manage, key) {
  const button = (/** @type {string} */ name, /** @type {string} */ label, /** @type {() => void} */ onclick) =>
    el("button", { type: "button", class: `small ${name}`, onclick }, label);
  return el(
    "div",
    { class: "buttons actions" },
    button("kick", words.kick, () => manage({ type: "kick", publicKeyHex: key })),
    button("ban", words.ban, () => {
      if (window.confirm(words.confirmBan)) manage({ type: "ban", publicKeyHex: key });
    }),
    button("promote", words.promote, () => manage({ type: "set-moderator", publicKeyHex: key, moderator: true })),
    button("demote", words.demote, () => manage({ type: "set-moderator", publicKeyHex: key, moderator: false })),
    button("hand-over", words.handOver, () => {
      if (window.confirm(words.confirmHandOver)) manage({ type: "transfer-tavern", publicKeyHex: key });
    }),
  );
}

/**
 * Which of them are shown: by our role, and that of the person.
 *
 * @param {HTMLElement} buttons
 * @param {"owner" | "moderator" | null} own
 * @param {"owner" | "moderator" | null} theirs
 */
export function updatePersonButtons(buttons, own, theirs) {
  const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (buttons.querySelector(`.${name}`));
  const above = own === "owner" || (own === "moderator" && theirs === null);
  show(buttons, above);
  show(part("promote"), own === "owner" && theirs === null);
  show(part("demote"), own === "owner" && theirs === "moderator");
  show(part("hand-over"), own === "owner");
}
