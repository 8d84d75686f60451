/** Whether a voice is let through, by how loud it is. It opens at once, and stays open between two words. */

const HOLD_MS = 400;
/** Once open, a voice may be quieter than what opened it: the ends of words are. */
const KEEPS_OPEN = 0.6;

export class Gate {
  threshold = 0;
  #loudAt = -Infinity;
  #open = false;

  /**
   * @param {number} level as root mean square
   * @param {number} nowMs
   * @returns {boolean} whether it is open
   */
  hear(level, nowMs) {
    if (level >= this.threshold * (this.#open ? KEEPS_OPEN : 1)) this.#loudAt = nowMs;
    this.#open = nowMs - this.#loudAt < HOLD_MS;
    return this.#open;
  }
}
