/**
 * The call: the way into a channel and out of it, who else is there, and coming back when the connection or the place was
 * lost.
 *
 * @typedef {import("./ice.js").IceServers} IceServers
 * @typedef {import("./messages.js").Peer} Peer
 * @typedef {import("./mesh.js").Place} Place
 * @typedef {import("./signaling.js").Signaling} Signaling
 * @typedef {import("./state.js").Seat} Seat
 * @typedef {import("./state.js").Store} Store
 *
 * @typedef {object} CallOptions
 * @property {Store} store
 * @property {Signaling} signaling
 * @property {IceServers} ice
 * @property {() => Promise<void>} proven returns when the server knows our key, or will not
 * @property {(tavernId: string) => string | null} invitation to a locked tavern
 * @property {() => void} onMoved we are somewhere else now, or nowhere
 */

import { describe } from "./diagnostics.js";
import { hidesIn, signers } from "./memory.js";
import { Mesh } from "./mesh.js";
import { Recognition } from "./recognition.js";
import { Returning } from "./returning.js";
import { Sound } from "./sound.js";
import { memberAtFirst, wireIdentity } from "./state.js";
import { Vouching } from "./vouching.js";

/** What is shown of what was written. */
const MOST_WRITTEN = 200;
/** How often it is looked how the connections do. */
const LOOK_MS = 3_000;
/** After the server asked us to slow down. */
const SLOWER_MS = 3_000;

export class Call {
  sound;
  mesh;
  people;
  #returning;
  #store;
  #signaling;
  #ice;
  #onMoved;
  #proven;
  #invitation;
  /** Counts up with each press that makes what an earlier one waits for obsolete. */
  #attempt = 0;
  /** Counts up with each time that we set out to ask to be let in. */
  #entry = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #slowTimer;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #lookTimer;
  /** Where we asked to be let in; what we had before stays ours until the server says yes. @type {Seat | null} */
  #wanted = null;
  /** The call that another page took over. @type {Seat | null} */
  #replaced = null;

  /** @param {CallOptions} options */
  constructor({ store, signaling, ice, proven, invitation, onMoved }) {
    this.#store = store;
    this.#signaling = signaling;
    this.#ice = ice;
    this.#onMoved = onMoved;
    this.#proven = proven;
    this.#invitation = invitation;
    this.people = new Recognition(store);
    this.sound = new Sound(store, (track) => this.mesh.setTrack(track));
    const { identity } = store.state;
    this.mesh = new Mesh({
      self: identity?.publicKeyHex ?? "",
      vouching: new Vouching({ self: identity?.publicKeyHex ?? "", sign: identity?.sign ?? null, signers }),
      onTrust: (peer, trust) => void this.people.trusted(peer, trust),
      stream: this.sound.voice,
      send: (message) => signaling.send(message),
      drop: (target) => signaling.drop(target),
      iceServers: () => ice.fresh(),
      relayOnly: () => store.state.hidden || hidesIn(store.state.call?.tavern.id ?? ""),
      onState: (peer, state, trouble) => store.changeMember(peer, { state, trouble }),
      onTrack: (peer, track) => this.sound.play(peer, track),
      onGone: (peer) => this.sound.silence(peer),
      onText: (peer, text) => this.#write(peer, store.state.members.get(peer)?.displayName ?? "", text),
      onReads: (peer, reads) => store.changeMember(peer, { reads }),
    });
    this.#returning = new Returning({ store, send: (message) => signaling.send(message), mesh: this.mesh });
  }

  /** Where we are to be: asked for just now, or lost with the connection. */
  get goal() {
    const { call } = this.#store.state;
    return this.#wanted ?? (call?.joined === false ? call : null);
  }

