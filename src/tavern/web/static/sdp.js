/** What the page changes in session descriptions: how Opus is to be spoken. */

/** 64 kbit/s at most, mono, silence not sent, losses mended from the next packet. */
const OPUS = { maxaveragebitrate: "64000", stereo: "0", "sprop-stereo": "0", usedtx: "1", useinbandfec: "1" };

/**
 * The same description with Tavern's Opus parameters. They say what the one who reads this description shall send, so
 * both sides put them into what they send out.
 *
 * @param {string} sdp
 * @returns {string}
 */
export function withVoiceOpus(sdp) {
  const lines = sdp.split("\r\n");
  const types = new Set(lines.flatMap((line) => /^a=rtpmap:(\d+) opus\/48000\/2$/i.exec(line)?.[1] ?? []));
  const missing = new Set(types);
  const changed = lines.map((line) => {
    const [, type, parameters] = /^a=fmtp:(\d+) (.*)$/.exec(line) ?? [];
    if (type === undefined || parameters === undefined || !types.has(type)) return line;
    missing.delete(type);
    return `a=fmtp:${type} ${merge(parameters)}`;
  });
  return changed
    .flatMap((line) => {
      const type = /^a=rtpmap:(\d+) /.exec(line)?.[1];
      return type !== undefined && missing.has(type) ? [line, `a=fmtp:${type} ${merge("")}`] : [line];
    })
    .join("\r\n");
}

/**
 * @param {string} parameters `a=1;b=2`
 * @returns {string}
 */
function merge(parameters) {
  const merged = new Map(
    parameters
      .split(";")
      .map((pair) => pair.trim())
      .filter((pair) => pair !== "")
      .map((pair) => /** @type {[string, string]} */ ([pair.split("=")[0], pair.split("=").slice(1).join("=")])),
  );
  for (const [name, value] of Object.entries(OPUS)) merged.set(name, value);
  return [...merged].map(([name, value]) => (value === "" ? name : `${name}=${value}`)).join(";");
}
