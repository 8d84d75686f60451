/**
 * What is going on, in one place: which tavern is looked at, where we are talking, with whom, and what is in the way.
 * It turns presses of buttons and messages into changes of `state`, and tells `onChange` of each.
 *
 * @typedef {import("./identity.js").Identity} Identity
 * @typedef {import("./messages.js").ServerMessage} ServerMessage
 * @typedef {import("./messages.js").Channel} Channel
 * @typedef {import("./messages.js").Peer} Peer
 * @typedef {import("./messages.js").Tavern} Tavern
 * @typedef {import("./messages.js").WireIdentity} WireIdentity
 * @typedef {import("./mesh.js").PairState} PairState
 * @typedef {import("./mesh.js").PairTrouble} PairTrouble
 * @typedef {import("./signaling.js").SignalingState} SignalingState
 * @typedef {import("./audio.js").MicrophoneTrouble} MicrophoneTrouble
 *
 * @typedef {Peer & {state: PairState, trouble: PairTrouble | null, speaking: boolean}} Member
 * @typedef {{kind: "problem" | "news", text: string}} Notice
 *
 * @typedef {object} Call where we are, or want to be again as soon as the connection is back
 * @property {Tavern} tavern
 * @property {string} channelId
 * @property {string} channelName
 * @property {boolean} joined
 *
 * @typedef {object} State
 * @property {SignalingState} connection
 * @property {Identity | null} identity null where the browser gives none (not a secure context)
 * @property {string} displayName
 * @property {string | null} tavernId the tavern looked at
 * @property {Tavern | null} tavern null until the server told
 * @property {boolean} missing the server knows no such tavern
 * @property {Call | null} call
 * @property {Map<string, Member>} members the others in the call
 * @property {string | null} joining the channel that a press of a button is about
 * @property {boolean} asking the browser is asking for the microphone
 * @property {boolean} creating a tavern is being made
 * @property {MicrophoneTrouble | "lost" | null} microphone what keeps us from it
 * @property {boolean} listening in the call without a microphone
 * @property {boolean} muted
 * @property {boolean} speaking
 * @property {boolean} soundBlocked
 * @property {Notice | null} notice
 */

import { Levels, Microphone, Playback } from "./audio.js";
import { IceServers } from "./ice.js";
import { forgetVisit, rememberedName, rememberName, rememberVisit } from "./memory.js";
import { Mesh } from "./mesh.js";
import { Signaling } from "./signaling.js";
import { strings } from "./strings.js";

/** Presence comes to members of a channel by itself; who only looks has to ask. */
const LOOK_MS = 5_000;
/** In a call the same question tells whether the connection is alive, and who is in the other channels. */
const CALL_LOOK_MS = 15_000;
/** After the server asked us to slow down. */
const SLOWER_MS = 3_000;
/** In `Levels`, our own voice. */
const SELF = "";

export class Session {
  #onChange;
  #signaling;
  #ice;
  #mesh;
  #microphone;
  #playback;
  #levels;
  #voice = new MediaStream();
  #changed = false;
  #attempt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #lookTimer;
  /** @type {((tavernId: string) => void) | null} */
  #created = null;
  /** Where we asked to be let in; what we had before stays ours until the server says yes. @type {Call | null} */
  #wanted = null;
  /** The call that another page took over. @type {Call | null} */
  #replaced = null;

