/**
 * Who is in a channel, and whether there is room.
 *
 * @typedef {import("./state.js").State} State
 * @typedef {import("./messages.js").Channel} Channel
 * @typedef {import("./messages.js").Tavern} Tavern
 * @typedef {import("./people.js").Person} Person
 */

import { roleIn } from "./view-manage.js";

/** What the server lets into one channel. */
export const CHANNEL_HOLDS = 8;

/**
 * The channel that the one big button joins: the first that has room.
 *
 * @param {Tavern} tavern
 * @returns {Channel | null}
 */
export function firstWithRoom(tavern) {
  return tavern.channels.find(({ peers }) => peers.length < CHANNEL_HOLDS) ?? tavern.channels[0] ?? null;
}

/**
 * Who is to be shown in a channel: those that we are connected with where we are ourselves, and elsewhere those that the
 * server named when it was last asked.
 *
 * @param {State} state
 * @param {Channel} channel
 * @returns {Person[]}
 */
export function peopleIn(state, channel) {
  const { call, identity } = state;
  const { tavern } = state;
  const roleOf = (/** @type {string} */ key) => tavern && roleIn(tavern, key);
  const ownRole = identity && roleOf(identity.publicKeyHex);
  const unknown = { trust: null, safety: null, otherBefore: false, stats: null, volume: null, ownRole };
  const idle = { ...unknown, self: false, speaking: false, muted: false, state: null, trouble: null };
  if (call?.tavern.id !== state.tavernId || call?.channelId !== channel.id || !identity) {
    return channel.peers.map(({ publicKeyHex, displayName, tag }) => ({
      ...idle,
      key: publicKeyHex,
      name: displayName,
      tag,
      role: roleOf(publicKeyHex),
      self: false,
    }));
  }
  return [
    {
      ...idle,
      key: identity.publicKeyHex,
      name: state.displayName || identity.tag,
      tag: identity.tag,
      role: ownRole,
      self: true,
      speaking: state.speaking && !state.muted,
      muted: state.muted || state.listening,
    },
    ...[...state.members.values()].map((member) => ({
      ...idle,
      key: member.publicKeyHex,
      name: member.displayName,
      tag: member.tag,
      role: roleOf(member.publicKeyHex),
      speaking: member.speaking,
      state: member.state,
      trouble: member.trouble,
      trust: member.trust,
      safety: member.safety,
      otherBefore: member.otherBefore,
      stats: member.stats,
      volume: member.volume,
    })),
  ];
}
