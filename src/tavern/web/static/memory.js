/**
 * What the page remembers between visits besides the identity: the display name, the taverns visited, and of others
 * whose keys sign, and which key a name was seen with.
 *
 * @typedef {{id: string, name: string}} Visited
 */

import { parseSettings } from "./audio-settings.js";

/** The most that somebody is made louder. */
export const LOUDEST = 2;

const NAME = "tavern.displayName";
const VISITED = "tavern.visited";
const MOST_VISITED = 12;
const HIDDEN_IN = "tavern.hiddenIn";
const THEME = "tavern.theme";
const HIDDEN = "tavern.hidden";
const AUDIO = "tavern.audio";
const VOLUMES = "tavern.volumes";
const SIGNERS = "tavern.signers";
const NAMES = "tavern.names";
/** Of the others' keys and names; some 50 KB. The ones met longest ago are forgotten first. */
const MOST_KNOWN = 500;

/**
 * @param {string} key
 * @returns {string}
 */
function get(key) {
  try {
    return localStorage.getItem(key) ?? "";
  } catch {
    return ""; // storage is switched off
  }
}

/**
 * @param {string} key
 * @param {string} value
 */
function set(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // Storage is switched off or full: nothing is remembered, everything else works.
  }
}

/** @returns {string} */
export function rememberedName() {
  return get(NAME);
}

/** @param {string} name */
export function rememberName(name) {
  set(NAME, name);
}

/** @returns {Visited[]} the latest first */
export function visitedTaverns() {
  return parseVisited(get(VISITED));
}

/** @param {Visited} tavern */
export function rememberVisit(tavern) {
  set(VISITED, JSON.stringify(withVisit(visitedTaverns(), tavern)));
}

/** @param {string} tavernId */
export function forgetVisit(tavernId) {
  set(VISITED, JSON.stringify(visitedTaverns().filter(({ id }) => id !== tavernId)));
}

/** @returns {import("./audio-settings.js").AudioSettings} */
export function rememberedSettings() {
  return parseSettings(get(AUDIO));
}

/** @param {import("./audio-settings.js").AudioSettings} settings */
export function rememberSettings(settings) {
  set(AUDIO, JSON.stringify(settings));
}

/**
 * How loud somebody is to be: 0 to LOUDEST; 1 is as it comes.
 *
 * @param {string} key
 * @returns {number}
 */
export function volumeOf(key) {
  const volume = Number(parseEntries(get(VOLUMES)).get(key) ?? 1);
  return volume >= 0 && volume <= LOUDEST ? volume : 1;
}

/**
 * @param {string} key
 * @param {number} volume
 */
export function rememberVolume(key, volume) {
  set(VOLUMES, JSON.stringify([...withEntry(parseEntries(get(VOLUMES)), key, String(volume))]));
}

/** @returns {boolean} whether the others shall not learn our address */
export function remembersHidden() {
  return get(HIDDEN) === "yes";
}

/** @param {boolean} hidden */
export function rememberHidden(hidden) {
  set(HIDDEN, hidden ? "yes" : "");
}

/**
 * @param {string} tavernId
 * @returns {boolean} whether the others in this tavern shall not learn our address
 */
export function hidesIn(tavernId) {
  return parseEntries(get(HIDDEN_IN)).has(tavernId);
}

/**
 * @param {string} tavernId
 * @param {boolean} hidden
 */
export function rememberHidesIn(tavernId, hidden) {
  const entries = withEntry(parseEntries(get(HIDDEN_IN)), tavernId, "");
  if (!hidden) entries.delete(tavernId);
  set(HIDDEN_IN, JSON.stringify([...entries]));
}

/** @returns {string} */
export function rememberedTheme() {
  return get(THEME);
}

/** @param {string} theme read by theme.js */
export function rememberTheme(theme) {
  set(THEME, theme);
}

/** The keys that have once signed. */
export const signers = {
  /** @param {string} key */
  has: (key) => parseEntries(get(SIGNERS)).has(key),

  /** @param {string} key */
  add: (key) => set(SIGNERS, JSON.stringify([...withEntry(parseEntries(get(SIGNERS)), key, "")])),
};

/**
 * The key that goes by this name, as far as was seen.
 *
 * @param {string} name
 * @returns {string | null}
 */
export function keyOfName(name) {
  return parseEntries(get(NAMES)).get(name) ?? null;
}

/**
 * From now on this key goes by this name.
 *
 * @param {string} name
 * @param {string} key
 */
export function pinName(name, key) {
  set(NAMES, JSON.stringify([...withEntry(parseEntries(get(NAMES)), name, key)]));
}

/**
 * @param {string} stored pairs of texts
 * @returns {Map<string, string>}
 */
export function parseEntries(stored) {
  try {
    /** @type {unknown} */
    const list = JSON.parse(stored || "[]");
    if (!Array.isArray(list)) return new Map();
    return new Map(list.filter((item) => Array.isArray(item) && item.length === 2 && item.every(isText)));
  } catch {
    return new Map();
  }
}

/**
 * @param {Map<string, string>} entries the latest last
 * @param {string} key
 * @param {string} value
 * @returns {Map<string, string>}
 */
export function withEntry(entries, key, value) {
  const others = [...entries].filter(([other]) => other !== key);
  return new Map([...others, /** @type {[string, string]} */ ([key, value])].slice(-MOST_KNOWN));
}

/**
 * @param {unknown} value
 * @returns {boolean}
 */
function isText(value) {
  return typeof value === "string";
}

/**
 * @param {string} stored
 * @returns {Visited[]}
 */
export function parseVisited(stored) {
  try {
    /** @type {unknown} */
    const list = JSON.parse(stored || "[]");
    if (!Array.isArray(list)) return [];
    return list.flatMap((item) =>
      typeof item?.id === "string" && typeof item?.name === "string" ? [{ id: item.id, name: item.name }] : [],
    );
  } catch {
    return [];
  }
}

/**
 * @param {Visited[]} visited
 * @param {Visited} tavern
 * @returns {Visited[]}
 */
export function withVisit(visited, { id, name }) {
  return [{ id, name }, ...visited.filter((other) => other.id !== id)].slice(0, MOST_VISITED);
}
