/**
 * One RTCPeerConnection, its exchange of offer and answer, and further ones when it looks for another way (ICE restart).
 * One that has failed is not mended but replaced; once closed it tells nothing any more.
 *
 * Why a pair failed: the server named no relay; it named one that did not answer; the other side did not answer; nothing
 * got through.
 * @typedef {"no-relay-named" | "relay-silent" | "no-answer" | "no-path"} PairTrouble
 *
 * @typedef {object} PairOptions
 * @property {RTCIceServer[]} iceServers
 * @property {boolean} [relayOnly] the other side shall not learn our address
 * @property {MediaStream} stream names our voice towards the other
 * @property {string[]} early candidates that came before the pair was made
 * @property {(type: "offer" | "answer", sdp: string) => void} onDescription ours, to be sent
 * @property {(candidate: string) => void} onCandidate ours, as JSON, to be sent after the description
 * @property {(track: MediaStreamTrack) => void} onTrack
 * @property {(state: "connected" | "disconnected" | "failed") => void} onState
 * @property {(data: unknown) => void} onText
 * @property {(reads: boolean) => void} onReads whether what is written reaches the other
 * @property {(configuration: RTCConfiguration) => RTCPeerConnection} [createConnection]
 */

import { isRelayed, isUseful, keepEarly, parseCandidate } from "./candidates.js";
import { fingerprintsOf } from "./fingerprints.js";
import { summarize } from "./pair-stats.js";
import { withVoiceOpus } from "./sdp.js";
import { LABEL } from "./text.js";

/** Bytes: what is written while the path is lost for longer is not kept. */
const MOST_UNSENT = 64 * 1024;

/**
 * How long our description waits for candidates to take along. Those of this machine are there at once and the relay
 * answers in two round trips, so that a pair mostly costs one message instead of ten: with seven others, and a server
 * that counts, this is what keeps joining fast.
 */
const GATHER_MS = 250;

export class Pair {
  #options;
  #connection;
  #relayNamed;
  #sawRelay = false;
  #offering = false;
  #remoteSet = false;
  /** Whether our description is on its way; candidates found later follow one by one. */
  #described = false;
  #closed = false;
  #counted = { received: 0, lost: 0 };
  /** @type {RTCDataChannel | null} */
  #text = null;
  /** Steps are done one after the other. */
  #work = Promise.resolve();

  /** @param {PairOptions} options */
  constructor(options) {
    this.#options = options;
    this.#relayNamed = options.iceServers.some(({ urls }) => [urls].flat().some((url) => url.startsWith("turn")));
    const create = options.createConnection ?? ((configuration) => new RTCPeerConnection(configuration));
    this.#connection = create(configurationWith(options.iceServers, options.relayOnly));
    this.#connection.onicecandidate = ({ candidate }) => this.#found(candidate);
    this.#connection.ontrack = ({ track }) => {
      if (!this.#closed && track.kind === "audio") options.onTrack(track);
    };
    this.#connection.ondatachannel = ({ channel }) => {
      if (channel.label === LABEL && this.#text === null) this.#use(channel);
      else channel.close();
    };
    this.#connection.onconnectionstatechange = () => {
      const state = this.#connection.connectionState;
      if (this.#closed) return;
      if (state === "connected" || state === "disconnected" || state === "failed") options.onState(state);
    };
  }

  /** Whether our offer waits for its answer. */
  get unanswered() {
    return this.#offering && !this.#remoteSet;
  }

  /** Whether both sides know each other's keys. */
  get hasMet() {
    return this.#connection.remoteDescription !== null;
  }

  get state() {
    return this.#connection.connectionState;
  }

