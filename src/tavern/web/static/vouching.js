/**
 * Whether the voice of a pair is that of the key it is said to be of. The server brings the descriptions, and could put
 * its own fingerprints in; a signature of the other side's own key is what it cannot make.
 *
 * `verified`: signed by the key. `unsigned`: by a client that does not sign, as far as is known.
 * @typedef {"verified" | "unsigned"} Trust
 *
 * `forged`: the signature is not the key's. `unsigned-now`: the key has signed before, and does not any more.
 * @typedef {"forged" | "unsigned-now"} Distrust
 *
 * @typedef {{tavernId: string, channelId: string}} Place
 * @typedef {"offer" | "answer"} DescriptionType
 */

import { fingerprintsOf, signedText } from "./fingerprints.js";
import { fromHex, isKey } from "./identity.js";

export class Vouching {
  #self;
  #sign;
  #signers;

  /**
   * @param {object} options
   * @param {string} options.self our own public key, in hex
   * @param {((text: string) => Promise<string>) | null} options.sign with our private key; null where there is none
   * @param {{has: (key: string) => boolean, add: (key: string) => void}} options.signers keys that once signed
   */
  constructor({ self, sign, signers }) {
    this.#self = self;
    this.#sign = sign;
    this.#signers = signers;
  }

  /**
   * Our signature of a description, in hex; null where we cannot sign.
   *
   * @param {Place} place
   * @param {string} to
   * @param {DescriptionType} type
   * @param {string} sdp
   * @returns {Promise<string | null>}
   */
  async vouch(place, to, type, sdp) {
    const fingerprints = fingerprintsOf(sdp);
    if (!this.#sign || fingerprints.length === 0) return null;
    try {
      return await this.#sign(signedText({ ...place, type, from: this.#self, to, fingerprints }));
    } catch (error) {
      console.warn("A description could not be signed", error);
      return null;
    }
  }

  /**
   * @param {Place} place
   * @param {string} from
   * @param {DescriptionType} type
   * @param {string} sdp
   * @param {string | null} signature
   * @returns {Promise<Trust | Distrust>}
   */
  async judge(place, from, type, sdp, signature) {
    if (signature === null) return this.#signers.has(from) ? "unsigned-now" : "unsigned";
    const fingerprints = fingerprintsOf(sdp);
    const text = signedText({ ...place, type, from, to: this.#self, fingerprints });
    // A signature without a fingerprint would be one for any.
    if (fingerprints.length === 0 || !(await isSignedBy(from, text, signature))) return "forged";
    this.#signers.add(from);
    return "verified";
  }
}

/**
 * @param {string} key
 * @param {string} text
 * @param {string} signature
 * @returns {Promise<boolean>}
 */
async function isSignedBy(key, text, signature) {
  if (!isKey(key) || !/^[0-9a-f]{128}$/.test(signature)) return false;
  try {
    const imported = await crypto.subtle.importKey("raw", fromHex(key), "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", imported, fromHex(signature), new TextEncoder().encode(text));
  } catch {
    return false; // no point of the curve
  }
}
