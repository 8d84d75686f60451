/**
 * What there is for one other person in the channel: the pair of the moment, and when it is built anew. It outlives the
 * pairs made for it.
 *
 * Who was to offer also builds the pair anew when it fails; the other side steps in only when nothing comes. A new offer
 * always replaces the pair there was, except when two offers cross: then the one of the smaller key counts.
 *
 * @typedef {import("./pair.js").PairTrouble} PairTrouble
 *
 * `retrying` failed and will be built again; `failed` was given up.
 * @typedef {"connecting" | "connected" | "retrying" | "failed"} PairState
 *
 * What is said to the other side.
 * @typedef {{type: "offer" | "answer", sdp: string} | {type: "ice-candidate", candidate: string}} Signal
 *
 * @typedef {object} LinkOptions
 * @property {string} peer the other's key, in hex
 * @property {string} self our own
 * @property {boolean} ours whether the offer is ours to send
 * @property {MediaStream} stream names our voice towards the other
 * @property {() => MediaStreamTrack | null} track our voice, null while there is none
 * @property {() => Promise<RTCIceServer[]>} iceServers
 * @property {(signal: Signal) => void} send
 * @property {() => void} drop forget what waits to be sent to the other
 * @property {(state: PairState, trouble: PairTrouble | null) => void} onState
 * @property {(track: MediaStreamTrack) => void} onTrack
 * @property {() => void} onGone the pair's sound is over
 * @property {(configuration: RTCConfiguration) => RTCPeerConnection} [createConnection]
 * @property {() => number} [random]
 * @property {() => number} [now]
 */

import { delayBefore } from "./backoff.js";
import { keepEarly } from "./candidates.js";
import { Pair } from "./pair.js";

/** @type {import("./backoff.js").Backoff} */
const REBUILD = { first: 1_000, most: 8_000 };
const MOST_REBUILDS = 4;
/** From the first step to sound. */
const CONNECT_MS = 20_000;
/** How long the one who is not to offer waits for the other's new offer. */
const STEP_IN_MS = 12_000;
/** A pair that lived this long was a good one: rebuilding starts counting anew. */
const STEADY_MS = 30_000;

export class Link {
  #options;
  /** @type {Pair | null} */
  #pair = null;
  /** Candidates that came before the pair they belong to. @type {string[]} */
  #early = [];
  /** Rebuilt in a row. */
  #attempts = 0;
  #connectedAt = Infinity;
  /** Counts up whenever what was under way is no longer wanted. */
  #generation = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {LinkOptions} options */
  constructor(options) {
    this.#options = options;
  }

  /** Waits for the other's offer. */
  expectOffer() {
    this.#options.onState("connecting", null);
    this.#expect("no-answer");
  }

  /** Builds a pair with an offer of ours. */
  offer() {
    this.#begin("no-answer", (pair) => pair.offer(this.#options.track()));
  }

  /** @param {string} sdp */
  receiveOffer(sdp) {
    const { self, peer } = this.#options;
    if (this.#pair?.unanswered && self < peer) return; // ours counts; the other side yields to it
    this.#begin("no-path", (pair) => pair.answer(sdp, this.#options.track));
  }

  /** @param {string} sdp */
  receiveAnswer(sdp) {
    this.#pair?.receiveAnswer(sdp);
  }

  /** @param {string} candidate */
  receiveCandidate(candidate) {
    if (this.#pair) this.#pair.receiveCandidate(candidate);
    else keepEarly(this.#early, candidate);
  }

  /** @param {MediaStreamTrack | null} track */
  setTrack(track) {
    this.#pair?.setTrack(track);
  }

  /** @param {RTCIceServer[]} servers */
  setIceServers(servers) {
    this.#pair?.setIceServers(servers);
  }

  /** After it was given up, once more. */
  retry() {
    this.#attempts = 0;
    this.offer();
  }

  /** Ends what is under way. */
  close() {
    clearTimeout(this.#timer);
    this.#generation += 1;
    this.#early = [];
    this.#options.drop();
    const pair = this.#pair;
    if (!pair) return;
    this.#pair = null;
    pair.close();
    this.#options.onGone();
  }

  /**
   * A new pair in place of the one there was, with credentials that will do.
   *
   * @param {PairTrouble} trouble what it was if nothing comes of it
   * @param {(pair: Pair) => void} start
   */
  #begin(trouble, start) {
    this.close();
    const generation = this.#generation;
    this.#options.onState("connecting", null);
    this.#expect(trouble);
    void this.#options.iceServers().then((servers) => {
      if (this.#generation === generation) this.#build(servers, start);
    });
  }

  /**
   * @param {RTCIceServer[]} iceServers
   * @param {(pair: Pair) => void} start
   */
  #build(iceServers, start) {
    const { stream, send, onTrack, createConnection } = this.#options;
    try {
      this.#pair = new Pair({
        iceServers,
        stream,
        early: this.#early,
        onDescription: (type, sdp) => send({ type, sdp }),
        onCandidate: (candidate) => send({ type: "ice-candidate", candidate }),
        onTrack,
        onState: (state) => this.#pairBecame(state),
        createConnection,
      });
      this.#connectedAt = Infinity;
      start(this.#pair);
    } catch (error) {
      console.warn("The browser refused a connection", error); // it has none to give, or was told not to
      this.#fail("no-path");
    }
  }

  /** @param {"connected" | "disconnected" | "failed"} state */
  #pairBecame(state) {
    if (state === "failed") {
      this.#fail("no-path");
    } else if (state === "disconnected") {
      this.#options.onState("connecting", null);
    } else {
      clearTimeout(this.#timer);
      this.#connectedAt = this.#now();
      this.#options.onState("connected", null);
    }
  }

  /**
   * Fails unless it is connected in time.
   *
   * @param {PairTrouble} trouble
   */
  #expect(trouble) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fail(trouble), CONNECT_MS);
  }

  /** @param {PairTrouble} suspected */
  #fail(suspected) {
    const trouble = this.#pair?.diagnose(suspected) ?? suspected;
    if (this.#pair && this.#now() - this.#connectedAt > STEADY_MS) this.#attempts = 0;
    this.close();
    if (this.#attempts >= MOST_REBUILDS) {
      this.#options.onState("failed", trouble);
      return;
    }
    const patience = this.#options.ours ? 0 : STEP_IN_MS;
    const wait = patience + delayBefore(this.#attempts, REBUILD, this.#options.random);
    this.#attempts += 1;
    this.#timer = setTimeout(() => this.offer(), wait);
    this.#options.onState("retrying", trouble);
  }

  #now() {
    return (this.#options.now ?? Date.now)();
  }
}
