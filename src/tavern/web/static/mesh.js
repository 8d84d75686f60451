/**
 * The voices' own paths: one RTCPeerConnection for each other person in the channel.
 *
 * The convention: those already in the channel send the offer when somebody joins; the joiner waits for offers. Who was
 * to offer also builds the pair anew when it fails; the other side steps in only when nothing comes. A new offer always
 * replaces the pair there was, except when two offers cross: then the one of the smaller key counts.
 *
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 * @typedef {{tavernId: string, channelId: string}} Place
 *
 * `retrying` failed and will be built again; `failed` was given up.
 * @typedef {"connecting" | "connected" | "retrying" | "failed"} PairState
 *
 * Why: the server named no relay; it named one that did not answer; the other side did not answer; nothing got through.
 * @typedef {"no-relay-named" | "relay-silent" | "no-answer" | "no-path"} PairTrouble
 *
 * @typedef {object} MeshOptions
 * @property {string} self our own public key, in hex
 * @property {(message: ClientMessage) => void} send
 * @property {(target: string) => void} drop forget what waits to be sent to a target
 * @property {() => Promise<RTCIceServer[]>} iceServers
 * @property {(peer: string, state: PairState, trouble: PairTrouble | null) => void} onState
 * @property {(peer: string, track: MediaStreamTrack) => void} onTrack
 * @property {(peer: string) => void} onGone the pair's sound is over
 * @property {MediaStream} stream names our voice towards the others
 * @property {(configuration: RTCConfiguration) => RTCPeerConnection} [createConnection]
 * @property {() => number} [random]
 * @property {() => number} [now]
 *
 * What there is for one other person; outlives the connections made for it.
 * @typedef {object} Link
 * @property {string} peer
 * @property {boolean} ours whether the offer is ours to send
 * @property {Pair | null} pair
 * @property {string[]} early candidates that came before the description they belong to
 * @property {number} attempts rebuilt in a row
 * @property {number} generation counts up whenever what was under way is no longer wanted
 * @property {ReturnType<typeof setTimeout> | undefined} timer
 *
 * @typedef {object} Pair
 * @property {RTCPeerConnection} connection
 * @property {boolean} offering
 * @property {boolean} remoteSet
 * @property {boolean} described whether our description is on its way; candidates found later follow one by one
 * @property {boolean} sawRelay
 * @property {boolean} relayNamed
 * @property {number} connectedAt
 * @property {Promise<void>} work steps are done one after the other
 */

import { delayBefore } from "./backoff.js";
import { withVoiceOpus } from "./sdp.js";

/** @type {import("./backoff.js").Backoff} */
const REBUILD = { first: 1_000, most: 8_000 };
const MOST_REBUILDS = 4;
/** From the first step to sound. */
const CONNECT_MS = 20_000;
/** How long the one who is not to offer waits for the other's new offer. */
const STEP_IN_MS = 12_000;
/** A pair that lived this long was a good one: rebuilding starts counting anew. */
const STEADY_MS = 30_000;
/**
 * How long our description waits for candidates to take along. Those of this machine are there at once and the relay
 * answers in two round trips, so that a pair mostly costs one message instead of ten: with seven others, and a server
 * that counts, this is what keeps joining fast.
 */
const GATHER_MS = 250;
/** Candidates kept for a description that has not come. */
const MOST_EARLY = 64;

/**
 * Whether a candidate is worth a message. Browsers only ever open TCP connections and never accept them, so their TCP
 * host candidates lead nowhere.
 *
 * @param {string} candidate
 * @returns {boolean}
 */
export function isUseful(candidate) {
  return candidate !== "" && !/ tcptype active\b/.test(candidate);
}

/**
 * @param {string} json
 * @returns {RTCIceCandidateInit | null}
 */
