/**
 * What the page remembers between visits besides the identity: the display name and the taverns visited.
 *
 * @typedef {{id: string, name: string}} Visited
 */

const NAME = "tavern.displayName";
const VISITED = "tavern.visited";
const MOST_VISITED = 12;

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
