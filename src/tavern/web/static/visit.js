/**
 * The tavern looked at: what it is, who is in it, what is added to it, and how a new one is made.
 *
 * @typedef {import("./messages.js").Channel} Channel
 * @typedef {import("./messages.js").Tavern} Tavern
 * @typedef {import("./signaling.js").Signaling} Signaling
 * @typedef {import("./state.js").Store} Store
 */

import { forgetVisit, hidesIn, rememberVisit } from "./memory.js";
import { wireIdentity } from "./state.js";
import { strings } from "./strings.js";

/** Who is where comes by itself while a tavern is watched; the question tells whether the connection is alive. */
const LOOK_MS = 15_000;

export class Visit {
  #store;
  #signaling;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** @type {((tavernId: string) => void) | null} */
  #onCreated = null;
  /** The tavern of which we hear who comes and goes. @type {string | null} */
  #watched = null;

  /**
   * @param {Store} store
   * @param {Signaling} signaling
   */
  constructor(store, signaling) {
    this.#store = store;
    this.#signaling = signaling;
  }

  /** @param {string | null} tavernId null for the front page */
  open(tavernId) {
    const { notice } = this.#store.state;
    if (this.#watched !== null) this.#signaling.send({ type: "unwatch-tavern", tavernId: this.#watched });
    this.#watched = null;
    this.#store.change({ hiddenHere: tavernId !== null && hidesIn(tavernId) });
    this.#store.change({ tavernId, tavern: null, missing: false, notice: notice?.kind === "news" ? notice : null });
    this.look();
  }

  /** Asks how the tavern is, now and then again. */
  look() {
    clearTimeout(this.#timer);
    const { call } = this.#store.state;
    const asked = this.#asked;
    if (asked !== null && this.#signaling.isOpen && (call || document.visibilityState === "visible")) {
      const watches = asked === this.#store.state.tavernId && asked !== this.#watched;
      this.#signaling.probe({ type: watches ? "watch-tavern" : "get-tavern-info", tavernId: asked });
      if (watches) this.#watched = asked;
    }
    this.#timer = setTimeout(() => this.look(), LOOK_MS);
  }

  /** The connection is there: it may lead to another server by now, or to one whose database is back. */
  connectionOpened() {
    this.#store.change({ missing: false });
    this.#watched = null;
    this.look();
  }

  connectionLost() {
    clearTimeout(this.#timer);
    if (this.#store.state.creating) this.#store.change({ creating: false });
  }

  /**
   * @param {string} name
   * @param {(tavernId: string) => void} onCreated
   */
  createTavern(name, onCreated) {
    if (!this.#signaling.isOpen) {
      this.#store.complain(strings.errors.notConnected);
      return;
    }
    this.#onCreated = onCreated;
    this.#store.change({ creating: true, notice: null });
    const identity = wireIdentity(this.#store.state);
    if (identity) this.#signaling.send({ type: "update-identity", identity }); // whose tavern it is
    this.#signaling.send({ type: "create-tavern", name });
  }

  /**
   * @param {string} name
   * @returns {boolean} whether it was asked for
   */
  createChannel(name) {
    const { tavernId } = this.#store.state;
    if (tavernId === null) return false;
    if (!this.#signaling.isOpen) {
      this.#store.complain(strings.errors.notConnected);
      return false;
    }
    this.#store.change({ notice: null });
    this.#signaling.send({ type: "create-channel", tavernId, name });
    return true;
  }

  /** @param {Tavern} tavern */
  tavernCreated(tavern) {
    rememberVisit(tavern);
    this.#store.change({ creating: false });
    this.#onCreated?.(tavern.id);
    this.#onCreated = null;
  }

  /** @param {Tavern} tavern */
  tavernTold(tavern) {
    const { state } = this.#store;
    if (tavern.id !== state.tavernId) return;
    if (state.tavern?.name !== tavern.name) rememberVisit(tavern);
    this.#store.change({ tavern, missing: false });
  }

  /**
   * @param {string} tavernId
   * @param {Channel} channel
   */
  channelCreated(tavernId, channel) {
    const { tavern } = this.#store.state;
    if (tavern?.id !== tavernId || tavern.channels.some(({ id }) => id === channel.id)) return;
    this.#store.change({ tavern: { ...tavern, channels: [...tavern.channels, channel] } });
  }

  /** @param {Omit<Tavern, "channels">} about */
  tavernUpdated(about) {
    const { tavern } = this.#store.state;
    if (tavern?.id === about.id) this.tavernTold({ ...tavern, ...about });
  }

  /**
   * @param {string} tavernId
   * @param {{id: string, name: string}} channel
   */
  channelUpdated(tavernId, { id, name }) {
    this.#changeChannels(tavernId, (channels) => channels.map((one) => (one.id === id ? { ...one, name } : one)));
  }

  /**
   * @param {string} tavernId
   * @param {string} channelId
   */
  channelDeleted(tavernId, channelId) {
    this.#changeChannels(tavernId, (channels) => channels.filter(({ id }) => id !== channelId));
  }

  /**
   * @param {string} tavernId
   * @param {string} channelId
   * @param {import("./messages.js").Peer[]} peers
   */
  presenceChanged(tavernId, channelId, peers) {
    this.#changeChannels(tavernId, (all) => all.map((one) => (one.id === channelId ? { ...one, peers } : one)));
  }

  /**
   * @param {string} tavernId
   * @param {(channels: Channel[]) => Channel[]} change
   */
  #changeChannels(tavernId, change) {
    const { tavern } = this.#store.state;
    if (tavern?.id === tavernId) this.#store.change({ tavern: { ...tavern, channels: change(tavern.channels) } });
  }

  /**
   * Who is outside of a locked tavern may look at it all the same.
   *
   * @returns {boolean} whether it was that what was refused
   */
  watchRefused() {
    const { tavern, tavernId } = this.#store.state;
    if (tavern !== null || tavernId === null || this.#watched !== tavernId) return false;
    this.#signaling.send({ type: "get-tavern-info", tavernId });
    return true;
  }

  /** The server knows no such tavern. */
  notFound() {
    const { tavernId } = this.#store.state;
    if (tavernId !== null) forgetVisit(tavernId);
    this.#store.change({ missing: true, tavern: null });
  }

  /**
   * The tavern to ask for. While we are coming back into a call it is the call's: "Tavern not found" does not say which,
   * and must not be taken for the end of the call when it is about another tavern looked at meanwhile.
   *
   * @returns {string | null}
   */
  get #asked() {
    const { call, tavernId, missing } = this.#store.state;
    if (call && !call.joined) return call.tavern.id;
    if (missing) return null;
    return tavernId ?? call?.tavern.id ?? null;
  }
}
