/** RNNoise, where this server has it: a file that is not part of the program (scripts/fetch-noise-model). */

const MODEL = "/static/noise/rnnoise.wasm";
const WORKLET = "/static/noise/worklet.js";
/** As the worklet's own package calls it. */
const PROCESSOR = "@sapphi-red/web-noise-suppressor/rnnoise";

/** @type {Promise<boolean> | null} */
let known = null;

/** @returns {Promise<boolean>} whether it can be switched on */
export function noiseModelIsThere() {
  known ??= fetch(MODEL, { method: "HEAD" }).then(
    ({ status }) => status === 200, // 204 where there is none: a 404 would be an error in everybody's console
    () => false,
  );
  return known;
}

/**
 * Takes noise out of what goes through it. Of 48 kHz, which the model was taught with.
 *
 * @param {AudioContext} context
 * @returns {Promise<AudioNode>}
 */
export async function noiseNode(context) {
  const [model] = await Promise.all([
    fetch(MODEL).then((answer) => {
      if (!answer.ok) throw new Error("this server has no noise model");
      return answer.arrayBuffer();
    }),
    context.audioWorklet.addModule(WORKLET),
  ]);
  return new AudioWorkletNode(context, PROCESSOR, { processorOptions: { maxChannels: 1, wasmBinary: model } });
}
