/** The gate, where the samples are: opens within a block of 3 ms, and closes softly. */

import { Gate } from "./gate.js";

/** @typedef {{threshold: number}} GateMessage */

const ATTACK_S = 0.003;
const RELEASE_S = 0.08;
const TOLD_S = 0.1;

// AudioWorkletGlobalScope, which TypeScript's library of the DOM does not have.
const scope = /** @type {any} */ (globalThis);

scope.registerProcessor(
  "tavern-gate",
  class extends scope.AudioWorkletProcessor {
    #gate = new Gate();
    #gain = 0;
    #toldAt = 0;
    #loudest = 0;

    constructor() {
      super();
      /** @param {MessageEvent<GateMessage>} event */
      this.port.onmessage = ({ data }) => {
        this.#gate.threshold = data.threshold;
      };
    }

    /**
     * @param {Float32Array[][]} inputs
     * @param {Float32Array[][]} outputs
     * @returns {boolean}
     */
    process([input], [output]) {
      const from = input?.[0];
      const to = output?.[0];
      if (!from || !to) return true;
      const level = Math.sqrt(from.reduce((sum, sample) => sum + sample * sample, 0) / from.length);
      const target = this.#gate.hear(level, scope.currentTime * 1000) ? 1 : 0;
      const step = 1 / (scope.sampleRate * (target === 1 ? ATTACK_S : RELEASE_S));
      for (let at = 0; at < from.length; at += 1) {
        this.#gain = target > this.#gain ? Math.min(1, this.#gain + step) : Math.max(target, this.#gain - step);
        to[at] = (from[at] ?? 0) * this.#gain;
      }
      this.#loudest = Math.max(this.#loudest, level);
      if (scope.currentTime - this.#toldAt >= TOLD_S) {
        this.port.postMessage(this.#loudest);
        this.#toldAt = scope.currentTime;
        this.#loudest = 0;
      }
      return true;
    }
  },
);
