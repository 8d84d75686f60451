/**
 * Whom one talks with: verified or not, and whether their name was another key's before.
 *
 * @typedef {import("./state.js").Store} Store
 */

import { keyOfName, pinName } from "./memory.js";
import { safetyNumber } from "./safety.js";

export class Recognition {
  #store;

  /** @param {Store} store */
  constructor(store) {
    this.#store = store;
  }

  /**
   * A description of theirs was looked at.
   *
   * @param {string} peer
   * @param {import("./vouching.js").Trust} trust
   */
  async trusted(peer, trust) {
    const self = this.#store.state.identity?.publicKeyHex ?? "";
    this.#store.changeMember(peer, { trust });
    this.#compareName(peer);
    this.#store.changeMember(peer, { safety: trust === "verified" ? await safetyNumber(self, peer) : null });
  }

  /**
   * Somebody has another name.
   *
   * @param {string} peer
   * @param {string} displayName
   */
  renamed(peer, displayName) {
    if (displayName) this.#store.changeMember(peer, { displayName });
    this.#compareName(peer);
  }

  /**
   * It is who it says, although the name was another key's.
   *
   * @param {string} peer
   */
  confirmName(peer) {
    const member = this.#store.state.members.get(peer);
    if (!member) return;
    pinName(member.displayName, peer);
    this.#store.changeMember(peer, { otherBefore: false });
  }

  /**
   * A name is taken for a key's own once the key has signed with it.
   *
   * @param {string} peer
   */
  #compareName(peer) {
    const member = this.#store.state.members.get(peer);
    if (!member || member.trust === null) return;
    const known = keyOfName(member.displayName);
    if (known === null && member.trust === "verified") pinName(member.displayName, peer);
    this.#store.changeMember(peer, { otherBefore: known !== null && known !== peer });
  }
}
