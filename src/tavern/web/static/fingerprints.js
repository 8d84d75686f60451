/** The DTLS fingerprints in a session description: whom the media of it is encrypted for. */

/**
 * All of them in one form, whatever the order and letters they came in; empty where there is none.
 *
 * Each line that speaks of a fingerprint counts as a whole: a browser may take one that is written in a way that we would
 * pass over, and then nobody would have signed it.
 *
 * @param {string} sdp
 * @returns {string[]} such as `a=fingerprint:sha-256 0a:1b:…`
 */
export function fingerprintsOf(sdp) {
  const lines = sdp.split(/[\r\n]+/).filter((line) => /fingerprint/i.test(line));
  return [...new Set(lines.map((line) => line.toLowerCase().trim()))].sort();
}

/**
 * What a side signs of its offer or answer, so that nobody on the way can put another fingerprint in: which two keys, in
 * which channel, and all fingerprints. The description itself may change on the way, as bandwidth lines do.
 *
 * @param {object} about
 * @param {"offer" | "answer"} about.type
 * @param {string} about.from the signer's public key
 * @param {string} about.to
 * @param {string} about.tavernId
 * @param {string} about.channelId
 * @param {string[]} about.fingerprints
 * @returns {string}
 */
export function signedText({ type, from, to, tavernId, channelId, fingerprints }) {
  return JSON.stringify(["tavern-fingerprint-v1", type, from, to, tavernId, channelId, ...fingerprints]);
}