  /**
   * @param {object} options
   * @param {string} options.url of the server's WebSocket
   * @param {Identity | null} options.identity
   * @param {string | null} options.notice what is to be said at once
   * @param {(state: State) => void} options.onChange
   */
  constructor({ url, identity, notice, onChange }) {
    this.#onChange = onChange;
    /** @type {State} */
    this.state = {
      connection: "connecting",
      identity,
      displayName: rememberedName(),
      tavernId: null,
      tavern: null,
      missing: false,
      call: null,
      members: new Map(),
      joining: null,
      asking: false,
      creating: false,
      microphone: identity ? null : "insecure",
      listening: false,
      muted: false,
      speaking: false,
      soundBlocked: false,
      notice: notice === null ? null : { kind: "news", text: notice },
    };
    this.#levels = new Levels((who, speaking) => {
      const member = this.state.members.get(who);
      if (who === SELF) this.#change({ speaking });
      else if (member) this.#setMember({ ...member, speaking });
    });
    this.#microphone = new Microphone(() => this.#microphoneLost());
    this.#playback = new Playback((soundBlocked) => this.#change({ soundBlocked }));
    this.#signaling = new Signaling({
      url,
      onMessage: (message) => this.#receive(message),
      onState: (connection) => this.#connectionChanged(connection),
    });
    this.#ice = new IceServers({
      ask: () => this.#signaling.send({ type: "get-ice-servers" }),
      onChange: (servers) => this.#mesh.setIceServers(servers),
    });
    this.#mesh = new Mesh({
      self: identity?.publicKeyHex ?? "",
      stream: this.#voice,
      send: (message) => this.#signaling.send(message),
      drop: (target) => this.#signaling.drop(target),
      iceServers: () => this.#ice.fresh(),
      onState: (peer, state, trouble) => {
        const member = this.state.members.get(peer);
        if (member) this.#setMember({ ...member, state, trouble });
      },
      onTrack: (peer, track) => {
        const stream = new MediaStream([track]);
        this.#playback.play(peer, stream);
        this.#levels.watch(peer, stream);
      },
      onGone: (peer) => {
        this.#playback.stop(peer);
        this.#levels.forget(peer);
      },
    });
  }

  start() {
    this.#signaling.connect();
  }

  /** The network is back, or somebody is looking at the page again: no reason to wait any longer. */
  wake() {
    if (this.state.connection === "waiting") this.#signaling.connect();
    else this.#look();
  }

  /** Here rather than there: takes the session back from the page that replaced this one, and goes on with its call. */
  async useHere() {
    const call = this.#replaced;
    this.#replaced = null;
    this.#levels.unlock();
    this.#signaling.connect();
    if (!call) return;
    const trouble = await this.#microphone.open();
    this.#useMicrophone();
    this.#change({ call: { ...call, joined: false }, microphone: trouble });
    await this.#enter();
  }

  /**
   * Looks at a tavern, or at the front page.
   *
   * @param {string | null} tavernId
   */
  open(tavernId) {
    if (tavernId === this.state.tavernId) return;
    const { notice } = this.state;
    this.#change({ tavernId, tavern: null, missing: false, notice: notice?.kind === "news" ? notice : null });
    this.#look();
  }

  /**
   * @param {string} name
   * @param {(tavernId: string) => void} created
   */
  createTavern(name, created) {
    if (!this.#signaling.isOpen) {
      this.#change({ notice: { kind: "problem", text: strings.errors.notConnected } });
      return;
    }
    this.#created = created;
    this.#change({ creating: true, notice: null });
    const identity = this.#wireIdentity();
    if (identity) this.#signaling.send({ type: "update-identity", identity }); // whose tavern it is
    this.#signaling.send({ type: "create-tavern", name });
  }

  /** @param {string} name */
  createChannel(name) {
    const { tavernId } = this.state;
    if (tavernId === null) return;
    this.#change({ notice: null });
    this.#signaling.send({ type: "create-channel", tavernId, name });
  }

  /**
   * @param {string} displayName
   */
  rename(displayName) {
    const trimmed = displayName.trim();
    if (trimmed === this.state.displayName) return;
    rememberName(trimmed);
    this.#change({ displayName: trimmed });
    const identity = this.#wireIdentity();
    if (identity && this.state.call?.joined) this.#signaling.send({ type: "update-identity", identity });
  }

  /**
   * Joins a channel of the tavern looked at. Called in the press of a button.
   *
   * @param {string} channelId
   * @param {{listenOnly?: boolean}} [options]
   */
  async join(channelId, { listenOnly = false } = {}) {
    const tavern = this.state.tavern;
    const channel = tavern?.channels.find(({ id }) => id === channelId);
    if (!tavern || !channel || !this.state.identity) return;
    this.#levels.unlock();
    const attempt = ++this.#attempt;
    this.#change({ joining: channelId, microphone: null, notice: null });
    if (!listenOnly) {
      this.#change({ asking: true });
      const trouble = await this.#microphone.open();
      this.#change({ asking: false });
      if (attempt !== this.#attempt) {
        if (!this.state.call && this.state.joining === null) this.#microphone.close();
        return;
      }
      if (trouble) {
        this.#change({ microphone: trouble });
        return;
      }
    }
    this.#useMicrophone();
    this.#wanted = { tavern, channelId, channelName: channel.name, joined: false };
    await this.#enter();
  }

  /** Not to join after all. */
  cancelJoin() {
    if (!this.state.call) {
      this.#hangUp();
      return;
    }
    this.#attempt += 1;
    this.#wanted = null;
    this.#change({ joining: null, microphone: null });
  }

  /** In a call without a microphone: ask for it again. */
  async useMicrophone() {
    const trouble = await this.#microphone.open();
    if (trouble) this.#change({ microphone: trouble });
    else if (this.state.call) this.#useMicrophone();
    else this.#microphone.close();
  }

  leave() {
    const { call } = this.state;
    if (call) {
      this.#signaling.send({ type: "leave-channel", tavernId: call.tavern.id, channelId: call.channelId });
    }
    this.#hangUp();
    this.#look();
  }

  /** @param {boolean} muted */
  mute(muted) {
    this.#microphone.mute(muted);
    this.#change({ muted });
  }

  /** @param {string} peer */
  retry(peer) {
    this.#mesh.retry(peer);
  }

  unblockSound() {
    this.#levels.unlock();
    void this.#playback.unblock();
  }

  dismissNotice() {
    this.#change({ notice: null });
  }

  /** @param {Partial<State>} changes */
  #change(changes) {
    this.state = { ...this.state, ...changes };
    if (this.#changed) return;
    this.#changed = true;
    queueMicrotask(() => {
      this.#changed = false;
      this.#onChange(this.state);
    });
  }

  /** @param {Member} member */
  #setMember(member) {
    this.#change({ members: new Map(this.state.members).set(member.publicKeyHex, member) });
  }

  /** @returns {WireIdentity | null} */
  #wireIdentity() {
    const { identity, displayName } = this.state;
    return identity && { publicKeyHex: identity.publicKeyHex, tag: identity.tag, displayName: displayName || null };
  }

  #useMicrophone() {
    const track = this.#microphone.track;
    for (const old of this.#voice.getTracks()) this.#voice.removeTrack(old);
    if (track) {
      this.#voice.addTrack(track);
      this.#levels.watch(SELF, this.#voice);
    }
    this.#mesh.setTrack(track);
    this.#change({ listening: track === null, microphone: null });
  }

  #microphoneLost() {
    this.#levels.forget(SELF);
    this.#mesh.setTrack(null);
    if (this.state.call) this.#change({ microphone: "lost", listening: true });
  }

  /** Where we are to be: asked for just now, or lost with the connection. */
  get #goal() {
    const { call } = this.state;
    return this.#wanted ?? (call?.joined === false ? call : null);
  }

  /** Asks to be let in, with credentials for the relay at hand. Without a connection `open` comes back to it. */
  async #enter() {
    const goal = this.#goal;
    if (!goal || !this.#signaling.isOpen) return;
    await this.#ice.fresh();
    const identity = this.#wireIdentity();
    if (!identity || this.#goal !== goal) return;
    this.#signaling.send({ type: "join-channel", tavernId: goal.tavern.id, channelId: goal.channelId, identity });
  }

  /** The call is over on this side. */
  #hangUp() {
    this.#attempt += 1;
    this.#wanted = null;
    this.#mesh.close();
    this.#mesh.setTrack(null);
    this.#levels.forget(SELF);
    this.#microphone.close();
    this.#change({ call: null, members: new Map(), joining: null, microphone: null, listening: false, speaking: false });
  }

  /** @param {SignalingState} connection */
  #connectionChanged(connection) {
    this.#change({ connection });
    if (connection === "open") {
      this.#change({ missing: false }); // it may be another server by now, or one whose database is back
      this.#ice.refresh();
      this.#look();
      void this.#enter();
      return;
    }
    const { call } = this.state;
    if (call?.joined) this.#change({ call: { ...call, joined: false } });
    this.#ice.stop();
    clearTimeout(this.#lookTimer);
    // Voices that flow directly go on without the server; `channel-joined` builds them anew when it is back.
    if (this.state.creating) this.#change({ creating: false });
  }

  /** Asks how the tavern looked at is, now and then again. */
  #look() {
    clearTimeout(this.#lookTimer);
    const { call, tavernId, missing } = this.state;
    const asked = missing ? undefined : (tavernId ?? call?.tavern.id);
    if (asked !== undefined && this.#signaling.isOpen && (call || document.visibilityState === "visible")) {
      this.#signaling.probe({ type: "get-tavern-info", tavernId: asked });
    }
    this.#lookTimer = setTimeout(() => this.#look(), call ? CALL_LOOK_MS : LOOK_MS);
  }

  /** @param {ServerMessage} message */
  #receive(message) {
    switch (message.type) {
      case "tavern-created":
        rememberVisit(message.tavern);
        this.#change({ creating: false });
        this.#created?.(message.tavern.id);
        this.#created = null;
        return;
      case "tavern-info":
        if (message.tavern.id !== this.state.tavernId) return;
        if (this.state.tavern?.name !== message.tavern.name) rememberVisit(message.tavern);
        this.#change({ tavern: message.tavern, missing: false });
        return;
      case "channel-created":
        this.#channelCreated(message.tavernId, message.channel);
        return;
      case "channel-joined":
        this.#joined(message.tavernId, message.channelId, message.peers);
        return;
      case "peer-joined-channel":
        if (!this.#isHere(message) || message.peer.publicKeyHex === this.state.identity?.publicKeyHex) return;
        this.#setMember({ ...message.peer, state: "connecting", trouble: null, speaking: false });
        this.#mesh.peerJoined(message.peer.publicKeyHex);
        return;
      case "peer-left-channel": {
        if (!this.#isHere(message)) return;
        this.#mesh.peerLeft(message.publicKeyHex);
        const members = new Map(this.state.members);
        members.delete(message.publicKeyHex);
        this.#change({ members });
        return;
      }
      case "peer-identity-updated": {
        const member = this.state.members.get(message.peerId);
        const { displayName, tag } = message.identity;
        if (member) this.#setMember({ ...member, displayName: displayName?.trim() || tag || member.tag });
        return;
      }
      case "offer":
        this.#mesh.receiveOffer(message.from, message.sdp);
        return;
      case "answer":
        this.#mesh.receiveAnswer(message.from, message.sdp);
        return;
      case "ice-candidate":
        this.#mesh.receiveCandidate(message.from, message.candidate);
        return;
      case "ice-servers":
        this.#ice.given(message.iceServers, message.expiresAt);
        return;
      case "session-replaced": {
        // The other page has the call now. What is wanted back by "use here" is remembered, without its sound.
        this.#replaced = this.state.call;
        this.#hangUp();
        this.#change({ notice: null });
        return;
      }
      case "server-shutdown":
        return; // the connection closes next, and comes back by itself
      case "error":
        this.#refused(message.message, message.code);
        return;
    }
  }

  /** @param {{tavernId: string, channelId: string}} place */
  #isHere({ tavernId, channelId }) {
    const { call } = this.state;
    return call !== null && call.joined && call.tavern.id === tavernId && call.channelId === channelId;
  }

  /**
   * @param {string} tavernId
   * @param {Channel} channel
   */
  #channelCreated(tavernId, channel) {
    const { tavern } = this.state;
    if (tavern?.id !== tavernId || tavern.channels.some(({ id }) => id === channel.id)) return;
    this.#change({ tavern: { ...tavern, channels: [...tavern.channels, channel] } });
  }

  /**
   * @param {string} tavernId
   * @param {string} channelId
   * @param {Peer[]} peers
   */
  #joined(tavernId, channelId, peers) {
    const call = [this.#wanted, this.state.call].find(
      (goal) => goal?.tavern.id === tavernId && goal.channelId === channelId,
    );
    if (!call) {
      this.#notWanted(tavernId, channelId);
      return;
    }
    this.#wanted = null;
    const others = peers.filter(({ publicKeyHex }) => publicKeyHex !== this.state.identity?.publicKeyHex);
    const members = new Map(
      others.map((peer) => [
        peer.publicKeyHex,
        /** @type {Member} */ ({ ...peer, state: "connecting", trouble: null, speaking: false }),
      ]),
    );
    this.#change({ call: { ...call, joined: true }, members, joining: null });
    this.#mesh.enter({ tavernId, channelId }, [...members.keys()]);
    this.#look();
  }

  /**
   * We were let in where we no longer want to be: out again, and back to where we were.
   *
   * @param {string} tavernId
   * @param {string} channelId
   */
  #notWanted(tavernId, channelId) {
    this.#signaling.send({ type: "leave-channel", tavernId, channelId });
    const { call } = this.state;
    if (!call) return;
    this.#change({ call: { ...call, joined: false } });
    void this.#enter();
  }

  /**
   * @param {string} message
   * @param {string} code
   */
  #refused(message, code) {
    const text = strings.serverError(message, code);
    switch (message) {
      case "Target peer not found in channel":
      case "Join a room before signaling":
        return; // somebody left while a message was on its way
      case "Another connection has this identity":
        return; // another page is in a call, and may stay in it
      case "rate-limited":
        if (!this.#goal) break;
        setTimeout(() => void this.#enter(), SLOWER_MS); // perhaps it was the wish to be let in that was not heard
        return;
      case "Tavern not found": {
        const { tavernId } = this.state;
        if (tavernId === null || (this.#goal && this.#goal.tavern.id !== tavernId)) break;
        forgetVisit(tavernId);
        this.#change({ missing: true, tavern: null });
      }
    }
    const { call } = this.state;
    if (this.#goal) {
      this.#wanted = null;
      this.#change({ joining: null });
      if (!call?.joined) this.#hangUp();
    } else if (this.state.missing) {
      return; // the page says so in full
    }
    this.#change({ creating: false, notice: { kind: "problem", text } });
  }
}
