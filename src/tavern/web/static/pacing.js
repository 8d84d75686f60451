/**
 * Sends what the page has to say no faster than the server listens.
 *
 * The server cuts off who sends more than 30 messages in any second, by its own clock, and a network or a machine that
 * holds its breath for a second delivers two seconds' worth at once. So: `BURST` at once, then one every `STEP_MS`, which
 * makes 30 in any two seconds. What matters goes first (requests, then offers and answers, then candidates), and
 * everything for one target in the order in which it was made.
 *
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 */

const BURST = 10;
const STEP_MS = 100;

/** How long to be silent when the server found us too fast all the same. */
const SILENCE_MS = 1_100;

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
  /** When the allowance is whole again; each message moves it on by a step. */
  #whole = 0;
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
    this.#whole = 0;
    this.#notBefore = 0;
  }

  /** The server found us too fast: silence for a while. */
  pause() {
    this.#notBefore = this.#now() + SILENCE_MS;
  }

  #pump() {
    if (this.#waiting) return;
    while (this.#queued > 0) {
      const now = this.#now();
      const wait = Math.max(this.#whole - (BURST - 1) * STEP_MS, this.#notBefore) - now;
      if (wait > 0) {
        this.#waiting = true;
        this.#later(() => {
          this.#waiting = false;
          this.#pump();
        }, Math.ceil(wait));
        return;
      }
      const message = this.#take();
      this.#whole = Math.max(this.#whole, now) + STEP_MS;
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
