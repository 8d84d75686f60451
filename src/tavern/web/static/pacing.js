/**
 * Sends what the page has to say no faster than the server listens.
 *
 * A page that joins seven others has about a hundred messages at once, and the server cuts off who sends more than 30 in
 * any second. So: at most `limit` in any `window`, what matters first (requests, then offers and answers, then
 * candidates), and everything for one target in the order in which it was made.
 *
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 */

/** Messages in any window; the server's limit is 30 a second, and the network may press them together a little. */
const LIMIT = 25;
const WINDOW_MS = 1100;

/** How much may wait before candidates are dropped: far above what eight people need, so only a fault gets there. */
const MOST_QUEUED = 1000;

/**
 * @param {ClientMessage} message
 * @returns {number} less is sooner
 */
function rank(message) {
  if (!("target" in message)) return 0;
  return message.type === "ice-candidate" ? 2 : 1;
}

export class Pacer {
  /** @type {(message: ClientMessage) => void} */
  #send;
  /** @type {() => number} */
  #now;
  /** @type {(run: () => void, ms: number) => unknown} */
  #later;
  /** Times of the last `LIMIT` sends. @type {number[]} */
  #sent = [];
  /** One queue per target; requests to the server itself are target "". @type {Map<string, ClientMessage[]>} */
  #queues = new Map();
  #queued = 0;
  #waiting = false;
  #notBefore = 0;

  /**
   * @param {(message: ClientMessage) => void} send
   * @param {{now?: () => number, later?: (run: () => void, ms: number) => unknown}} [clock]
   */
  constructor(send, { now = () => performance.now(), later = (run, ms) => setTimeout(run, ms) } = {}) {
    this.#send = send;
    this.#now = now;
    this.#later = later;
  }

  /** @param {ClientMessage} message */
  push(message) {
    if (this.#queued >= MOST_QUEUED && rank(message) === 2) return;
    const target = "target" in message ? message.target : "";
    const queue = this.#queues.get(target);
    if (queue) queue.push(message);
    else this.#queues.set(target, [message]);
    this.#queued += 1;
    this.#pump();
  }

  /**
   * Forgets what still waits for `target`: its pair is gone.
   *
   * @param {string} target
   */
  drop(target) {
    this.#queued -= this.#queues.get(target)?.length ?? 0;
    this.#queues.delete(target);
  }

  /** Forgets everything that waits, and what was sent: the next connection starts anew. */
  reset() {
    this.#queues.clear();
    this.#queued = 0;
    this.#sent = [];
    this.#notBefore = 0;
  }

  /** The server found us too fast all the same: silence for a whole window. */
  pause() {
    this.#notBefore = this.#now() + WINDOW_MS;
  }

  #pump() {
    if (this.#waiting) return;
    while (this.#queued > 0) {
      const now = this.#now();
      const oldest = this.#sent.length < LIMIT ? -Infinity : (this.#sent[0] ?? -Infinity);
      const wait = Math.max(oldest + WINDOW_MS, this.#notBefore) - now;
      if (wait > 0) {
        this.#waiting = true;
        this.#later(() => {
          this.#waiting = false;
          this.#pump();
        }, Math.ceil(wait));
        return;
      }
      const message = this.#take();
      this.#sent.push(now);
      if (this.#sent.length > LIMIT) this.#sent.shift();
      this.#send(message);
    }
  }

  /**
   * The most urgent of the queues' first messages. Its queue goes to the end of the line, so equals take turns.
   *
   * @returns {ClientMessage}
   */
  #take() {
    /** @type {string} */
    let best = "";
    let bestRank = Infinity;
    for (const [target, queue] of this.#queues) {
      const first = queue[0];
      if (first && rank(first) < bestRank) {
        best = target;
        bestRank = rank(first);
      }
    }
    const queue = this.#queues.get(best);
    const message = queue?.shift();
    if (!queue || !message) throw new Error("the pacer lost count of its queues");
    this.#queues.delete(best);
    if (queue.length > 0) this.#queues.set(best, queue);
    this.#queued -= 1;
    return message;
  }
}