export function parseCandidate(json) {
  try {
    /** @type {unknown} */
    const value = JSON.parse(json);
    if (typeof value !== "object" || value === null) return null;
    const { candidate } = /** @type {Record<string, unknown>} */ (value);
    return typeof candidate === "string" && candidate !== "" ? /** @type {RTCIceCandidateInit} */ (value) : null;
  } catch {
    return null;
  }
}

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
    for (const peer of peers) {
      const link = this.#link(peer, false);
      this.#become(link, "connecting");
      this.#expect(link, "no-answer");
    }
  }

  /**
   * Somebody joined us: the offer is ours.
   *
   * @param {string} peer
   */
  peerJoined(peer) {
    if (!this.#place || peer === this.#options.self) return;
    this.peerLeft(peer);
    this.#offer(this.#link(peer, true));
  }

  /** @param {string} peer */
  peerLeft(peer) {
    const link = this.#links.get(peer);
    if (!link) return;
    this.#retire(link);
    this.#links.delete(peer);
  }

  /**
   * @param {string} from
   * @param {string} sdp
   */
  receiveOffer(from, sdp) {
    const link = this.#links.get(from);
    if (!link) return;
    const crossed = link.pair?.offering === true && !link.pair.remoteSet;
    if (crossed && this.#options.self < from) return; // ours counts; the other side yields to it
    this.#retire(link);
    const generation = link.generation;
    this.#become(link, "connecting");
    this.#expect(link, "no-path");
    void this.#options.iceServers().then((servers) => {
      if (link.generation !== generation) return;
      const pair = this.#connect(link, servers, false);
      this.#step(link, pair, async () => {
        await this.#setRemote(link, pair, { type: "offer", sdp });
        const audio = pair.connection.getTransceivers().find(({ receiver }) => receiver.track.kind === "audio");
        if (audio) {
          audio.direction = "sendrecv";
          audio.sender.setStreams?.(this.#options.stream);
          await audio.sender.replaceTrack(this.#track);
        }
        await this.#describe(link, pair, await pair.connection.createAnswer());
      });
    });
  }

  /**
   * @param {string} from
   * @param {string} sdp
   */
  receiveAnswer(from, sdp) {
    const link = this.#links.get(from);
    const pair = link?.pair;
    if (!link || !pair || !pair.offering) return;
    this.#step(link, pair, async () => {
      if (pair.connection.signalingState !== "have-local-offer") return; // to an offer that was replaced
      await this.#setRemote(link, pair, { type: "answer", sdp });
    });
  }

  /**
   * @param {string} from
   * @param {string} candidate a JSON-encoded RTCIceCandidateInit
   */
  receiveCandidate(from, candidate) {
    const link = this.#links.get(from);
    if (!link) return;
    const pair = link.pair;
    if (pair?.remoteSet) this.#step(link, pair, () => this.#add(pair, candidate));
    else if (link.early.length < MOST_EARLY) link.early.push(candidate);
  }

  /**
   * Our voice, or null while there is none: pairs take it up where they are.
   *
   * @param {MediaStreamTrack | null} track
   */
  setTrack(track) {
    this.#track = track;
    for (const link of this.#links.values()) {
      const pair = link.pair;
      if (!pair) continue;
      this.#step(link, pair, async () => {
        for (const { sender, receiver } of pair.connection.getTransceivers()) {
          if (receiver.track.kind === "audio") await sender.replaceTrack(track);
        }
      });
    }
  }

  /**
   * New credentials for the relay, also for the pairs there are.
   *
   * @param {RTCIceServer[]} servers
   */
  setIceServers(servers) {
    for (const { pair } of this.#links.values()) {
      try {
        pair?.connection.setConfiguration(configuration(servers));
      } catch (error) {
        console.warn("The new ICE servers were refused", error);
      }
    }
  }

  /**
   * A pair that was given up, once more.
   *
   * @param {string} peer
   */
  retry(peer) {
    const link = this.#links.get(peer);
    if (!link) return;
    link.attempts = 0;
    this.#offer(link);
  }

  /** All pairs are over. */
  close() {
    for (const peer of [...this.#links.keys()]) this.peerLeft(peer);
    this.#place = null;
  }

  /**
   * @param {string} peer
   * @param {boolean} ours
   * @returns {Link}
   */
  #link(peer, ours) {
    /** @type {Link} */
    const link = { peer, ours, pair: null, early: [], attempts: 0, generation: 0, timer: undefined };
    this.#links.set(peer, link);
    return link;
  }

  /**
   * @param {Link} link
   * @param {PairState} state
   * @param {PairTrouble | null} [trouble]
   */
  #become(link, state, trouble = null) {
    this.#options.onState(link.peer, state, trouble);
  }

  /**
   * Fails the link unless it is connected in time.
   *
   * @param {Link} link
   * @param {PairTrouble} trouble
   */
  #expect(link, trouble) {
    clearTimeout(link.timer);
    link.timer = setTimeout(() => this.#fail(link, trouble), CONNECT_MS);
  }

  /** @param {Link} link */
  #offer(link) {
    this.#retire(link);
    const generation = link.generation;
    this.#become(link, "connecting");
    this.#expect(link, "no-answer");
    void this.#options.iceServers().then((servers) => {
      if (link.generation !== generation) return;
      const pair = this.#connect(link, servers, true);
      pair.connection.addTransceiver(this.#track ?? "audio", {
        direction: "sendrecv",
        streams: [this.#options.stream],
      });
      this.#step(link, pair, async () => {
        await this.#describe(link, pair, await pair.connection.createOffer());
      });
    });
  }

  /**
   * @param {Link} link
   * @param {RTCIceServer[]} servers
   * @param {boolean} offering
   * @returns {Pair}
   */
  #connect(link, servers, offering) {
    const create = this.#options.createConnection ?? ((options) => new RTCPeerConnection(options));
    const connection = create(configuration(servers));
    /** @type {Pair} */
    const pair = {
      connection,
      offering,
      remoteSet: false,
      described: false,
      sawRelay: false,
      relayNamed: servers.some(({ urls }) => [urls].flat().some((url) => url.startsWith("turn"))),
      connectedAt: Infinity,
      work: Promise.resolve(),
    };
    link.pair = pair;
    connection.onicecandidate = ({ candidate }) => {
      if (link.pair !== pair || !candidate || !isUseful(candidate.candidate)) return;
      if (/ typ relay\b/.test(candidate.candidate)) pair.sawRelay = true;
      if (pair.described) this.#sendCandidate(link, JSON.stringify(candidate.toJSON()));
    };
    connection.ontrack = ({ track }) => {
      if (link.pair === pair && track.kind === "audio") this.#options.onTrack(link.peer, track);
    };
    connection.onconnectionstatechange = () => {
      if (link.pair !== pair) return;
      switch (connection.connectionState) {
        case "connected":
          clearTimeout(link.timer);
          pair.connectedAt = this.#now();
          this.#become(link, "connected");
          break;
        case "disconnected":
          this.#become(link, "connecting");
          break;
        case "failed":
          this.#fail(link, "no-path");
          break;
      }
    };
    return pair;
  }

  /**
   * Does a pair's next step when the ones before are done; a step that throws fails the pair.
   *
   * @param {Link} link
   * @param {Pair} pair
   * @param {() => Promise<void>} step
   */
  #step(link, pair, step) {
    pair.work = pair.work
      .then(() => (link.pair === pair ? step() : undefined))
      .catch((error) => {
        if (link.pair !== pair) return;
        console.warn(`The pair with ${link.peer} broke`, error);
        this.#fail(link, "no-path");
      });
  }

  /**
   * @param {Link} link
   * @param {Pair} pair
   * @param {{type: "offer" | "answer", sdp: string}} description
   */
  async #setRemote(link, pair, { type, sdp }) {
    await pair.connection.setRemoteDescription({ type, sdp: withVoiceOpus(sdp) });
    pair.remoteSet = true;
    for (const candidate of link.early.splice(0)) await this.#add(pair, candidate);
  }

  /**
   * @param {Link} link
   * @param {Pair} pair
   * @param {RTCSessionDescriptionInit} description
   */
  async #describe(link, pair, description) {
    const { connection } = pair;
    await connection.setLocalDescription(description);
    // Not awaited here: the other side's candidates need not wait for ours.
    void gathered(connection).then(() => {
      const sdp = connection.localDescription?.sdp;
      const place = this.#place;
      if (link.pair !== pair || !place || sdp === undefined) return;
      const type = pair.offering ? "offer" : "answer";
      this.#options.send({ type, target: link.peer, ...place, sdp: withVoiceOpus(sdp) });
      pair.described = true;
    });
  }

  /**
   * @param {Link} link
   * @param {string} candidate
   */
  #sendCandidate(link, candidate) {
    if (this.#place) this.#options.send({ type: "ice-candidate", target: link.peer, ...this.#place, candidate });
  }

  /**
   * @param {Pair} pair
   * @param {string} json
   */
  async #add(pair, json) {
    const candidate = parseCandidate(json);
    if (candidate === null) return;
    try {
      await pair.connection.addIceCandidate(candidate);
    } catch (error) {
      console.debug("A candidate was refused", error); // of a pair that was replaced, or of a kind not known here
    }
  }

  /**
   * @param {Link} link
   * @param {PairTrouble} trouble as far as it is known
   */
  #fail(link, trouble) {
    const pair = link.pair;
    /** @type {PairTrouble} */
    let why = trouble;
    if (pair && pair.remoteSet) {
      if (!pair.relayNamed) why = "no-relay-named";
      else if (!pair.sawRelay) why = "relay-silent";
      else why = "no-path";
    }
    if (pair && this.#now() - pair.connectedAt > STEADY_MS) link.attempts = 0;
    this.#retire(link);
    if (link.attempts >= MOST_REBUILDS) {
      this.#become(link, "failed", why);
      return;
    }
    const wait = (link.ours ? 0 : STEP_IN_MS) + delayBefore(link.attempts, REBUILD, this.#options.random);
    link.attempts += 1;
    link.timer = setTimeout(() => this.#offer(link), wait);
    this.#become(link, "retrying", why);
  }

  /**
   * Ends what is under way for a link, and leaves the link.
   *
   * @param {Link} link
   */
  #retire(link) {
    clearTimeout(link.timer);
    link.generation += 1;
    link.early = [];
    this.#options.drop(link.peer);
    const pair = link.pair;
    if (!pair) return;
    link.pair = null;
    pair.connection.close();
    this.#options.onGone(link.peer);
  }

  #now() {
    return (this.#options.now ?? Date.now)();
  }
}

/**
 * All candidates are found, or enough time was spent on them.
 *
 * @param {RTCPeerConnection} connection
 * @returns {Promise<void>}
 */
function gathered(connection) {
  if (connection.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, GATHER_MS);
    connection.onicegatheringstatechange = () => {
      if (connection.iceGatheringState !== "complete") return;
      clearTimeout(timer);
      resolve();
    };
  });
}

/**
 * @param {RTCIceServer[]} iceServers
 * @returns {RTCConfiguration}
 */
function configuration(iceServers) {
  return { iceServers, bundlePolicy: "max-bundle" };
}
