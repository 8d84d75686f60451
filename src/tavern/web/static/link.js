/**
 * What there is for one other person in the channel: the pair of the moment, and when it is built anew. It outlives the
 * pairs made for it.
 *
 * Who was to offer also builds the pair anew when it fails; the other side steps in only when nothing comes. A new offer
 * replaces the pair there was, unless it is of the same connection and looks for another way. When two offers cross, the
 * one of the smaller key counts.
 *
 * @typedef {import("./pair.js").PairTrouble} PairTrouble
 *
 * @typedef {PairTrouble | Distrust} Trouble
 *
 * `retrying` failed and will be built again; `failed` was given up.
 * @typedef {"connecting" | "connected" | "retrying" | "failed"} PairState
 *
 * What is said to the other side.
 * @typedef {{type: "offer" | "answer", sdp: string, signature?: string} | {type: "ice-candidate", candidate: string}
 * } Signal
 *
 * @typedef {import("./vouching.js").Trust} Trust
 * @typedef {import("./vouching.js").Distrust} Distrust
 * @typedef {import("./vouching.js").DescriptionType} DescriptionType
 *
 * @typedef {object} LinkOptions
 * @property {string} peer the other's key, in hex
 * @property {string} self our own
 * @property {boolean} ours whether the offer is ours to send
 * @property {MediaStream} stream names our voice towards the other
 * @property {() => MediaStreamTrack | null} track our voice, null while there is none
 * @property {() => Promise<RTCIceServer[]>} iceServers
 * @property {() => boolean} [relayOnly]
 * @property {(signal: Signal) => void} send
 * @property {(type: DescriptionType, sdp: string) => Promise<string | null>} vouch our signature, if we have any
 * @property {(type: DescriptionType, sdp: string, signature: string | null) => Promise<Trust | Distrust>} judge
 * @property {(trust: Trust) => void} onTrust whose voice it is going to be
 * @property {() => void} drop forget what waits to be sent to the other
 * @property {(state: PairState, trouble: Trouble | null) => void} onState
 * @property {(track: MediaStreamTrack) => void} onTrack
 * @property {(text: string) => void} onText
 * @property {(reads: boolean) => void} onReads whether what is written reaches the other
 * @property {() => void} onGone the pair's sound is over
 * @property {(configuration: RTCConfiguration) => RTCPeerConnection} [createConnection]
 * @property {() => number} [random]
 * @property {() => number} [now]
 */

import { delayBefore } from "./backoff.js";
import { keepEarly } from "./candidates.js";
import { Pair } from "./pair.js";
import { parseText, TextLimit, wireText } from "./text.js";

