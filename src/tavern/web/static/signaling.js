/**
 * The connection to the server: opens it, opens it again when it breaks, paces what is sent, reads what comes.
 *
 * @typedef {import("./messages.js").ClientMessage} ClientMessage
 * @typedef {import("./messages.js").ServerMessage} ServerMessage
 *
 * `open` talks; `connecting` tries; `waiting` will try again by itself; `replaced` gave way to another page of the same
 * identity and stays quiet until it is told to `connect`.
 * @typedef {"connecting" | "open" | "waiting" | "replaced"} SignalingState
 *
 * @typedef {object} SignalingOptions
 * @property {string} url
 * @property {(message: ServerMessage) => void} onMessage
 * @property {(state: SignalingState) => void} onState
 * @property {(url: string) => WebSocket} [openSocket]
 * @property {() => number} [random]
 */

import { delayBefore } from "./backoff.js";
import { parseServerMessage } from "./messages.js";
import { Pacer } from "./pacing.js";

/** @type {import("./backoff.js").Backoff} */
const BACKOFF = { first: 600, most: 4_000 }; // whose call is relayed waits for it in silence
const OPENING_MS = 10_000;
/** A connection that lived this long was a good one: the next failure starts counting anew. */
const STEADY_MS = 10_000;
/** How long the server may take to say anything after it was asked. */
const ANSWER_MS = 10_000;

export class Signaling {
  #options;
  /** @type {WebSocket | null} */
  #socket = null;
  /** @type {SignalingState} */
  #state = "waiting";
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #retryTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #openingTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #steadyTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #answerTimer;
  #pacer;

  /** @param {SignalingOptions} options */
  constructor(options) {
    this.#options = options;
    this.#pacer = new Pacer((message) => this.#socket?.send(JSON.stringify(message)));
  }

  get isOpen() {
    return this.#state === "open";
  }

  /** Opens the connection now, unless it is open or opening. */
  connect() {
    if (this.#state === "open" || this.#state === "connecting") return;
    clearTimeout(this.#retryTimer);
    this.#become("connecting");
    const open = this.#options.openSocket ?? ((url) => new WebSocket(url));
    const socket = open(this.#options.url);
    this.#socket = socket;
    this.#openingTimer = setTimeout(() => this.#lost(socket), OPENING_MS);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      clearTimeout(this.#openingTimer);
      this.#pacer.reset();
      this.#steadyTimer = setTimeout(() => {
        this.#attempt = 0;
      }, STEADY_MS);
      this.#become("open");
    };
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#receive(event.data);
    };
    socket.onclose = () => this.#lost(socket);
  }

  /**
   * Sends, in its turn. What is said while there is no connection is lost: the one who says it starts anew at `open`.
   *
   * @param {ClientMessage} message
   */
  send(message) {
    if (this.#state === "open") this.#pacer.push(message);
  }

  /**
   * Asks something that the server answers at once, and gives the connection up for dead if nothing comes at all.
   *
   * @param {ClientMessage} message
   * @param {number} [withinMs]
   */
  probe(message, withinMs = ANSWER_MS) {
    this.send(message);
    const socket = this.#socket;
    if (this.#state !== "open" || !socket || (this.#answerTimer !== undefined && withinMs === ANSWER_MS)) return;
    clearTimeout(this.#answerTimer);
    this.#answerTimer = setTimeout(() => this.#lost(socket), withinMs);
  }

  /**
   * Forgets what still waits to be sent to `target`.
   *
   * @param {string} target
   */
  drop(target) {
    this.#pacer.drop(target);
  }

  /** @param {unknown} data */
  #receive(data) {
    clearTimeout(this.#answerTimer);
    this.#answerTimer = undefined;
    const message = parseServerMessage(data);
    if (message === null) return;
    if (message.type === "error" && message.message === "rate-limited") this.#pacer.pause();
    if (message.type === "session-replaced") {
      this.#abandon();
      this.#become("replaced");
    }
    this.#options.onMessage(message);
  }

  /** @param {WebSocket} socket */
  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#abandon();
    const delay = delayBefore(this.#attempt, BACKOFF, this.#options.random);
    this.#attempt += 1;
    this.#retryTimer = setTimeout(() => this.connect(), delay);
    this.#become("waiting");
  }

  #abandon() {
    const socket = this.#socket;
    this.#socket = null;
    for (const timer of [this.#openingTimer, this.#steadyTimer, this.#answerTimer]) clearTimeout(timer);
    this.#answerTimer = undefined;
    this.#pacer.reset();
    socket?.close();
  }

  /** @param {SignalingState} state */
  #become(state) {
    this.#state = state;
    this.#options.onState(state);
  }
}
