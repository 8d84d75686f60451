/** The front page: make a tavern, or go to one. */

import { el, icon, list, setText, show } from "./dom.js";
import { invitePath, parseInvite, sameHost } from "./links.js";
import { forgetVisit, visitedTaverns } from "./memory.js";
import { hueOf, initialOf } from "./people.js";
import { strings } from "./strings.js";

const words = strings.home;

export class HomeView {
  #heading = el("h1", { tabindex: -1 }, words.title);
  #name = el("input", {
    id: "tavern-name",
    name: "tavern-name",
    required: true,
    maxlength: 100,
    autocomplete: "off",
    placeholder: words.createPlaceholder,
  });
  #link = el("input", {
    id: "tavern-link",
    name: "tavern-link",
    required: true,
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
    placeholder: words.openPlaceholder,
    "aria-describedby": "link-problem",
    oninput: () => setText(this.#problem, ""),
  });
  #problem = el("p", { id: "link-problem", class: "problem", role: "alert" });
  #create = el("button", { type: "submit", class: "primary" }, words.create);
  #visited = el("ul", { class: "visited" });
  #visitedCard = el("section", { class: "card", "aria-labelledby": "visited-title" });
  #onOpen;

  /**
   * @param {object} actions
   * @param {(name: string) => void} actions.onCreate
   * @param {(tavernId: string) => void} actions.onOpen
   */
  constructor({ onCreate, onOpen }) {
    this.#onOpen = onOpen;
    this.#visitedCard.append(el("h2", { id: "visited-title" }, words.visited), this.#visited);
    this.element = el(
      "div",
      { class: "home" },
      el(
        "div",
        { class: "lead" },
        this.#heading,
        el("p", {}, words.lead),
      ),
      el(
        "div",
        { class: "pair" },
        el(
          "form",
          {
            class: "card",
            onsubmit: (event) => {
              event.preventDefault();
              const name = this.#name.value.trim();
              if (name) onCreate(name);
            },
          },
          el("h2", {}, words.createTitle),
          el("label", { for: "tavern-name" }, words.createLabel),
          el("div", { class: "field" }, this.#name, this.#create),
        ),
        el(
          "form",
          {
            class: "card",
            onsubmit: (event) => {
              event.preventDefault();
              this.#openLink();
            },
          },
          el("h2", {}, words.openTitle),
          el("label", { for: "tavern-link" }, words.openLabel),
          el("div", { class: "field" }, this.#link, el("button", { type: "submit" }, words.open)),
          this.#problem,
        ),
      ),
      this.#visitedCard,
    );
  }

  /** @param {import("./state.js").State} state */
  update(state) {
    this.#create.disabled = state.creating;
    setText(this.#create, state.creating ? words.creating : words.create);
    this.#showVisited();
  }

  /** Where the keyboard goes on when what it was on is gone; null while that is still to be seen. */
  get mainstay() {
    return this.#create.disabled ? null : this.#create;
  }

  /** What says where one is after going there. */
  get landmark() {
    return this.#heading;
  }

  /** Empties what was typed: it led somewhere. */
  clear() {
    this.#name.value = "";
    this.#link.value = "";
  }

  #openLink() {
    const invite = parseInvite(this.#link.value);
    if (!invite) setText(this.#problem, words.notALink);
    else if (invite.origin === null || sameHost(invite.origin, location.origin)) this.#onOpen(invite.tavernId);
    else location.assign(invite.origin + invitePath(invite.tavernId));
  }

  #showVisited() {
    const visited = visitedTaverns();
    show(this.#visitedCard, visited.length > 0);
    list(this.#visited, visited, {
      key: ({ id }) => id,
      make: (tavern) => this.#makeVisited(tavern),
      update: (row, { name }) => setText(/** @type {HTMLElement} */ (row.querySelector(".name")), name),
    });
  }

  /**
   * @param {import("./memory.js").Visited} tavern
   * @returns {HTMLLIElement}
   */
  #makeVisited({ id, name }) {
    /** @param {Event} event */
    const open = (event) => {
      const press = /** @type {MouseEvent} */ (event);
      if (press.ctrlKey || press.metaKey || press.shiftKey) return;
      event.preventDefault();
      this.#onOpen(id);
    };
    const row = el(
      "li",
      {},
      el(
        "a",
        { href: invitePath(id), class: `person hue-${hueOf(id)}`, onclick: open },
        el("span", { class: "avatar square", "aria-hidden": "true" }, initialOf(name)),
        el("span", { class: "name" }, name),
      ),
      el(
        "button",
        {
          type: "button",
          class: "quiet bare",
          "aria-label": words.forget(name),
          title: words.forget(name),
          onclick: () => this.#forget(row, id),
        },
        icon("close"),
      ),
    );
    return row;
  }

  /**
   * Takes a tavern off the list; the keyboard goes on with its neighbour.
   *
   * @param {HTMLElement} row
   * @param {string} id
   */
  #forget(row, id) {
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    forgetVisit(id);
    this.#showVisited();
    (neighbour?.querySelector("button") ?? this.#heading).focus();
  }
}
