/**
 * The wire's messages: their types, and the one place where what a server sent is checked before anything uses it.
 *
 * @typedef {{publicKeyHex: string, tag: string, displayName: string | null}} WireIdentity
 * @typedef {{publicKeyHex: string, tag: string, displayName: string}} Peer
 * @typedef {{id: string, name: string, peers: Peer[]}} Channel
 * `owner` is null where it belongs to nobody.
 * @typedef {{id: string, name: string, icon: string, channels: Channel[], owner: string | null, locked: boolean,
 *   moderators: string[]}} Tavern
 *
 * @typedef {{type: "create-tavern", name: string}} CreateTavern
 * @typedef {{type: "get-tavern-info", tavernId: string}} GetTavernInfo
 * @typedef {{type: "create-channel", tavernId: string, name: string}} CreateChannel
 * @typedef {{type: "join-channel", tavernId: string, channelId: string, identity: WireIdentity, invite?: string
 * }} JoinChannel
 * @typedef {{type: "leave-channel", tavernId: string, channelId: string}} LeaveChannel
 * @typedef {{type: "update-identity", identity: WireIdentity}} UpdateIdentity
 * @typedef {{type: "get-ice-servers"}} GetIceServers
 * A description's `signature` is what other clients do not know: the server passes it on as it is.
 * @typedef {{type: "offer" | "answer", target: string, tavernId: string, channelId: string, sdp: string,
 *   signature?: string}} Description
 * @typedef {{type: "ice-candidate", target: string, tavernId: string, channelId: string, candidate: string}} Candidate
 * What owners and moderators ask for; without the tavern, and with it.
 * @typedef {{type: "update-tavern", name?: string, locked?: boolean} | {type: "delete-tavern"}
 *   | {type: "update-channel", channelId: string, name: string} | {type: "delete-channel", channelId: string}
 *   | {type: "kick" | "ban", publicKeyHex: string} | {type: "transfer-tavern", publicKeyHex: string}
 *   | {type: "set-moderator", publicKeyHex: string, moderator: boolean} | {type: "create-invite"}} ManageWithout
 * @typedef {ManageWithout & {tavernId: string}} Manage
 * @typedef {{type: "watch-tavern" | "unwatch-tavern", tavernId: string}} Watch
 * @typedef {{type: "hello", invite?: string}} Hello
 * @typedef {{type: "prove-identity", publicKeyHex: string, signature: string}} ProveIdentity
 * @typedef {{type: "get-resume-token"}} GetResumeToken
 * @typedef {{type: "resume", token: string}} Resume
 * @typedef {CreateTavern | GetTavernInfo | CreateChannel | JoinChannel | LeaveChannel | UpdateIdentity | GetIceServers
 *   | Description | Candidate | GetResumeToken | Resume | Manage | Watch | Hello | ProveIdentity} ClientMessage
 *
 * @typedef {{type: "tavern-created", tavern: Tavern}} TavernCreated
 * @typedef {{type: "tavern-info", tavern: Tavern}} TavernInfo
 * @typedef {{type: "channel-created", tavernId: string, channel: Channel}} ChannelCreated
 * @typedef {{type: "channel-joined", tavernId: string, channelId: string, peers: Peer[]}} ChannelJoined
 * @typedef {{type: "peer-joined-channel", tavernId: string, channelId: string, peer: Peer}} PeerJoined
 * @typedef {{type: "peer-left-channel", tavernId: string, channelId: string, publicKeyHex: string}} PeerLeft
 * @typedef {{type: "peer-identity-updated", peerId: string, identity: WireIdentity}} PeerIdentityUpdated
 * @typedef {{type: "offer" | "answer", from: string, sdp: string, signature: string | null}} RemoteDescription
 * @typedef {{type: "ice-candidate", from: string, candidate: string}} RemoteCandidate
 * @typedef {{type: "ice-servers", iceServers: RTCIceServer[], expiresAt: string}} IceServersGiven
 * @typedef {{type: "welcome", server: string, connection: string, nonce: string, verified: boolean}} Welcome
 * @typedef {{type: "identity-proven"}} IdentityProven
 * @typedef {{type: "tavern-updated", tavern: Omit<Tavern, "channels">}} TavernUpdated
 * @typedef {{type: "tavern-deleted", tavernId: string}} TavernDeleted
 * @typedef {{type: "channel-updated", tavernId: string, channel: {id: string, name: string}}} ChannelUpdated
 * @typedef {{type: "channel-deleted", tavernId: string, channelId: string}} ChannelDeleted
 * @typedef {{type: "tavern-watched", tavern: Tavern}} TavernWatched
 * @typedef {{type: "presence-changed", tavernId: string, channelId: string, peers: Peer[]}} PresenceChanged
 * @typedef {{type: "kicked", tavernId: string, channelId: string, reason: string, banned: boolean}} Kicked
 * @typedef {{type: "invite-created", tavernId: string, token: string}} InviteCreated
 * @typedef {{type: "resume-token", token: string}} ResumeToken
 * @typedef {{type: "resumed", tavernId: string, channelId: string, peers: Peer[], continued: boolean}} Resumed
 * @typedef {{type: "peer-resumed", tavernId: string, channelId: string, peer: Peer}} PeerResumed
 * @typedef {{type: "session-replaced"}} SessionReplaced
 * @typedef {{type: "server-shutdown"}} ServerShutdown
 * @typedef {{type: "error", message: string, code: string}} ServerError
 * @typedef {TavernCreated | TavernInfo | ChannelCreated | ChannelJoined | PeerJoined | PeerLeft | PeerIdentityUpdated
 *   | RemoteDescription | RemoteCandidate | IceServersGiven | ResumeToken | Resumed | PeerResumed | SessionReplaced | ServerShutdown | ServerError
 *   | Welcome | IdentityProven | TavernWatched | PresenceChanged | TavernUpdated | TavernDeleted | ChannelUpdated | ChannelDeleted | Kicked | InviteCreated
 * } ServerMessage
 */

