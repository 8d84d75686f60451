/** How people are shown: an initial on a colour of their own, their name, what is with them. */

import { el, icon, list, setText, show } from "./dom.js";
import { LOUDEST } from "./memory.js";
import { strings } from "./strings.js";
import { personButtons, updatePersonButtons } from "./view-manage.js";

/**
 * @typedef {object} Person
 * @property {string} key
 * @property {string} name
 * @property {string} tag
 * @property {boolean} self
 * @property {boolean} speaking
 * @property {boolean} muted
 * @property {import("./link.js").PairState | null} state null for those one is not connected with
 * @property {import("./link.js").Trouble | null} trouble
 * @property {import("./vouching.js").Trust | null} trust
 * @property {string | null} safety
 * @property {boolean} otherBefore
 * @property {import("./pair-stats.js").PairStats | null} stats
 * @property {number | null} volume null for those one does not hear
 * @property {"owner" | "moderator" | null} role
 * @property {"owner" | "moderator" | null} ownRole what we may do where they are
 *
 * @typedef {object} PersonActions
 * @property {(key: string) => void} retry
 * @property {(key: string) => void} confirmName
 * @property {(key: string, volume: number) => void} setVolume
 * @property {(message: import("./messages.js").ManageWithout) => void} manageHere
 */

const HUES = 8;

/**
 * One of the few colours, always the same for the same key.
 *
 * @param {string} key
 * @returns {number}
 */
export function hueOf(key) {
  let sum = 0;
  for (const character of key.slice(0, 16)) sum = (sum * 31 + (character.codePointAt(0) ?? 0)) >>> 0;
  return sum % HUES;
}

/**
 * @param {string} name
 * @returns {string} its first letter
 */
export function initialOf(name) {
  const [first] = name.trim();
  return (first ?? "?").toLocaleUpperCase();
}

/**
 * @param {HTMLElement} parent a list
 * @param {Person[]} people
 * @param {PersonActions} actions
 */
export function showPeople(parent, people, actions) {
  list(parent, people, { key: ({ key }) => key, make: (person) => make(person, actions), update });
}

/**
 * @param {Person} person
 * @param {PersonActions} actions
 * @returns {HTMLLIElement}
 */
function make(person, actions) {
  return el(
    "li",
    { class: `person hue-${hueOf(person.key)}` },
    el("span", { class: "avatar", "aria-hidden": "true" }),
    el(
      "span",
      { class: "who" },
      el("span", { class: "name" }),
      el("span", { class: "tag" }, person.tag),
      el("span", { class: "role" }),
      el("span", { class: "visually-hidden sounds" }),
    ),
    el("span", { class: "muted-mark", title: strings.call.muted }, icon("mic-off")),
    el("span", { class: "state" }),
    el(
      "button",
      { type: "button", class: "quiet small retry", onclick: () => actions.retry(person.key) },
      strings.peer.retry,
    ),
    el("p", { class: "trouble" }),
    el(
      "label",
      { class: "volume" },
      icon("channel"),
      el("input", {
        type: "range",
        min: 0,
        max: LOUDEST,
        step: 0.05,
        "aria-label": strings.peer.volume(person.name),
        oninput: ({ target }) => actions.setVolume(person.key, Number(/** @type {HTMLInputElement} */ (target).value)),
      }),
    ),
    el(
      "details",
      { class: "more" },
      el("summary", {}, icon("verified"), icon("unverified"), el("span", { class: "trust" })),
      el("p", { class: "trust-text" }),
      el(
        "p",
        { class: "other-before" },
        el("span", { class: "other-text" }),
        el(
          "button",
          { type: "button", class: "small", onclick: () => actions.confirmName(person.key) },
          strings.trust.confirmName,
        ),
      ),
      el("p", { class: "safety" }, el("span", {}, strings.trust.safety), el("code")),
      el("p", { class: "stats hint" }),
      personButtons(actions.manageHere, person.key),
    ),
  );
}

/**
 * @param {HTMLElement} row
 * @param {Person} person
 */
function update(row, person) {
  const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (row.querySelector(selector));
  setText(part(".avatar"), initialOf(person.name));
  setText(part(".name"), person.self ? `${person.name} (${strings.you.toLowerCase()})` : person.name);
  setText(part(".sounds"), person.muted ? strings.call.muted : person.speaking ? strings.call.speaking : "");
  row.classList.toggle("speaking", person.speaking);
  setText(part(".role"), person.role ? strings.manage[person.role] : "");
  row.dataset.state = person.state ?? "";
  show(part(".muted-mark"), person.muted);
  const { state } = person;
  setText(part(".state"), state ? strings.peer[state] : "");
  show(part(".state"), state !== null);
  show(part(".retry"), state === "failed");
  const broken = state === "failed" || state === "retrying";
  setText(part(".trouble"), broken ? strings.peer.connectionFailed(person.name, person.trouble) : "");
  show(part(".trouble"), broken);
  show(part(".volume"), person.volume !== null && state !== "failed");
  const slider = /** @type {HTMLInputElement} */ (part(".volume input"));
  const volume = person.volume ?? 1;
  if (slider.valueAsNumber !== volume) slider.valueAsNumber = volume;
  slider.setAttribute("aria-valuetext", `${Math.round(volume * 100)} %`);
  updateMore(row, person);
}

/**
 * What there is to know about the connection with somebody, and whose voice it is.
 *
 * @param {HTMLElement} row
 * @param {Person} person
 */
function updateMore(row, { name, self, role, ownRole, trust, safety, otherBefore, stats }) {
  const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (row.querySelector(selector));
  updatePersonButtons(part(".actions"), self ? null : ownRole, role);
  show(part(".more"), trust !== null);
  if (trust === null) return;
  const doubt = otherBefore ? "other" : trust;
  row.dataset.trust = doubt;
  setText(part(".trust"), strings.trust[doubt]);
  setText(part(".trust-text"), strings.trust.text[trust]);
  show(part(".other-before"), otherBefore);
  setText(part(".other-text"), strings.trust.otherBefore(name));
  show(part(".safety"), safety !== null);
  setText(part(".safety code"), safety ?? "");
  setText(part(".stats"), stats ? strings.peer.stats(stats) : "");
}