  /**
   * Joins a channel of the tavern looked at. Called in the press of a button.
   *
   * @param {string} channelId
   * @param {{listenOnly?: boolean}} [options]
   */
  async join(channelId, { listenOnly = false } = {}) {
    const { tavern, identity } = this.#store.state;
    const channel = tavern?.channels.find(({ id }) => id === channelId);
    if (!tavern || !channel || !identity) return;
    this.sound.unlock();
    const attempt = ++this.#attempt;
    this.#store.change({ joining: channelId, asking: !listenOnly, microphone: null, notice: null });
    if (!listenOnly) {
      const trouble = await this.sound.openMicrophone();
      if (attempt !== this.#attempt) return;
      this.#store.change({ asking: false, microphone: trouble });
      if (trouble) return;
    }
    void this.sound.speak();
    this.#wanted = { tavern, channelId, channelName: channel.name, joined: false };
    await this.enter();
  }

  /** Not to join after all. */
  cancelJoin() {
    const { call, listening } = this.#store.state;
    if (!call) {
      this.#hangUp();
      return;
    }
    this.#attempt += 1;
    this.#wanted = null;
    if (listening) this.sound.closeMicrophone();
    this.#store.change({ joining: null, asking: false, microphone: null });
  }

  /** The tavern looked at is another: a join that got no further than the microphone is over. */
  lookedAway() {
    if (this.#store.state.joining !== null && !this.#wanted) this.cancelJoin();
  }

  /** In a call without a microphone: ask for it again. */
  async useMicrophone() {
    const trouble = await this.sound.openMicrophone();
    if (!this.#store.state.call) return;
    if (trouble) this.#store.change({ microphone: trouble });
    else await this.sound.speak();
  }

  leave() {
    const { call } = this.#store.state;
    if (call) {
      this.#signaling.send({ type: "leave-channel", tavernId: call.tavern.id, channelId: call.channelId });
    }
    this.#hangUp();
    this.#onMoved();
  }

  /**
   * Asks for the place that was lost with the connection.
   *
   * @returns {boolean} whether there is one to ask for
   */
  resume() {
    return this.#returning.ask(!this.#wanted && this.#store.state.call?.joined === false);
  }

  /** @param {string} token */
  tokenGiven(token) {
    if (this.#store.state.call) this.#returning.tokenGiven(token);
  }

  /**
   * We have our place again, and keep the connections that work.
   *
   * @param {Place} place
   * @param {Peer[]} peers who is there now
   * @param {boolean} continued false: the server is another one, which knows nobody's allocations, and to which others
   *   come back as we do
   */
  async resumed(place, peers, continued) {
    const { call, identity } = this.#store.state;
    if (!call || !isIn(call, place)) {
      this.#notWanted(place);
      return;
    }
    this.#store.change({ call: { ...call, joined: true }, joining: null });
    this.#returning.compare(peers, continued);
    await this.#ice.fresh();
    const others = peers.filter(({ publicKeyHex }) => publicKeyHex !== identity?.publicKeyHex);
    for (const peer of others) await this.#returning.greet(peer, continued);
    this.#onMoved();
  }

  /**
   * Somebody came back to a server that is another one than before.
   *
   * @param {Place} place
   * @param {Peer} peer
   */
  async peerResumed(place, peer) {
    if (!this.#isHere(place) || peer.publicKeyHex === this.#store.state.identity?.publicKeyHex) return;
    await this.#ice.fresh();
    await this.#returning.greet(peer, false);
  }

  /** Asks to be let in, with credentials for the relay at hand. Without a connection the next `open` comes back to it. */
  async enter() {
    clearTimeout(this.#slowTimer);
    const goal = this.goal;
    if (!goal || !this.#signaling.isOpen) return;
    const entry = ++this.#entry;
    await Promise.all([this.#ice.fresh(), this.#proven()]);
    const identity = wireIdentity(this.#store.state);
    if (entry !== this.#entry || this.goal !== goal || !identity) return;
    const invite = this.#invitation(goal.tavern.id);
    const where = { tavernId: goal.tavern.id, channelId: goal.channelId };
    this.#signaling.send({ type: "join-channel", ...where, identity, ...(invite === null ? {} : { invite }) });
  }

  /** The server listens to less: perhaps it was the wish to be let in that was not heard. */
  enterLater() {
    clearTimeout(this.#slowTimer);
    this.#slowTimer = setTimeout(() => void this.enter(), SLOWER_MS);
  }

  /** The server does not let us in: we stay where we were, if we were anywhere. */
  refused() {
    this.#wanted = null;
    this.#store.change({ joining: null });
    if (!this.#store.state.call?.joined) this.#hangUp();
  }

  /**
   * We were put out, or the place is gone.
   *
   * @param {string} tavernId
   * @param {string | null} channelId null: whichever of the tavern
   * @param {string} words what is to be said
   */
  putOut(tavernId, channelId, words) {
    const { call } = this.#store.state;
    if (call?.tavern.id !== tavernId || (channelId !== null && call.channelId !== channelId)) return;
    this.#hangUp();
    this.#store.complain(words);
    this.#onMoved();
  }

  /** Voices that flow directly go on without the server; where we cannot resume, `joined` builds them anew. */
  connectionLost() {
    const { call } = this.#store.state;
    if (call?.joined) this.#store.change({ call: { ...call, joined: false } });
  }

  /** Another page has the call now. What is wanted back by "use here" is remembered, without its sound. */
  replaced() {
    this.#replaced = this.#store.state.call;
    this.#hangUp();
  }

  /** The call that another page took over, back to this one. Called in the press of a button. */
  async takeBack() {
    const call = this.#replaced;
    this.#replaced = null;
    this.sound.unlock();
    if (!call) return;
    const attempt = ++this.#attempt;
    const trouble = await this.sound.openMicrophone();
    if (attempt !== this.#attempt) return;
    void this.sound.speak();
    this.#store.change({ call: { ...call, joined: false }, microphone: trouble });
    await this.enter();
  }

  /**
   * The server let us in.
   *
   * @param {Place} place
   * @param {Peer[]} peers
   */
  joined(place, peers) {
    const seat = [this.#wanted, this.#store.state.call].find((one) => one && isIn(one, place));
    if (!seat) {
      this.#notWanted(place);
      return;
    }
    if (seat.joined) return; // told twice, since we asked twice: the others know of one of us
    this.#wanted = null;
    const self = this.#store.state.identity?.publicKeyHex;
    const others = peers.filter(({ publicKeyHex }) => publicKeyHex !== self);
    const members = new Map(others.map((peer) => [peer.publicKeyHex, memberAtFirst(peer)]));
    this.#store.change({ call: { ...seat, joined: true }, members, joining: null });
    this.mesh.enter(place, [...members.keys()]);
    this.#signaling.send({ type: "get-resume-token" });
    void this.#lookAtConnections();
    this.#onMoved();
  }

  /**
   * @param {Place} place
   * @param {Peer} peer
   */
  peerJoined(place, peer) {
    if (!this.#isHere(place) || peer.publicKeyHex === this.#store.state.identity?.publicKeyHex) return;
    this.#returning.seen(peer.publicKeyHex);
    this.#store.setMember(memberAtFirst(peer));
    this.mesh.peerJoined(peer.publicKeyHex);
  }

  /**
   * @param {Place} place
   * @param {string} peer
   */
  peerLeft(place, peer) {
    if (!this.#isHere(place)) return;
    this.mesh.peerLeft(peer);
    this.#store.removeMember(peer);
  }

  /** Our address is hidden by now, or no longer: the pairs there are begin anew. */
  beginAnew() {
    const { call } = this.#store.state;
    if (!call?.joined) return;
    this.#signaling.send({ type: "leave-channel", tavernId: call.tavern.id, channelId: call.channelId });
    this.#store.change({ call: { ...call, joined: false } });
    void this.enter();
  }

  /** @returns {Promise<string>} see `describe` */
  async diagnostics() {
    return describe(this.#store.state, await this.mesh.stats(), this.#ice.current);
  }

  /**
   * @param {string} text
   * @returns {boolean} whether somebody gets it
   */
  sendText(text) {
    const { identity, displayName } = this.#store.state;
    if (!identity || !this.mesh.sendText(text)) return false;
    this.#write(identity.publicKeyHex, displayName || identity.tag, text, true);
    return true;
  }

  /**
   * @param {string} key
   * @param {string} name
   * @param {string} text
   * @param {boolean} [own]
   */
  #write(key, name, text, own = false) {
    const { written } = this.#store.state;
    const number = (written.at(-1)?.number ?? 0) + 1;
    this.#store.change({ written: [...written, { number, key, name, text, at: Date.now(), own }].slice(-MOST_WRITTEN) });
  }

  /** How the connections do, now and then again while there is a call. */
  async #lookAtConnections() {
    clearTimeout(this.#lookTimer);
    for (const [peer, stats] of await this.mesh.stats()) this.#store.changeMember(peer, { stats });
    if (this.#store.state.call) this.#lookTimer = setTimeout(() => void this.#lookAtConnections(), LOOK_MS);
  }

  /** @param {Place} place */
  #isHere(place) {
    const { call } = this.#store.state;
    return call !== null && call.joined && isIn(call, place);
  }

  /**
   * We were let in where we no longer want to be: out again, and back to where we were.
   *
   * @param {Place} place
   */
  #notWanted({ tavernId, channelId }) {
    this.#signaling.send({ type: "leave-channel", tavernId, channelId });
    const { call } = this.#store.state;
    if (!call) return;
    this.#store.change({ call: { ...call, joined: false } });
    void this.enter();
  }

  /** The call is over on this side. */
  #hangUp() {
    this.#attempt += 1;
    this.#wanted = null;
    clearTimeout(this.#slowTimer);
    clearTimeout(this.#lookTimer);
    this.#returning.stop();
    this.mesh.close();
    this.sound.stop();
    this.#store.change({
      call: null,
      members: new Map(),
      joining: null,
      asking: false,
      microphone: null,
      listening: false,
      speaking: false,
      written: [],
    });
  }
}

/**
 * @param {Seat} seat
 * @param {Place} place
 * @returns {boolean}
 */
function isIn({ tavern, channelId }, place) {
  return tavern.id === place.tavernId && channelId === place.channelId;
}
