/**
 * What is going on as a whole: one connection to the server, the tavern looked at, and the call, each told what concerns
 * it. Presses of buttons and messages go in; `onChange` tells the state that comes of them.
 *
 * @typedef {import("./identity.js").Identity} Identity
 * @typedef {import("./messages.js").ServerMessage} ServerMessage
 * @typedef {import("./signaling.js").SignalingState} SignalingState
 * @typedef {import("./state.js").State} State
 */

import { Call } from "./call.js";
import { IceServers } from "./ice.js";
import {
  rememberedName,
  rememberedSettings,
  rememberHidden,
  rememberHidesIn,
  rememberName,
  remembersHidden,
} from "./memory.js";
import { Proof } from "./proof.js";
import { Signaling } from "./signaling.js";
import { stateAtFirst, Store, wireIdentity } from "./state.js";
import { strings } from "./strings.js";
import { Visit } from "./visit.js";

/** Browsers tell of one change of network in several ways. */
const CHANGE_MS = 300;
/** A connection to the server that is gone with its network is not waited for as long as a slow one. */
const CHANGED_ANSWER_MS = 4_000;
/** Errors that nobody has to hear of. */
const NO_MATTER = new Set([
  // Somebody left while a message was on its way.
  "Target peer not found in channel",
  "Join a room before signaling",
  // Another page is in a call, and may stay in it.
  "Another connection has this identity",
]);

export class Session {
  #store;
  #signaling;
  #ice;
  #visit;
  #call;
  #proof;
  #renewAtAnswer = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #changeTimer;
  /** What lets us into a locked tavern. @type {{tavernId: string, token: string} | null} */
  #invitation = null;

