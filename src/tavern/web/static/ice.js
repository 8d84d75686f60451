/**
 * The relay's credentials: asked of the server, and asked again before they run out.
 */

/** What is left of a credential's life when it is time for a new one. */
const MARGIN_MS = 60_000;
/** Never more often than this, whatever the two clocks think of each other. */
const RECENT_MS = 30_000;
const ANSWER_MS = 3_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

export class IceServers {
  #ask;
  #onChange;
  #now;
  /** @type {RTCIceServer[]} */
  #servers = [];
  #expires = 0;
  #received = -Infinity;
  #asked = -Infinity;
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {{ask: () => void, onChange: (servers: RTCIceServer[]) => void, now?: () => number}} options `ask` sends
   *   `get-ice-servers`
   */
  constructor({ ask, onChange, now = Date.now }) {
    this.#ask = ask;
    this.#onChange = onChange;
    this.#now = now;
  }

  get current() {
    return this.#servers;
  }

  /** Asks for new ones; the old stay in use until the answer. */
  refresh() {
    clearTimeout(this.#timer);
    this.#asked = this.#now();
    this.#ask();
  }

  /** No connection to ask over: nothing is asked until the next `refresh`. */
  stop() {
    clearTimeout(this.#timer);
    this.#asked = -Infinity;
  }

  /**
   * The server's answer.
   *
   * @param {RTCIceServer[]} servers
   * @param {string} expiresAt ISO 8601
   */
  given(servers, expiresAt) {
    this.#servers = servers;
    this.#received = this.#now();
    const expires = Date.parse(expiresAt);
    this.#expires = Number.isNaN(expires) ? Infinity : expires;
    clearTimeout(this.#timer);
    if (this.#expires !== Infinity) {
      const wait = Math.max(RECENT_MS, this.#expires - this.#received - MARGIN_MS);
      this.#timer = setTimeout(() => this.refresh(), Math.min(wait, LONGEST_TIMER_MS));
    }
    this.#onChange(servers);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /**
   * Servers that will do for a new pair; waits a moment for the server where the ones at hand are about to run out, or new
   * ones were asked for, and makes do with them where it does not answer.
   *
   * @returns {Promise<RTCIceServer[]>}
   */
  async fresh() {
    const now = this.#now();
    const old = this.#expires - now < MARGIN_MS && now - this.#received > RECENT_MS;
    if (old || (this.#asked > this.#received && now - this.#asked < ANSWER_MS)) {
      if (now - this.#asked > ANSWER_MS) this.refresh();
      await new Promise((/** @type {(value: void) => void} */ resolve) => {
        const timer = setTimeout(resolve, ANSWER_MS);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    return this.#servers;
  }
}