  /**
   * Whether a description is of the connection that this pair is with: no two have the same fingerprint.
   *
   * @param {string} sdp
   * @returns {boolean}
   */
  isOf(sdp) {
    const known = fingerprintsOf(this.#connection.remoteDescription?.sdp ?? "").join();
    return known !== "" && known === fingerprintsOf(sdp).join();
  }

  /** Our offer, which waits for its answer, once more: it may have been lost with somebody's connection. */
  offerAgain() {
    const sdp = this.#connection.localDescription?.sdp;
    if (this.unanswered && this.#described && sdp !== undefined) this.#options.onDescription("offer", withVoiceOpus(sdp));
  }

  /** What is written goes over the same connection from now on; the offer for it is ours. */
  openText() {
    if (this.#text !== null || this.#closed) return;
    this.#use(this.#connection.createDataChannel(LABEL));
    this.#offerAgain({});
  }

  /**
   * @param {string} data
   * @returns {boolean} whether it goes out
   */
  sendText(data) {
    if (this.#text?.readyState !== "open" || this.#text.bufferedAmount > MOST_UNSENT) return false;
    this.#text.send(data);
    return true;
  }

  /** Another way is looked for, while what there is goes on. */
  restart() {
    this.#offerAgain({ iceRestart: true });
  }

  /** @param {RTCOfferOptions} options */
  #offerAgain(options) {
    this.#step(async () => {
      // An earlier offer may not have been heard; an answer of ours that is under way is another way already.
      if (!["stable", "have-local-offer"].includes(this.#connection.signalingState)) return;
      this.#offering = true;
      this.#remoteSet = this.#described = false;
      await this.#describe("offer", await this.#connection.createOffer(options));
    });
  }

  /**
   * Why it failed, told by what there was.
   *
   * @param {PairTrouble} suspected as far as it is known from outside
   * @returns {PairTrouble}
   */
  diagnose(suspected) {
    if (!this.#remoteSet) return suspected;
    if (!this.#relayNamed) return "no-relay-named";
    return this.#sawRelay ? "no-path" : "relay-silent";
  }

  /** @param {MediaStreamTrack | null} track our voice */
  offer(track) {
    this.#offering = true;
    this.#connection.addTransceiver(track ?? "audio", { direction: "sendrecv", streams: [this.#options.stream] });
    this.#step(async () => this.#describe("offer", await this.#connection.createOffer()));
  }

  /**
   * @param {string} sdp the other's offer
   * @param {() => MediaStreamTrack | null} track our voice, when it comes to that
   */
  answer(sdp, track) {
    this.#step(async () => {
      this.#offering = this.#remoteSet = this.#described = false; // an offer of ours that crossed it is rolled back
      await this.#setRemote({ type: "offer", sdp });
      const transceiver = this.#connection.getTransceivers().find(({ receiver }) => receiver.track.kind === "audio");
      if (transceiver) {
        transceiver.direction = "sendrecv";
        transceiver.sender.setStreams?.(this.#options.stream);
        await transceiver.sender.replaceTrack(track());
      }
      await this.#describe("answer", await this.#connection.createAnswer());
    });
  }

  /** @param {string} sdp the answer to our offer */
  receiveAnswer(sdp) {
    if (!this.#offering) return;
    this.#step(async () => {
      if (this.#connection.signalingState !== "have-local-offer") return; // to an offer that was replaced
      await this.#setRemote({ type: "answer", sdp });
    });
  }

  /** @param {string} candidate a JSON-encoded RTCIceCandidateInit */
  receiveCandidate(candidate) {
    if (this.#remoteSet) this.#step(() => this.#add(candidate));
    else keepEarly(this.#options.early, candidate);
  }

  /** @param {MediaStreamTrack | null} track */
  setTrack(track) {
    this.#step(async () => {
      for (const { sender, receiver } of this.#connection.getTransceivers()) {
        if (receiver.track.kind === "audio") await sender.replaceTrack(track);
      }
    });
  }

  /** @param {RTCIceServer[]} servers */
  setIceServers(servers) {
    try {
      this.#connection.setConfiguration(configurationWith(servers, this.#options.relayOnly));
    } catch (error) {
      console.warn("The new ICE servers were refused", error);
    }
  }

  /** @returns {Promise<import("./pair-stats.js").PairStats | null>} null while it is not connected */
  async stats() {
    if (this.#closed) return null;
    const found = summarize((await this.#connection.getStats()).values(), this.#counted);
    if (found) this.#counted = found.counted;
    return found?.stats ?? null;
  }

  /** @param {RTCDataChannel} channel */
  #use(channel) {
    this.#text = channel;
    const told = () => {
      if (!this.#closed) this.#options.onReads(channel.readyState === "open");
    };
    channel.onopen = channel.onclose = told;
    channel.onmessage = ({ data }) => {
      if (!this.#closed) this.#options.onText(data);
    };
    told();
  }

  close() {
    this.#closed = true;
    this.#connection.close();
  }

  /**
   * Does the next step when the ones before are done; a step that throws fails the pair.
   *
   * @param {() => Promise<void>} step
   */
  #step(step) {
    this.#work = this.#work
      .then(() => (this.#closed ? undefined : step()))
      .catch((error) => {
        if (this.#closed) return;
        console.warn("A pair broke", error);
        this.#options.onState("failed");
      });
  }

  /** @param {RTCSessionDescriptionInit & {sdp: string}} description */
  async #setRemote({ type, sdp }) {
    await this.#connection.setRemoteDescription({ type, sdp: withVoiceOpus(sdp) });
    this.#remoteSet = true;
    for (const candidate of this.#options.early.splice(0)) await this.#add(candidate);
  }

  /**
   * @param {"offer" | "answer"} type
   * @param {RTCSessionDescriptionInit} description
   */
  async #describe(type, description) {
    await this.#connection.setLocalDescription(description);
    // Not awaited here: the other side's candidates need not wait for ours.
    void gathered(this.#connection).then(() => {
      const sdp = this.#connection.localDescription?.sdp;
      if (this.#closed || sdp === undefined) return;
      this.#options.onDescription(type, withVoiceOpus(sdp));
      this.#described = true;
    });
  }

  /** @param {RTCIceCandidate | null} candidate one of ours; null: all are found */
  #found(candidate) {
    if (this.#closed || !candidate || !isUseful(candidate.candidate)) return;
    if (isRelayed(candidate.candidate)) this.#sawRelay = true;
    if (this.#described) this.#options.onCandidate(JSON.stringify(candidate.toJSON()));
  }

  /** @param {string} json */
  async #add(json) {
    const candidate = parseCandidate(json);
    if (candidate === null) return;
    try {
      await this.#connection.addIceCandidate(candidate);
    } catch (error) {
      console.debug("A candidate was refused", error); // of a pair that was replaced, or of a kind not known here
    }
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
 * @param {boolean} [relayOnly]
 * @returns {RTCConfiguration}
 */
function configurationWith(iceServers, relayOnly = false) {
  return { iceServers, bundlePolicy: "max-bundle", ...(relayOnly ? { iceTransportPolicy: "relay" } : {}) };
}
