/**
 * Shows the server that our key is ours, once for each connection: taverns that we make are ours then, and nobody else
 * goes by our key.
 *
 * @typedef {import("./identity.js").Identity} Identity
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 * @typedef {import("./messages.js").Welcome} Welcome
 */

import { isLoopback } from "./links.js";

/** A server of before, that knows no `hello`, does not answer it. */
const ANSWER_MS = 3_000;

export class Proof {
  #options;
  /** @type {(() => void) | null} */
  #settle = null;
  /** @type {Promise<void>} */
  #settled = Promise.resolve();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {object} options
   * @param {Identity | null} options.identity
   * @param {string} options.host of the server, as it was called
   * @param {string | null} options.invite to the server, where one is needed to come in
   * @param {(message: ClientMessage) => void} options.send
   */
  constructor(options) {
    this.#options = options;
  }

  /** There is a new connection: the server is greeted, before all else. */
  opened() {
    const { identity, invite, send } = this.#options;
    this.settle();
    if (!identity?.sign && invite === null) return;
    this.#settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.#timer = setTimeout(() => this.settle(), ANSWER_MS);
    send(invite === null ? { type: "hello" } : { type: "hello", invite });
  }

  /** @param {Welcome} welcome */
  async welcomed({ server, connection, nonce, verified }) {
    const { identity, host, send } = this.#options;
    // A server that calls itself by another's name could pass the proof on to it.
    if (verified || !identity?.sign || !isCalled(server, host)) {
      this.settle();
      return;
    }
    const signature = await identity.sign(["tavern-identity-proof-v1", server, connection, nonce].join("\n"));
    send({ type: "prove-identity", publicKeyHex: identity.publicKeyHex, signature });
  }

  /** It is shown, or cannot be. */
  settle() {
    clearTimeout(this.#timer);
    this.#settle?.();
    this.#settle = null;
  }

  /** @returns {Promise<void>} when nothing is under way any more */
  settled() {
    return this.#settled;
  }
}

/**
 * Whether a server's name for itself is what it was called by.
 *
 * @param {string} server
 * @param {string} host
 * @returns {boolean}
 */
export function isCalled(server, host) {
  const isAddress = /^[\d.]+$/.test(host) || host.startsWith("[");
  return server === host || (server === "localhost" && (isLoopback(host) || isAddress));
}
