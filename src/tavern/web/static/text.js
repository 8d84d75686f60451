/**
 * Text between two who talk: over a channel of their own connection, never through the server.
 *
 * What came from the other side is bounded before anything looks at it.
 */

/** What a channel of ours is called; nobody else's is taken. */
export const LABEL = "tavern-text-v1";
export const MOST_CHARACTERS = 2_000;
/** A message in JSON, where each character may be escaped. */
const MOST_WIRE = MOST_CHARACTERS * 6 + 100;
/** From one person in any RATE_MS; more is not shown. */
const RATE = 10;
const RATE_MS = 5_000;

/** A limit on what one person may show. */
export class TextLimit {
  /** @type {number[]} */
  #times = [];

  /**
   * @param {number} nowMs
   * @returns {boolean}
   */
  allow(nowMs) {
    this.#times = this.#times.filter((time) => nowMs - time < RATE_MS);
    if (this.#times.length >= RATE) return false;
    this.#times.push(nowMs);
    return true;
  }
}

/**
 * @param {string} text
 * @returns {string} as it goes over a channel
 */
export function wireText(text) {
  return JSON.stringify({ type: "text", text: text.slice(0, MOST_CHARACTERS) });
}

/**
 * @param {unknown} data
 * @returns {string | null} null for what is no text
 */
export function parseText(data) {
  if (typeof data !== "string" || data.length > MOST_WIRE) return null;
  try {
    const { type, text } = JSON.parse(data) ?? {};
    if (type !== "text" || typeof text !== "string" || text.trim() === "") return null;
    return text.length > MOST_CHARACTERS ? null : text;
  } catch {
    return null;
  }
}

/**
 * A text in parts, those that are links told apart. Only what begins like an address of the web is one.
 *
 * @param {string} text
 * @returns {{text: string, href: string | null}[]}
 */
export function withLinks(text) {
  const parts = text.split(/(https?:\/\/[^\s<>"']+)/i);
  return parts.flatMap((part, at) => {
    if (part === "") return [];
    if (at % 2 === 0) return [{ text: part, href: null }];
    // What ends a sentence or closes a bracket around the link is not part of it.
    const [, link = "", rest = ""] = /^(.*?)([.,;:!?)\]}]*)$/.exec(part) ?? [];
    const href = URL.canParse(link) ? link : null;
    return [{ text: link, href }, ...(rest === "" ? [] : [{ text: rest, href: null }])];
  });
}
