/** How long to wait before trying again: doubling, with a ceiling, and never the same for two pages. */

/** @typedef {{first: number, most: number}} Backoff milliseconds */

/**
 * The wait before attempt `attempt` (0 is the first retry), in milliseconds: half of it certain, half of it by chance,
 * so that all the pages of a server that restarts do not come back in one instant.
 *
 * @param {number} attempt
 * @param {Backoff} backoff
 * @param {() => number} [random] in [0, 1)
 * @returns {number}
 */
export function delayBefore(attempt, { first, most }, random = Math.random) {
  const full = Math.min(most, first * 2 ** Math.min(attempt, 30));
  return Math.round(full / 2 + (full / 2) * random());
}
