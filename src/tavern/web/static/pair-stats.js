/**
 * What a connection says of itself, in the few words that matter to who talks over it.
 *
 * @typedef {object} PairStats
 * @property {"direct" | "relayed"} path
 * @property {string} protocol how packets leave: `udp` or `tcp`; to the relay also `tls`
 * @property {number | null} roundTripMs
 * @property {number | null} lossPercent of what came since the last look; null where nothing came
 * @property {string} codec
 *
 * @typedef {{received: number, lost: number}} Counted packets since the start
 */

/**
 * @param {Iterable<any>} report the values of an RTCStatsReport
 * @param {Counted} before what the last look counted
 * @returns {{stats: PairStats, counted: Counted} | null} null while nothing is connected
 */
export function summarize(report, before) {
  const byId = new Map([...report].map((each) => [each.id, each]));
  const all = [...byId.values()];
  const transport = all.find(({ type }) => type === "transport");
  const pair =
    byId.get(transport?.selectedCandidatePairId) ??
    all.find(({ type, selected, nominated, state }) =>
      type === "candidate-pair" && (selected ?? (nominated && state === "succeeded"))); // Firefox names no transport
  const local = byId.get(pair?.localCandidateId);
  const remote = byId.get(pair?.remoteCandidateId);
  if (!local || !remote) return null;
  const inbound = all.find(({ type, kind }) => type === "inbound-rtp" && kind === "audio");
  const counted = { received: inbound?.packetsReceived ?? 0, lost: Math.max(0, inbound?.packetsLost ?? 0) };
  const came = counted.received - before.received;
  const lost = Math.max(0, counted.lost - before.lost);
  const roundTripS = pair.currentRoundTripTime;
  return {
    counted,
    stats: {
      path: local.candidateType === "relay" || remote.candidateType === "relay" ? "relayed" : "direct",
      protocol: local.relayProtocol ?? local.protocol ?? "",
      roundTripMs: typeof roundTripS === "number" ? Math.round(roundTripS * 1000) : null,
      lossPercent: came + lost > 0 ? (100 * lost) / (came + lost) : null,
      codec: String(byId.get(inbound?.codecId)?.mimeType ?? "").replace(/^audio\//i, ""),
    },
  };
}