/** @type {import("./backoff.js").Backoff} */
const REBUILD = { first: 1_000, most: 8_000 };
const MOST_REBUILDS = 4;
/** From the first step to sound. */
const CONNECT_MS = 20_000;
/** A path that is disturbed may be well again in a moment. */
const RESTART_MS = 2_000;
/** How long the one who is not to offer waits for the other's new offer. */
const STEP_IN_MS = 12_000;
/** While a signature is looked at: a description and the candidates of any browser. */
const MOST_WAITING = 100;
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
  /** What came is dealt with in its order: to look at a signature takes a moment. */
  #inbox = Promise.resolve();
  #waiting = 0;
  #texts = new TextLimit();
  /** Whether the first offer of the pair was ours. */
  #offers = false;
  /** Whether the other side signs: then it also knows what an offer of the same connection means. */
  #signs = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #restartTimer;
  /** What is sent leaves in its order, for the same reason. */
  #outbox = Promise.resolve();
  #ended = false;

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
    this.#begin("no-answer", (pair) => {
      this.#offers = true;
      pair.offer(this.#options.track());
    });
  }

  /**
   * @param {string} sdp
   * @param {string | null} signature
   */
  receiveOffer(sdp, signature) {
    this.#deal(async () => {
      if (!(await this.#trusts("offer", sdp, signature))) return;
      const { self, peer } = this.#options;
      if (this.#pair?.unanswered && self < peer) {
        // Ours counts; the other side yields to it, if it has come there.
        this.#pair.offerAgain();
        return;
      }
      if (this.#pair?.isOf(sdp)) this.#pair.answer(sdp, this.#options.track); // it looks for another way
      else {
        this.#begin("no-path", (pair) => {
          this.#offers = false;
          pair.answer(sdp, this.#options.track);
        });
      }
    });
  }

  /**
   * @param {string} sdp
   * @param {string | null} signature
   */
  receiveAnswer(sdp, signature) {
    this.#deal(async () => {
      if (this.#pair?.unanswered && (await this.#trusts("answer", sdp, signature))) this.#pair?.receiveAnswer(sdp);
    });
  }

  /** @param {string} candidate */
  receiveCandidate(candidate) {
    this.#deal(() => {
      if (this.#pair) this.#pair.receiveCandidate(candidate);
      else keepEarly(this.#early, candidate);
    });
  }

  /** @returns {Promise<import("./pair-stats.js").PairStats | null>} */
  async stats() {
    return (await this.#pair?.stats()) ?? null;
  }

  /**
   * @param {string} text
   * @returns {boolean} whether it goes out
   */
  sendText(text) {
    return this.#pair?.sendText(wireText(text)) ?? false;
  }

  /** For good: nothing is told or sent any more. */
  end() {
    this.#ended = true;
    this.#close();
  }

  /** @param {MediaStreamTrack | null} track */
  setTrack(track) {
    this.#pair?.setTrack(track);
  }

  /** @param {RTCIceServer[]} servers */
  setIceServers(servers) {
    this.#pair?.setIceServers(servers);
  }

  /**
   * Looks for a way anew: with the same keys where the other side knows how, else with a new pair.
   *
   * @param {{unlessConnected: boolean, relayHolds: boolean}} when see `Mesh.renew`
   */
  async renew({ unlessConnected, relayHolds }) {
    if (unlessConnected && (await this.#works(relayHolds))) return;
    if (this.#ended) return;
    this.#attempts = 0;
    if (this.#pair && this.#signs && this.#pair.hasMet) this.#restart();
    else if (unlessConnected || this.#connectedAt === Infinity) this.offer();
  }

  /** After it was given up, once more. */
  retry() {
    this.#attempts = 0;
    this.offer();
  }

  /** @param {unknown} data */
  #read(data) {
    const text = parseText(data);
    if (text !== null && this.#texts.allow(this.#now())) this.#options.onText(text);
  }

  /** @param {() => void | Promise<void>} step */
  #deal(step) {
    if (this.#waiting >= MOST_WAITING) return;
    this.#waiting += 1;
    this.#inbox = this.#inbox.then(async () => {
      if (!this.#ended) await step();
      this.#waiting -= 1;
    });
  }

  /**
   * Whether a description may be used. One that may not changes nothing of a pair that is connected: who can forge one
   * shall not be able to end a call with it.
   *
   * @param {DescriptionType} type
   * @param {string} sdp
   * @param {string | null} signature
   * @returns {Promise<boolean>}
   */
  async #trusts(type, sdp, signature) {
    const trust = await this.#options.judge(type, sdp, signature);
    if (this.#ended) return false;
    if (trust === "verified" || trust === "unsigned") {
      this.#signs = trust === "verified";
      this.#options.onTrust(trust);
      return true;
    }
    console.warn("A description was refused", trust);
    if (this.#connectedAt === Infinity) {
      this.#close();
      this.#options.onState("failed", trust);
    }
    return false;
  }

  /** @param {Signal} signal */
  #send(signal) {
    const generation = this.#generation;
    this.#outbox = this.#outbox.then(async () => {
      const signed = signal.type === "ice-candidate" ? signal : await this.#signed(signal);
      if (this.#generation === generation) this.#options.send(signed);
    });
  }

  /**
   * @param {{type: DescriptionType, sdp: string}} description
   * @returns {Promise<Signal>}
   */
  async #signed({ type, sdp }) {
    const signature = await this.#options.vouch(type, sdp);
    return signature === null ? { type, sdp } : { type, sdp, signature };
  }

  /** Ends what is under way. */
  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#restartTimer);
    this.#generation += 1;
    this.#early = [];
    this.#options.drop();
    const pair = this.#pair;
    if (!pair) return;
    this.#pair = null;
    this.#connectedAt = Infinity;
    pair.close();
    this.#options.onReads(false);
    this.#options.onGone();
  }

  /**
   * A new pair in place of the one there was, with credentials that will do.
   *
   * @param {PairTrouble} trouble what it was if nothing comes of it
   * @param {(pair: Pair) => void} start
   */
  #begin(trouble, start) {
    this.#close();
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
    const { stream, onTrack, createConnection } = this.#options;
    try {
      this.#pair = new Pair({
        iceServers,
        relayOnly: this.#options.relayOnly?.(),
        stream,
        early: this.#early,
        onDescription: (type, sdp) => this.#send({ type, sdp }),
        onCandidate: (candidate) => this.#send({ type: "ice-candidate", candidate }),
        onTrack,
        onText: (data) => this.#read(data),
        onReads: this.#options.onReads,
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
      const wait = this.#options.ours ? RESTART_MS : 2 * RESTART_MS; // the other side is quicker, or not there
      if (this.#signs) this.#restartTimer = setTimeout(() => this.#restart(), wait);
    } else {
      clearTimeout(this.#timer);
      clearTimeout(this.#restartTimer);
      this.#connectedAt = this.#now();
      this.#options.onState("connected", null);
      // With who signs: existing clients know nothing of it. Sound comes first.
      if (this.#signs && this.#offers) this.#pair?.openText();
    }
  }

  /**
   * Whether it is connected by a way that holds.
   *
   * @param {boolean} relayHolds
   * @returns {Promise<boolean>}
   */
  async #works(relayHolds) {
    if (this.#connectedAt === Infinity || this.#pair?.state !== "connected" || this.#pair.unanswered) return false;
    return relayHolds || (await this.stats())?.path === "direct";
  }

  /** The pair looks for another way, with a new offer. */
  #restart() {
    clearTimeout(this.#restartTimer);
    if (this.#pair?.state !== "connected") {
      // Else browsers tell of no change, unless it comes to nothing.
      this.#options.onState("connecting", null);
      this.#expect("no-path");
    }
    this.#pair?.restart();
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
    this.#close();
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
