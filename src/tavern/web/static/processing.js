/**
 * What is done to our voice between the microphone and the others: noise is taken out, and a gate keeps silence silent.
 * Where neither is asked for, the microphone's own track goes out: what is not there cannot fail in the background.
 *
 * @typedef {object} Wanted
 * @property {boolean} rnnoise
 * @property {number | null} threshold of the gate; null: it is always open
 */

import { noiseNode } from "./noise.js";

export class Processing {
  /** @type {AudioContext | null} */
  #context = null;
  /** @type {AudioNode[]} */
  #nodes = [];
  /** @type {MediaStreamAudioDestinationNode | null} */
  #destination = null;
  /** @type {AudioWorkletNode | null} */
  #gate = null;
  /** Counts up with each chain that is asked for. */
  #generation = 0;

  /**
   * The voice as it is to go out; the microphone's own where nothing is to be done, or the browser cannot do it.
   *
   * @param {MediaStreamTrack} track
   * @param {Wanted} wanted
   * @param {(level: number) => void} onLevel how loud it is, ten times a second, while there is a gate
   * @returns {Promise<MediaStreamTrack>}
   */
  async through(track, { rnnoise, threshold }, onLevel) {
    this.stop();
    if (!rnnoise && threshold === null) return track;
    const generation = this.#generation;
    try {
      this.#context ??= new AudioContext({ sampleRate: 48_000, latencyHint: "interactive" });
      const context = this.#context;
      await context.audioWorklet.addModule("/static/gate-worklet.js");
      const noise = rnnoise ? await noiseNode(context) : null;
      if (generation !== this.#generation) return track;
      void context.resume();
      const gate = threshold === null ? null : new AudioWorkletNode(context, "tavern-gate", { channelCount: 1 });
      if (gate) {
        gate.port.onmessage = ({ data }) => onLevel(Number(data));
        gate.port.postMessage({ threshold });
      }
      const destination = new MediaStreamAudioDestinationNode(context, { channelCount: 1 });
      const source = context.createMediaStreamSource(new MediaStream([track]));
      this.#nodes = [source, ...(noise ? [noise] : []), ...(gate ? [gate] : []), destination];
      this.#nodes.reduce((from, to) => from.connect(to));
      this.#gate = gate;
      this.#destination = destination;
      return destination.stream.getAudioTracks()[0] ?? track;
    } catch (error) {
      console.warn("The voice goes out as it is", error);
      return track;
    }
  }

  /** @param {number} threshold of the gate that there is */
  setThreshold(threshold) {
    this.#gate?.port.postMessage({ threshold });
  }

  /** What went out before is over. */
  stop() {
    this.#generation += 1;
    for (const node of this.#nodes) node.disconnect();
    for (const track of this.#destination?.stream.getTracks() ?? []) track.stop();
    this.#nodes = [];
    this.#gate = null;
    this.#destination = null;
    void this.#context?.suspend();
  }
}
