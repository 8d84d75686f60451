/**
 * The way back to our place after the connection to the server was lost, with the pairs that work as they are.
 *
 * @typedef {import("./messages.js").Peer} Peer
 * @typedef {import("./state.js").Store} Store
 */

import { memberAtFirst } from "./state.js";

/** For so long the server lets people come back after its restart. */
const AWAIT_MS = 60_000;

export class Returning {
  #store;
  #send;
  #mesh;
  /** Brings us back to our place once. @type {string | null} */
  #token = null;
  /** Those who may still come back to a server that is another one than before. @type {Set<string>} */
  #awaited = new Set();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {object} options
   * @param {Store} options.store
   * @param {(message: import("./messages.js").Resume) => void} options.send
   * @param {import("./mesh.js").Mesh} options.mesh
   */
  constructor({ store, send, mesh }) {
    this.#store = store;
    this.#send = send;
    this.#mesh = mesh;
  }

  /** @param {string} token */
  tokenGiven(token) {
    this.#token = token;
  }

  /**
   * Asks for our place.
   *
   * @param {boolean} wanted whether we still want it; else it is forgotten
   * @returns {boolean} whether it was asked for
   */
  ask(wanted) {
    const token = this.#token;
    this.#token = null;
    if (token === null || !wanted) return false;
    this.#send({ type: "resume", token });
    return true;
  }

  /**
   * Who is missing there has left; or after a restart of the server may still come back.
   *
   * @param {Peer[]} peers who is there
   * @param {boolean} continued whether the server is the same
   */
  compare(peers, continued) {
    const here = new Set(peers.map(({ publicKeyHex }) => publicKeyHex));
    const missing = [...this.#store.state.members.keys()].filter((key) => !here.has(key));
    if (continued) {
      this.#forget(missing);
      return;
    }
    this.#awaited = new Set(missing);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#forget(this.#awaited), AWAIT_MS);
  }

  /**
   * Somebody is there whom we may know already.
   *
   * @param {Peer} peer
   * @param {boolean} relayHolds whether what the server relayed is relayed still
   */
  async greet(peer, relayHolds) {
    const key = peer.publicKeyHex;
    this.seen(key);
    if (this.#store.state.members.has(key)) {
      this.#store.changeMember(key, { displayName: peer.displayName, tag: peer.tag });
      await this.#mesh.renew({ unlessConnected: true, relayHolds, peer: key });
    } else {
      this.#store.setMember(memberAtFirst(peer));
      this.#mesh.peerJoined(key);
    }
  }

  /** @param {string} key is not waited for any more */
  seen(key) {
    this.#awaited.delete(key);
  }

  /** We want nothing back. */
  stop() {
    this.#token = null;
    clearTimeout(this.#timer);
  }

  /** @param {Iterable<string>} peers */
  #forget(peers) {
    for (const peer of peers) {
      this.#mesh.peerLeft(peer);
      this.#store.removeMember(peer);
    }
  }
}
