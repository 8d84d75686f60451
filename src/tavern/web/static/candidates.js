/** ICE candidates as they travel: which are worth a message, what is read from one, which wait for their description. */

/** Candidates kept for a description that has not come. */
const MOST_EARLY = 64;

/**
 * Whether a candidate is worth a message. Browsers only ever open TCP connections and never accept them, so their TCP
 * host candidates lead nowhere.
 *
 * @param {string} candidate
 * @returns {boolean}
 */
export function isUseful(candidate) {
  return candidate !== "" && !/ tcptype active\b/.test(candidate);
}

/**
 * Whether a candidate leads through a relay.
 *
 * @param {string} candidate
 * @returns {boolean}
 */
export function isRelayed(candidate) {
  return / typ relay\b/.test(candidate);
}

/**
 * @param {string} json
 * @returns {RTCIceCandidateInit | null}
 */
export function parseCandidate(json) {
  try {
    /** @type {unknown} */
    const value = JSON.parse(json);
    if (typeof value !== "object" || value === null) return null;
    const { candidate } = /** @type {Record<string, unknown>} */ (value);
    return typeof candidate === "string" && candidate !== "" ? /** @type {RTCIceCandidateInit} */ (value) : null;
  } catch {
    return null;
  }
}

/**
 * Keeps a candidate that came before the description it belongs to, within bounds.
 *
 * @param {string[]} early
 * @param {string} candidate
 */
export function keepEarly(early, candidate) {
  if (early.length < MOST_EARLY) early.push(candidate);
}