  /**
   * @param {object} options
   * @param {string} options.url of the server's WebSocket
   * @param {Identity | null} options.identity
   * @param {string | null} options.notice what is to be said at once
   * @param {string} [options.host] of the server
   * @param {string | null} [options.invite] to the server
   * @param {(state: State) => void} options.onChange
   */
  constructor({ url, identity, notice, host = "", invite = null, onChange }) {
    const remembered = { displayName: rememberedName(), audio: rememberedSettings(), hidden: remembersHidden() };
    this.#store = new Store(stateAtFirst({ identity, notice, ...remembered }), onChange);
    this.#signaling = new Signaling({
      url,
      onMessage: (message) => this.#receive(message),
      onState: (connection) => this.#connectionChanged(connection),
    });
    this.#ice = new IceServers({
      ask: () => this.#signaling.send({ type: "get-ice-servers" }),
      onChange: (servers) => this.#call.mesh.setIceServers(servers),
    });
    this.#visit = new Visit(this.#store, this.#signaling);
    this.#proof = new Proof({ identity, host, invite, send: (message) => this.#signaling.send(message) });
    this.#call = new Call({
      store: this.#store,
      signaling: this.#signaling,
      ice: this.#ice,
      proven: () => this.#proof.settled(),
      invitation: (tavernId) => (tavernId === this.#invitation?.tavernId ? this.#invitation.token : null),
      onMoved: () => this.#visit.look(),
    });
  }

  get state() {
    return this.#store.state;
  }

  start() {
    this.#signaling.connect();
  }

  /** The network is back, or somebody is looking at the page again: no reason to wait any longer. */
  wake() {
    if (this.state.connection === "waiting") this.#signaling.connect();
    else this.#visit.look();
  }

  /** There is another network than before, so that packets may have to go another way. */
  networkChanged() {
    clearTimeout(this.#changeTimer);
    this.#changeTimer = setTimeout(() => {
      this.#renewAtAnswer = true; // before, offers would go into a connection that may be gone with its network
      if (this.state.connection === "waiting") this.#signaling.connect();
      else this.#signaling.probe({ type: "get-ice-servers" }, CHANGED_ANSWER_MS);
    }, CHANGE_MS);
  }

  /** Here rather than there: takes the session back from the page that replaced this one, and goes on with its call. */
  async useHere() {
    this.#signaling.connect();
    await this.#call.takeBack();
  }

  /**
   * Looks at a tavern, or at the front page.
   *
   * @param {string | null} tavernId
   * @param {string | null} [token] lets us in where it is locked
   */
  open(tavernId, token = null) {
    if (tavernId !== null && token !== null) this.#invitation = { tavernId, token };
    if (tavernId === this.state.tavernId) return;
    this.#call.lookedAway();
    this.#visit.open(tavernId);
  }

  /**
   * @param {string} name
   * @param {(tavernId: string) => void} onCreated
   */
  createTavern(name, onCreated) {
    this.#visit.createTavern(name, onCreated);
  }

  /**
   * @param {string} name
   * @returns {boolean} whether it was asked for
   */
  createChannel(name) {
    return this.#visit.createChannel(name);
  }

  /** @param {import("./messages.js").Manage} message */
  manage(message) {
    if (this.#signaling.isOpen) this.#signaling.send(message);
    else this.#store.complain(strings.errors.notConnected);
  }

  /** @param {string} displayName */
  rename(displayName) {
    const trimmed = displayName.trim();
    if (trimmed === this.state.displayName) return;
    rememberName(trimmed);
    this.#store.change({ displayName: trimmed });
    const identity = wireIdentity(this.state);
    if (identity && (this.state.call || this.#call.goal)) this.#signaling.send({ type: "update-identity", identity });
  }

  /**
   * Joins a channel of the tavern looked at. Called in the press of a button.
   *
   * @param {string} channelId
   * @param {{listenOnly?: boolean}} [options]
   */
  join(channelId, options) {
    return this.#call.join(channelId, options);
  }

  /** Not to join after all. */
  cancelJoin() {
    this.#call.cancelJoin();
  }

  leave() {
    this.#call.leave();
  }

  /** @param {string} peer */
  retry(peer) {
    this.#call.mesh.retry(peer);
  }

  /**
   * Somebody goes by a name that was another key's, and is known to be who it is.
   *
   * @param {string} peer
   */
  confirmName(peer) {
    this.#call.people.confirmName(peer);
  }

  /** In a call without a microphone: ask for it again. */
  useMicrophone() {
    return this.#call.useMicrophone();
  }

  /**
   * @param {string} text
   * @returns {boolean} whether somebody gets it
   */
  sendText(text) {
    return this.#call.sendText(text);
  }

  /** @param {boolean} hidden our address, from those we talk with */
  hide(hidden) {
    rememberHidden(hidden);
    this.#store.change({ hidden });
    this.#call.beginAnew();
  }

  /** @param {boolean} hidden the same in the tavern looked at alone */
  hideHere(hidden) {
    const { tavernId, call } = this.state;
    if (tavernId === null) return;
    rememberHidesIn(tavernId, hidden);
    this.#store.change({ hiddenHere: hidden });
    if (call?.tavern.id === tavernId) this.#call.beginAnew();
  }

  /** @returns {Promise<string>} */
  diagnostics() {
    return this.#call.diagnostics();
  }

  get sound() {
    return this.#call.sound;
  }

  dismissNotice() {
    this.#store.change({ notice: null });
  }

  /** @param {SignalingState} connection */
  #connectionChanged(connection) {
    this.#store.change({ connection });
    if (connection === "open") {
      const resumes = this.#call.resume(); // before all else, or it would be too late
      if (!resumes) this.#proof.opened(); // else the proof of before holds
      this.#ice.refresh();
      this.#visit.connectionOpened();
      if (!resumes) void this.#call.enter();
    } else {
      this.#ice.stop();
      this.#visit.connectionLost();
      this.#call.connectionLost();
    }
  }

  /** @param {ServerMessage} message */
  #receive(message) {
    this.#take(message);
    if (!this.#renewAtAnswer || !this.state.call?.joined) return;
    this.#renewAtAnswer = false;
    void this.#call.mesh.renew({ unlessConnected: false });
  }

  /** @param {ServerMessage} message */
  #take(message) {
    switch (message.type) {
      case "welcome":
        return void this.#proof.welcomed(message);
      case "identity-proven":
        return this.#proof.settle();
      case "tavern-updated":
        return this.#visit.tavernUpdated(message.tavern);
      case "channel-updated":
        return this.#visit.channelUpdated(message.tavernId, message.channel);
      case "channel-deleted":
        this.#call.putOut(message.tavernId, message.channelId, strings.manage.channelGone);
        return this.#visit.channelDeleted(message.tavernId, message.channelId);
      case "tavern-deleted":
        this.#call.putOut(message.tavernId, null, strings.manage.tavernGone);
        return message.tavernId === this.state.tavernId ? this.#visit.notFound() : undefined;
      case "kicked": {
        const { tavernId, channelId, reason, banned } = message;
        return this.#call.putOut(tavernId, channelId, strings.manage.putOut(banned, reason));
      }
      case "invite-created":
        return this.#store.change({ invitation: { tavernId: message.tavernId, token: message.token } });
      case "tavern-created":
        return this.#visit.tavernCreated(message.tavern);
      case "presence-changed":
        return this.#visit.presenceChanged(message.tavernId, message.channelId, message.peers);
      case "tavern-watched":
      case "tavern-info":
        return this.#visit.tavernTold(message.tavern);
      case "channel-created":
        return this.#visit.channelCreated(message.tavernId, message.channel);
      case "channel-joined":
        return this.#call.joined({ tavernId: message.tavernId, channelId: message.channelId }, message.peers);
      case "peer-joined-channel":
        return this.#call.peerJoined(message, message.peer);
      case "resume-token":
        return this.#call.tokenGiven(message.token);
      case "resumed":
        return void this.#call.resumed(message, message.peers, message.continued);
      case "peer-resumed":
        return void this.#call.peerResumed(message, message.peer);
      case "peer-left-channel":
        return this.#call.peerLeft(message, message.publicKeyHex);
      case "peer-identity-updated":
        return this.#call.people.renamed(message.peerId, message.identity.displayName?.trim() || message.identity.tag);
      case "offer":
        return this.#call.mesh.receiveOffer(message.from, message.sdp, message.signature);
      case "answer":
        return this.#call.mesh.receiveAnswer(message.from, message.sdp, message.signature);
      case "ice-candidate":
        return this.#call.mesh.receiveCandidate(message.from, message.candidate);
      case "ice-servers":
        return this.#ice.given(message.iceServers, message.expiresAt);
      case "session-replaced":
        this.#call.replaced();
        return this.dismissNotice();
      case "server-shutdown":
        return; // the connection closes next, and comes back by itself
      case "error":
        return this.#refused(message.message, message.code);
    }
  }

  /**
   * @param {string} message
   * @param {string} code
   */
  #refused(message, code) {
    if (NO_MATTER.has(message)) return;
    if (code.startsWith("proof-") || code === "identity-in-use") this.#proof.settle();
    if ((code === "tavern-locked" || code === "banned") && this.#visit.watchRefused()) return;
    if (code === "resume-failed") {
      this.#proof.opened();
      void this.#call.enter();
      return;
    }
    const goal = this.#call.goal;
    this.#store.change({ creating: false });
    if (message === "rate-limited" && goal) {
      this.#call.enterLater();
      return;
    }
    const { tavernId } = this.state;
    const missing = message === "Tavern not found" && tavernId !== null && (!goal || goal.tavern.id === tavernId);
    if (missing) this.#visit.notFound();
    if (goal) this.#call.refused();
    else if (missing) return; // the page says so in full
    this.#store.complain(strings.serverError(message, code));
  }
}