/** What a message lacks; caught by `parseServerMessage` alone. */
class Malformed extends Error {}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown>}
 */
function object(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Malformed("not an object");
  return /** @type {Record<string, unknown>} */ (value);
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function text(value) {
  if (typeof value !== "string") throw new Malformed("not a string");
  return value;
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function optionalText(value) {
  return typeof value === "string" ? value : "";
}

/**
 * @template T
 * @param {unknown} value
 * @param {(item: unknown) => T} parse
 * @returns {T[]}
 */
function list(value, parse) {
  if (!Array.isArray(value)) throw new Malformed("not a list");
  return value.map((item) => parse(item));
}

/**
 * @param {unknown} value
 * @returns {Peer}
 */
function peer(value) {
  const fields = object(value);
  const publicKeyHex = text(fields.publicKeyHex);
  const tag = optionalText(fields.tag);
  return { publicKeyHex, tag, displayName: optionalText(fields.displayName).trim() || tag || publicKeyHex.slice(0, 8) };
}

/**
 * @param {unknown} value
 * @returns {Channel}
 */
function channel(value) {
  const fields = object(value);
  return { id: text(fields.id), name: text(fields.name), peers: list(fields.peers ?? [], peer) };
}

/**
 * @param {unknown} value
 * @returns {Tavern}
 */
function tavern(value) {
  return { ...aboutTavern(value), channels: list(object(value).channels, channel) };
}

/**
 * @param {unknown} value
 * @returns {Omit<Tavern, "channels">}
 */
function aboutTavern(value) {
  const fields = object(value);
  return {
    id: text(fields.id),
    name: text(fields.name),
    icon: optionalText(fields.icon),
    owner: optionalText(fields.owner) || null,
    locked: fields.locked === true,
    moderators: list(fields.moderators ?? [], text),
  };
}

/**
 * @param {unknown} value
 * @returns {WireIdentity}
 */
function identity(value) {
  const fields = object(value);
  const displayName = fields.displayName;
  return {
    publicKeyHex: text(fields.publicKeyHex),
    tag: optionalText(fields.tag),
    displayName: typeof displayName === "string" ? displayName : null,
  };
}

/**
 * An ICE server as the browser takes it, or null for one that it would throw at.
 *
 * @param {unknown} value
 * @returns {RTCIceServer | null}
 */
function iceServer(value) {
  const fields = object(value);
  const urls = list(Array.isArray(fields.urls) ? fields.urls : [fields.urls], text);
  const known = urls.filter((url) => /^(stuns?|turns?):\S+$/.test(url));
  if (known.length === 0) return null;
  const username = optionalText(fields.username);
  const credential = optionalText(fields.credential);
  if (known.some((url) => url.startsWith("turn")) && (!username || !credential)) return null;
  return username ? { urls: known, username, credential } : { urls: known };
}

/**
 * @param {Record<string, unknown>} fields
 * @returns {{tavernId: string, channelId: string}}
 */
function place(fields) {
  return { tavernId: text(fields.tavernId), channelId: text(fields.channelId) };
}

/**
 * @param {Record<string, unknown>} fields
 * @returns {{from: string, sdp: string, signature: string | null}}
 */
function description({ from, sdp, signature }) {
  // Whatever stands there instead of a signature is none of the key's.
  return { from: text(from), sdp: text(sdp), signature: signature === undefined ? null : optionalText(signature) };
}

/** @type {Record<string, (fields: Record<string, unknown>) => ServerMessage>} */
const PARSERS = {
  "tavern-created": (fields) => ({ type: "tavern-created", tavern: tavern(fields.tavern) }),
  "tavern-info": (fields) => ({ type: "tavern-info", tavern: tavern(fields.tavern) }),
  "channel-created": (fields) => ({
    type: "channel-created",
    tavernId: text(fields.tavernId),
    channel: channel(fields.channel),
  }),
  "channel-joined": (fields) => ({ type: "channel-joined", ...place(fields), peers: list(fields.peers, peer) }),
  "peer-joined-channel": (fields) => ({ type: "peer-joined-channel", ...place(fields), peer: peer(fields.peer) }),
  "peer-left-channel": (fields) => ({
    type: "peer-left-channel",
    ...place(fields),
    publicKeyHex: text(fields.publicKeyHex),
  }),
  "peer-identity-updated": (fields) => ({
    type: "peer-identity-updated",
    peerId: text(fields.peerId),
    identity: identity(fields.identity),
  }),
  offer: (fields) => ({ type: "offer", ...description(fields) }),
  answer: (fields) => ({ type: "answer", ...description(fields) }),
  "ice-candidate": (fields) => ({
    type: "ice-candidate",
    from: text(fields.from),
    candidate: text(fields.candidate),
  }),
  "ice-servers": (fields) => ({
    type: "ice-servers",
    iceServers: list(fields.iceServers, iceServer).filter((server) => server !== null),
    expiresAt: optionalText(fields.expiresAt),
  }),
  welcome: (fields) => ({
    type: "welcome",
    server: text(fields.server),
    connection: text(fields.connection),
    nonce: text(fields.nonce),
    verified: fields.verified === true,
  }),
  "identity-proven": () => ({ type: "identity-proven" }),
  "tavern-updated": (fields) => ({ type: "tavern-updated", tavern: aboutTavern(fields.tavern) }),
  "tavern-deleted": (fields) => ({ type: "tavern-deleted", tavernId: text(fields.tavernId) }),
  "channel-updated": (fields) => {
    const { id, name } = object(fields.channel);
    return { type: "channel-updated", tavernId: text(fields.tavernId), channel: { id: text(id), name: text(name) } };
  },
  "tavern-watched": (fields) => ({ type: "tavern-watched", tavern: tavern(fields.tavern) }),
  "presence-changed": (fields) => ({ type: "presence-changed", ...place(fields), peers: list(fields.peers, peer) }),
  "channel-deleted": (fields) => ({ type: "channel-deleted", ...place(fields) }),
  kicked: (fields) => ({
    type: "kicked",
    ...place(fields),
    reason: optionalText(fields.reason),
    banned: fields.banned === true,
  }),
  "invite-created": (fields) => ({
    type: "invite-created",
    tavernId: text(fields.tavernId),
    token: text(object(fields.invite).token),
  }),
  "resume-token": (fields) => ({ type: "resume-token", token: text(fields.token) }),
  resumed: (fields) => ({
    type: "resumed",
    ...place(fields),
    peers: list(fields.peers, peer),
    continued: fields.continued === true,
  }),
  "peer-resumed": (fields) => ({ type: "peer-resumed", ...place(fields), peer: peer(fields.peer) }),
  "session-replaced": () => ({ type: "session-replaced" }),
  "server-shutdown": () => ({ type: "server-shutdown" }),
  error: (fields) => ({ type: "error", message: optionalText(fields.message), code: optionalText(fields.code) }),
};

/**
 * The message in a text frame, or null for one that this page does not know or cannot read.
 *
 * @param {unknown} data
 * @returns {ServerMessage | null}
 */
export function parseServerMessage(data) {
  if (typeof data !== "string") return null;
  try {
    const fields = object(JSON.parse(data));
    const type = text(fields.type);
    return Object.hasOwn(PARSERS, type) ? (PARSERS[type]?.(fields) ?? null) : null;
  } catch (error) {
    if (error instanceof Malformed || error instanceof SyntaxError) return null;
    throw error;
  }
}
