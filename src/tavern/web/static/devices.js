/**
 * The microphones and loudspeakers there are.
 *
 * @typedef {{id: string, label: string}} Device
 * @typedef {{inputs: Device[], outputs: Device[]}} Devices
 */

/** What browsers list beside the devices themselves, for the one that the system chose. */
const ALIASES = new Set(["default", "communications", ""]);

/** @returns {Promise<Devices>} without names until the microphone was allowed once: then nothing can be chosen */
export async function listDevices() {
  try {
    const found = await navigator.mediaDevices.enumerateDevices();
    const of = (/** @type {MediaDeviceKind} */ kind) =>
      found
        .filter((device) => device.kind === kind && !ALIASES.has(device.deviceId) && device.label !== "")
        .map(({ deviceId, label }) => ({ id: deviceId, label }));
    return { inputs: of("audioinput"), outputs: canChooseOutput() ? of("audiooutput") : [] };
  } catch {
    return { inputs: [], outputs: [] };
  }
}

/** @returns {boolean} whether this browser plays on another loudspeaker than the system's choice */
function canChooseOutput() {
  return "setSinkId" in HTMLMediaElement.prototype;
}
