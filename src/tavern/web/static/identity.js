/**
 * Who this browser is: an Ed25519 key pair, made at the first visit and kept in this browser.
 *
 * What is kept has the fields of a Tavern key file (public key raw in hex, private key PKCS#8 in hex), so that it can be
 * taken along to another client.
 *
 * @typedef {{publicKeyHex: string, privateKeyHex: string}} StoredIdentity
 * `kept`: will be the same at the next visit. `sign`: signs a text, in hex; null where the browser cannot.
 * @typedef {{publicKeyHex: string, tag: string, kept: boolean, sign: Sign | null}} Identity
 * @typedef {(text: string) => Promise<string>} Sign
 */

const DATABASE = "tavern";
const STORE = "identity";
const KEY = "own";
const FILE_TYPE = "tavern-keypair-export";

/**
 * @param {string} publicKeyHex
 * @returns {string} `TVN-xxxx-xxxx`
 */
export function tagOf(publicKeyHex) {
  return `TVN-${publicKeyHex.slice(0, 4)}-${publicKeyHex.slice(4, 8)}`;
}

/**
 * @param {ArrayBuffer | Uint8Array} bytes
 * @returns {string}
 */
export function toHex(bytes) {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {string} hex
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function fromHex(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));
}

/**
 * Whether a text is a public key as ours are; other clients may be known by any text.
 *
 * @param {string} text
 * @returns {boolean}
 */
export function isKey(text) {
  return /^[0-9a-f]{64}$/.test(text);
}

/**
 * @param {unknown} value
 * @returns {value is StoredIdentity}
 */
export function isStoredIdentity(value) {
  if (typeof value !== "object" || value === null) return false;
  const { publicKeyHex, privateKeyHex } = /** @type {Record<string, unknown>} */ (value);
  return (
    typeof publicKeyHex === "string" &&
    isKey(publicKeyHex) &&
    typeof privateKeyHex === "string" &&
    /^([0-9a-f]{2})*$/.test(privateKeyHex)
  );
}

/**
 * A new key pair. A browser without Ed25519 gets a random public name and no private key: it can talk, and will not be
 * able to sign.
 *
 * @returns {Promise<StoredIdentity>}
 */
export async function makeIdentity() {
  try {
    const pair = /** @type {CryptoKeyPair} */ (await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]));
    return {
      publicKeyHex: toHex(await crypto.subtle.exportKey("raw", pair.publicKey)),
      privateKeyHex: toHex(await crypto.subtle.exportKey("pkcs8", pair.privateKey)),
    };
  } catch (error) {
    console.warn("This browser makes no Ed25519 keys", error);
    return { publicKeyHex: toHex(crypto.getRandomValues(new Uint8Array(32))), privateKeyHex: "" };
  }
}

/**
 * This browser's identity, made and stored if there is none. Two pages that open at once agree on one: who stores first
 * is kept.
 *
 * @returns {Promise<Identity>}
 */
export async function loadIdentity() {
  /** @type {IDBDatabase | null} */
  let database = null;
  try {
    database = await open();
    const stored = await read(database);
    const own = stored ?? (await readOrWrite(database, await makeIdentity()));
    return await withSignature(own, true);
  } catch (error) {
    // Storage is switched off or full: the identity lives as long as the page.
    console.warn("The identity could not be kept", error);
    return await withSignature(await makeIdentity(), false);
  } finally {
    database?.close();
  }
}

/**
 * The key as a file that Tavern's clients read, to take it along.
 *
 * @returns {Promise<{name: string, content: string} | null>} null where there is no key that could be taken along
 */
export async function exportKey() {
  const database = await open();
  try {
    const own = await read(database);
    if (!own?.privateKeyHex) return null;
    const about = { version: 1, type: FILE_TYPE, ...own, exportedAt: new Date().toISOString() };
    return { name: `tavern-identity-${own.publicKeyHex.slice(0, 8)}.tavern-key`, content: JSON.stringify(about, null, 2) };
  } finally {
    database.close();
  }
}

/**
 * The key of such a file is this browser's from now on, in place of the one before. To be followed by a reload.
 *
 * @param {string} content
 * @returns {Promise<boolean>} false, and nothing has changed, where it is no key file, or its halves do not belong together
 */
export async function importKey(content) {
  const made = await parseKeyFile(content);
  if (!made) return false;
  const database = await open();
  try {
    await done(database.transaction(STORE, "readwrite").objectStore(STORE).put(made, KEY));
    return true;
  } finally {
    database.close();
  }
}

/**
 * @param {string} content
 * @returns {Promise<StoredIdentity | null>}
 */
export async function parseKeyFile(content) {
  try {
    const found = JSON.parse(content);
    if (found?.type !== FILE_TYPE || found.version !== 1 || !isStoredIdentity(found)) return null;
    const { publicKeyHex, privateKeyHex } = found;
    const { sign } = await withSignature({ publicKeyHex, privateKeyHex }, true);
    const key = await crypto.subtle.importKey("raw", fromHex(publicKeyHex), "Ed25519", false, ["verify"]);
    const proof = fromHex((await sign?.("")) ?? "");
    return (await crypto.subtle.verify("Ed25519", key, proof, new Uint8Array())) ? { publicKeyHex, privateKeyHex } : null;
  } catch {
    return null;
  }
}

/**
 * @param {StoredIdentity} own
 * @param {boolean} kept
 * @returns {Promise<Identity>}
 */
async function withSignature({ publicKeyHex, privateKeyHex }, kept) {
  const about = { publicKeyHex, tag: tagOf(publicKeyHex), kept };
  if (privateKeyHex === "") return { ...about, sign: null };
  try {
    const key = await crypto.subtle.importKey("pkcs8", fromHex(privateKeyHex), "Ed25519", false, ["sign"]);
    const sign = async (/** @type {string} */ text) =>
      toHex(await crypto.subtle.sign("Ed25519", key, new TextEncoder().encode(text)));
    return { ...about, sign };
  } catch (error) {
    console.warn("The key cannot sign", error);
    return { ...about, sign: null };
  }
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("storage failed"));
  });
}

/** @returns {Promise<IDBDatabase>} */
function open() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE);
  return done(request);
}

/**
 * @param {IDBDatabase} database
 * @returns {Promise<StoredIdentity | null>}
 */
async function read(database) {
  const stored = await done(database.transaction(STORE).objectStore(STORE).get(KEY));
  return isStoredIdentity(stored) ? stored : null;
}

/**
 * @param {IDBDatabase} database
 * @param {StoredIdentity} made
 * @returns {Promise<StoredIdentity>}
 */
function readOrWrite(database, made) {
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, "readwrite");
    const store = transaction.objectStore(STORE);
    let own = made;
    const request = store.get(KEY);
    request.onsuccess = () => {
      if (isStoredIdentity(request.result)) own = request.result;
      else store.put(made, KEY);
    };
    transaction.oncomplete = () => resolve(own);
    transaction.onabort = () => reject(transaction.error ?? new Error("storage failed"));
  });
}
