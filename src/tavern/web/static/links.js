/** Invite links: what is one, what it leads to, and where it works. */

const ID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * @param {string} origin
 * @param {string} tavernId
 * @returns {string}
 */
export function inviteLink(origin, tavernId) {
  return `${origin}${invitePath(tavernId)}`;
}

/**
 * @param {string} tavernId
 * @returns {string}
 */
export function invitePath(tavernId) {
  return `/join/${encodeURIComponent(tavernId)}`;
}

/**
 * A link that lets its bearer into a locked tavern. What is behind the # is not sent to anybody.
 *
 * @param {string} origin
 * @param {string} tavernId
 * @param {string} token
 * @returns {string}
 */
export function invitationLink(origin, tavernId, token) {
  return `${inviteLink(origin, tavernId)}#invite=${encodeURIComponent(token)}`;
}

/**
 * @param {string} hash as in `location.hash`
 * @returns {string | null}
 */
export function invitationIn(hash) {
  return new URLSearchParams(hash.slice(1)).get("invite");
}

/**
 * The tavern that a path of this page names, or null for the front page.
 *
 * @param {string} pathname
 * @returns {string | null}
 */
export function tavernInPath(pathname) {
  const encoded = /^\/join\/([^/]+)\/?$/.exec(pathname)?.[1];
  if (encoded === undefined) return null;
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}

/**
 * What somebody pasted: an invite link (with or without https://) or a bare id. `origin` is null for a bare id.
 *
 * @param {string} pasted
 * @returns {{tavernId: string, origin: string | null} | null}
 */
export function parseInvite(pasted) {
  const trimmed = pasted.trim();
  if (ID.test(trimmed)) return { tavernId: trimmed.toLowerCase(), origin: null };
  const candidates = /^https?:\/\//i.test(trimmed) ? [trimmed] : [`https://${trimmed}`];
  for (const candidate of candidates) {
    if (!URL.canParse(candidate)) continue;
    const url = new URL(candidate);
    const tavernId = tavernInPath(url.pathname);
    if (tavernId !== null && ID.test(tavernId)) return { tavernId: tavernId.toLowerCase(), origin: url.origin };
  }
  return null;
}

/**
 * Whether two origins name the same server, whatever the scheme: a link typed without one is taken for https.
 *
 * @param {string} one
 * @param {string} other
 * @returns {boolean}
 */
export function sameHost(one, other) {
  return new URL(one).host === new URL(other).host;
}

/**
 * Whether a link to this host works on this computer alone.
 *
 * @param {string} hostname as in `location.hostname`
 * @returns {boolean}
 */
export function isLoopback(hostname) {
  const host = hostname.toLowerCase().replace(/\.$/, "");
  return (
    host === "localhost" ||
    host.endsWith(".localhost") ||
    host === "[::1]" ||
    host === "0.0.0.0" ||
    /^127(\.\d{1,3}){3}$/.test(host)
  );
}
