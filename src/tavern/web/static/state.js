/**
 * What the page knows, in one place, for the view to show.
 *
 * @typedef {import("./identity.js").Identity} Identity
 * @typedef {import("./link.js").PairState} PairState
 * @typedef {import("./messages.js").Peer} Peer
 * @typedef {import("./messages.js").Tavern} Tavern
 * @typedef {import("./messages.js").WireIdentity} WireIdentity
 * @typedef {import("./microphone.js").MicrophoneTrouble} MicrophoneTrouble
 * @typedef {import("./link.js").Trouble} Trouble
 * @typedef {import("./pair-stats.js").PairStats} PairStats
 * @typedef {import("./signaling.js").SignalingState} SignalingState
 *
 * @typedef {import("./vouching.js").Trust} Trust
 *
 * `trust`: null until something came of them. `safety`: the number to compare. `otherBefore`: the name was another key's.
 * @typedef {Peer & {state: PairState, trouble: Trouble | null, speaking: boolean, trust: Trust | null,
 *   safety: string | null, otherBefore: boolean, stats: PairStats | null, volume: number, reads: boolean}} Member
 *
 * `reads` of a member: whether what is written reaches them. `number` counts up.
 * @typedef {{number: number, key: string, name: string, text: string, at: number, own: boolean}} Written
 * @typedef {{kind: "problem" | "news", text: string}} Notice
 *
 * @typedef {object} Seat where we are, or want to be again as soon as the connection is back
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
 * @property {Seat | null} call
 * @property {Map<string, Member>} members the others in the call
 * @property {string | null} joining the channel that a press of a button is about
 * @property {boolean} asking the browser is asking for the microphone
 * @property {boolean} creating a tavern is being made
 * @property {MicrophoneTrouble | "lost" | null} microphone what keeps us from it
 * @property {boolean} listening in the call without a microphone
 * @property {boolean} muted
 * @property {{tavernId: string, token: string} | null} invitation the last one that was made here
 * @property {boolean} hidden our address, from those we talk with
 * @property {boolean} hiddenHere the same in the tavern looked at
 * @property {Written[]} written in the channel, since we came
 * @property {boolean} deafened
 * @property {boolean} pushing the key or button to talk is held
 * @property {number} level how loud our voice is at the gate
 * @property {import("./audio-settings.js").AudioSettings} audio
 * @property {import("./devices.js").Devices} devices
 * @property {boolean} speaking
 * @property {boolean} soundBlocked
 * @property {Notice | null} notice
 */

import { SETTINGS_AT_FIRST } from "./audio-settings.js";
import { volumeOf } from "./memory.js";

/**
 * @param {{identity: Identity | null, displayName: string, notice: string | null,
 *   audio?: import("./audio-settings.js").AudioSettings, hidden?: boolean}} known from the start
 * @returns {State}
 */
export function stateAtFirst({ identity, displayName, notice, audio = SETTINGS_AT_FIRST, hidden = false }) {
  return {
    connection: "connecting",
    identity,
    displayName,
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
    invitation: null,
    hidden,
    hiddenHere: false,
    written: [],
    deafened: false,
    pushing: false,
    level: 0,
    audio,
    devices: { inputs: [], outputs: [] },
    speaking: false,
    soundBlocked: false,
    notice: notice === null ? null : { kind: "news", text: notice },
  };
}

/**
 * Somebody in our channel of whom nothing has come yet.
 *
 * @param {Peer} peer
 * @returns {Member}
 */
export function memberAtFirst(peer) {
  const unknown = { trust: null, safety: null, otherBefore: false, stats: null, reads: false };
  return { ...peer, ...unknown, volume: volumeOf(peer.publicKeyHex), state: "connecting", trouble: null, speaking: false };
}

/**
 * Who we are to others, as it goes over the wire.
 *
 * @param {State} state
 * @returns {WireIdentity | null}
 */
export function wireIdentity({ identity, displayName }) {
  return identity && { publicKeyHex: identity.publicKeyHex, tag: identity.tag, displayName: displayName || null };
}

/** Holds the state; whatever changes in one turn is told once, at its end. */
export class Store {
  #state;
  #onChange;
  #telling = false;

  /**
   * @param {State} state
   * @param {(state: State) => void} onChange
   */
  constructor(state, onChange) {
    this.#state = state;
    this.#onChange = onChange;
  }

  get state() {
    return this.#state;
  }

  /** @param {Partial<State>} changes */
  change(changes) {
    this.#state = { ...this.#state, ...changes };
    if (this.#telling) return;
    this.#telling = true;
    queueMicrotask(() => {
      this.#telling = false;
      this.#onChange(this.#state);
    });
  }

  /** @param {string} text */
  complain(text) {
    this.change({ notice: { kind: "problem", text } });
  }

  /** @param {Member} member new, or in place of what was known of them */
  setMember(member) {
    this.change({ members: new Map(this.#state.members).set(member.publicKeyHex, member) });
  }

  /**
   * @param {string} peer
   * @param {Partial<Member>} changes come to nothing for who is not there
   */
  changeMember(peer, changes) {
    const member = this.#state.members.get(peer);
    if (member) this.setMember({ ...member, ...changes });
  }

  /** @param {string} peer */
  removeMember(peer) {
    const members = new Map(this.#state.members);
    members.delete(peer);
    this.change({ members });
  }
}
