/**
 * How one talks and hears: devices, noise suppression, and when the microphone is open. Remembered in this browser.
 *
 * `open`: always. `gate`: while it is loud enough. `push`: while a key or button is held.
 * @typedef {"open" | "gate" | "push"} Mode
 *
 * `browser`: its own. `rnnoise`: the model that this server may have. `off`: none, for music.
 * @typedef {"browser" | "rnnoise" | "off"} Noise
 *
 * @typedef {object} AudioSettings
 * @property {string} input a device's id; empty: the system's choice
 * @property {string} output
 * @property {Noise} noise
 * @property {Mode} mode
 * @property {number} threshold of the gate, as root mean square of samples in [-1, 1]
 * @property {string} pushKey `KeyboardEvent.code`
 */

/** The gate's threshold, at its lowest and highest. */
export const THRESHOLDS = { least: 0.001, most: 0.3 };

/** @type {AudioSettings} */
export const SETTINGS_AT_FIRST = {
  input: "",
  output: "",
  noise: "browser",
  mode: "open",
  threshold: 0.01,
  pushKey: "Space",
};

const MODES = ["open", "gate", "push"];
const NOISES = ["browser", "rnnoise", "off"];
const MOST_TEXT = 200;

/**
 * What was remembered, as far as it can be read.
 *
 * @param {string} stored
 * @returns {AudioSettings}
 */
export function parseSettings(stored) {
  /** @type {Record<string, unknown>} */
  let found = {};
  try {
    const parsed = JSON.parse(stored || "{}");
    if (typeof parsed === "object" && parsed !== null) found = parsed;
  } catch {
    // As if nothing was remembered.
  }
  const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value.slice(0, MOST_TEXT) : "");
  const threshold = Number(found.threshold);
  return {
    input: text(found.input),
    output: text(found.output),
    noise: NOISES.includes(text(found.noise)) ? /** @type {Noise} */ (found.noise) : SETTINGS_AT_FIRST.noise,
    mode: MODES.includes(text(found.mode)) ? /** @type {Mode} */ (found.mode) : SETTINGS_AT_FIRST.mode,
    threshold:
      threshold >= THRESHOLDS.least && threshold <= THRESHOLDS.most ? threshold : SETTINGS_AT_FIRST.threshold,
    pushKey: text(found.pushKey) || SETTINGS_AT_FIRST.pushKey,
  };
}
