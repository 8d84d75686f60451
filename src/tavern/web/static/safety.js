/** The number that two people read to each other to be sure that nobody sits between them. */

const GROUPS = 12;
const BYTES_PER_GROUP = 5;

/**
 * The same for both sides, and another one for any other pair of keys: 12 groups of five digits.
 *
 * @param {string} one a public key, in hex
 * @param {string} other
 * @returns {Promise<string>}
 */
export async function safetyNumber(one, other) {
  const text = JSON.stringify(["tavern-safety-number-v1", ...[one, other].sort()]);
  const hash = new DataView(await crypto.subtle.digest("SHA-512", new TextEncoder().encode(text)));
  const groups = Array.from({ length: GROUPS }, (_, group) => {
    const at = group * BYTES_PER_GROUP;
    const value = hash.getUint8(at) * 2 ** 32 + hash.getUint32(at + 1);
    return String(value % 100_000).padStart(5, "0");
  });
  return groups.join(" ");
}
