/**
 * The voices' own paths: one link for each other person in the channel.
 *
 * The convention: those already in the channel send the offer when somebody joins; the joiner waits for offers.
 *
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 * @typedef {import("./link.js").PairState} PairState
 * @typedef {{tavernId: string, channelId: string}} Place
 *
 * @typedef {object} MeshOptions
 * @property {string} self our own public key, in hex
 * @property {(message: ClientMessage) => void} send
 * @property {(target: string) => void} drop forget what waits to be sent to a target
 * @property {() => Promise<RTCIceServer[]>} iceServers
 * @property {() => boolean} [relayOnly] whether the others shall not learn our address
 * @property {(peer: string, state: PairState, trouble: import("./link.js").Trouble | null) => void} onState
 * @property {(peer: string, track: MediaStreamTrack) => void} onTrack
 * @property {(peer: string, text: string) => void} onText
 * @property {(peer: string, reads: boolean) => void} onReads
 * @property {(peer: string) => void} onGone the pair's sound is over
 * @property {MediaStream} stream names our voice towards the others
 * @property {Pick<import("./vouching.js").Vouching, "vouch" | "judge">} vouching
 * @property {(peer: string, trust: import("./vouching.js").Trust) => void} onTrust
 * @property {(configuration: RTCConfiguration) => RTCPeerConnection} [createConnection]
 * @property {() => number} [random]
 * @property {() => number} [now]
 */

import { Link } from "./link.js";

export class Mesh {
  #options;
  /** @type {Place | null} */
  #place = null;
  /** @type {Map<string, Link>} */
  #links = new Map();
  /** @type {MediaStreamTrack | null} */
  #track = null;

  /** @param {MeshOptions} options */
  constructor(options) {
    this.#options = options;
  }

  /**
   * We joined: whatever there was is over, and those already there will offer.
   *
   * @param {Place} place
   * @param {string[]} peers
   */
  enter(place, peers) {
    this.close();
    this.#place = place;
    for (const peer of peers) this.#link(place, peer, false).expectOffer();
  }

  /**
   * Somebody joined us: the offer is ours.
   *
   * @param {string} peer
   */
  peerJoined(peer) {
    if (!this.#place || peer === this.#options.self) return;
    this.peerLeft(peer);
    this.#link(this.#place, peer, true).offer();
  }

  /** @param {string} peer */
  peerLeft(peer) {
    this.#links.get(peer)?.end();
    this.#links.delete(peer);
  }

  /**
   * @param {string} from
   * @param {string} sdp
   * @param {string | null} signature
   */
  receiveOffer(from, sdp, signature) {
    this.#links.get(from)?.receiveOffer(sdp, signature);
  }

  /**
   * @param {string} from
   * @param {string} sdp
   * @param {string | null} signature
   */
  receiveAnswer(from, sdp, signature) {
    this.#links.get(from)?.receiveAnswer(sdp, signature);
  }

  /** @returns {Promise<[string, import("./pair-stats.js").PairStats][]>} of those that are connected */
  async stats() {
    const found = await Promise.all([...this.#links].map(async ([peer, link]) => ({ peer, stats: await link.stats() })));
    return found.flatMap(({ peer, stats }) => (stats ? [[peer, stats]] : []));
  }

  /**
   * @param {string} from
   * @param {string} candidate a JSON-encoded RTCIceCandidateInit
   */
  receiveCandidate(from, candidate) {
    this.#links.get(from)?.receiveCandidate(candidate);
  }

  /**
   * Our voice, or null while there is none: pairs take it up where they are.
   *
   * @param {MediaStreamTrack | null} track
   */
  setTrack(track) {
    this.#track = track;
    for (const link of this.#links.values()) link.setTrack(track);
  }

  /**
   * New credentials for the relay, also for the pairs there are.
   *
   * @param {RTCIceServer[]} servers
   */
  setIceServers(servers) {
    for (const link of this.#links.values()) link.setIceServers(servers);
  }

  /**
   * @param {string} text
   * @returns {boolean} whether it goes to anybody
   */
  sendText(text) {
    return [...this.#links.values()].map((link) => link.sendText(text)).includes(true);
  }

  /**
   * Pairs look for their way anew: of one peer, or of all.
   *
   * @param {object} which
   * @param {boolean} which.unlessConnected those that work go on as they are
   * @param {boolean} [which.relayHolds] false: what is relayed does not work, whatever it looks like
   * @param {string} [which.peer]
   */
  async renew({ unlessConnected, relayHolds = true, peer }) {
    const links = peer === undefined ? [...this.#links.values()] : [this.#links.get(peer)];
    await Promise.all(links.map((link) => link?.renew({ unlessConnected, relayHolds })));
  }

  /**
   * A pair that was given up, once more.
   *
   * @param {string} peer
   */
  retry(peer) {
    this.#links.get(peer)?.retry();
  }

  /** All pairs are over. */
  close() {
    for (const peer of [...this.#links.keys()]) this.peerLeft(peer);
    this.#place = null;
  }

  /**
   * @param {Place} place
   * @param {string} peer
   * @param {boolean} ours whether the offer is ours to send
   * @returns {Link}
   */
  #link(place, peer, ours) {
    const { self, stream, iceServers, send, drop, vouching, onState, onTrust, onTrack, onText, onReads, onGone } = this.#options;
    const { createConnection, random, now } = this.#options;
    const link = new Link({
      peer,
      self,
      ours,
      stream,
      track: () => this.#track,
      iceServers,
      relayOnly: this.#options.relayOnly,
      send: (signal) => send({ ...signal, target: peer, ...place }),
      vouch: (type, sdp) => vouching.vouch(place, peer, type, sdp),
      judge: (type, sdp, signature) => vouching.judge(place, peer, type, sdp, signature),
      onTrust: (trust) => onTrust(peer, trust),
      drop: () => drop(peer),
      onState: (state, trouble) => onState(peer, state, trouble),
      onTrack: (track) => onTrack(peer, track),
      onText: (text) => onText(peer, text),
      onReads: (reads) => onReads(peer, reads),
      onGone: () => onGone(peer),
      createConnection,
      random,
      now,
    });
    this.#links.set(peer, link);
    return link;
  }
}
