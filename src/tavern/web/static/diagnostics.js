/** What helps to find out why a call does not work, as text for people to read and send on. No address is in it. */

/**
 * @param {import("./state.js").State} state
 * @param {[string, import("./pair-stats.js").PairStats][]} stats
 * @param {RTCIceServer[]} iceServers
 * @returns {string} JSON
 */
export function describe({ call, members, connection, audio, microphone, listening, hidden }, stats, iceServers) {
  const statsOf = new Map(stats);
  const about = {
    at: new Date().toISOString(),
    browser: navigator.userAgent,
    server: { connection, joined: call?.joined ?? null, relays: iceServers.flatMap(({ urls }) => urls) },
    microphone: { trouble: microphone, listening, mode: audio.mode, noise: audio.noise },
    hidden,
    peers: [...members.values()].map(({ publicKeyHex, state, trouble, trust, reads }) => ({
      key: publicKeyHex.slice(0, 8),
      state,
      trouble,
      trust,
      reads,
      ...statsOf.get(publicKeyHex),
    })),
  };
  return JSON.stringify(about, null, 2);
}
