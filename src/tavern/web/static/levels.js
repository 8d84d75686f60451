/**
 * Who speaks, told from the sound itself.
 *
 * @typedef {{source: MediaStreamAudioSourceNode, analyser: AnalyserNode, heard: number, speaking: boolean}} Watched
 */

/** Loud enough to be speech, as root mean square of samples in [-1, 1]. */
const SPEECH = 0.012;
const LOOK_MS = 100;
/** Between two words one is still speaking. */
const HOLD_MS = 500;

export class Levels {
  #onSpeaking;
  /** @type {AudioContext | null} */
  #context = null;
  /** @type {Map<string, Watched>} */
  #watched = new Map();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer;
  #samples = new Float32Array(1024);

  /** @param {(who: string, speaking: boolean) => void} onSpeaking */
  constructor(onSpeaking) {
    this.#onSpeaking = onSpeaking;
  }

  /** In a press of a button, where browsers allow sound to be worked with. */
  unlock() {
    try {
      this.#context ??= new AudioContext({ latencyHint: "playback" });
      void this.#context.resume();
    } catch (error) {
      console.warn("Nobody can be shown as speaking", error); // the browser has no room for another context
    }
  }

  /**
   * @param {string} who
   * @param {MediaStream} stream
   */
  watch(who, stream) {
    this.forget(who);
    if (!this.#context || stream.getAudioTracks().length === 0) return;
    try {
      const source = this.#context.createMediaStreamSource(stream);
      const analyser = this.#context.createAnalyser();
      analyser.fftSize = this.#samples.length;
      source.connect(analyser);
      this.#watched.set(who, { source, analyser, heard: -Infinity, speaking: false });
    } catch (error) {
      console.warn("A voice cannot be measured", error); // Firefox, where the sample rates differ
      return;
    }
    void this.#context.resume();
    this.#timer ??= setInterval(() => this.#look(), LOOK_MS);
  }

  /** @param {string} who */
  forget(who) {
    const watched = this.#watched.get(who);
    if (!watched) return;
    watched.source.disconnect();
    this.#watched.delete(who);
    if (watched.speaking) this.#onSpeaking(who, false);
    if (this.#watched.size === 0) {
      clearInterval(this.#timer);
      this.#timer = undefined;
      void this.#context?.suspend(); // it would go on working on silence
    }
  }

  #look() {
    const now = performance.now();
    for (const [who, watched] of this.#watched) {
      watched.analyser.getFloatTimeDomainData(this.#samples);
      const power = this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / this.#samples.length;
      if (Math.sqrt(power) > SPEECH) watched.heard = now;
      const speaking = now - watched.heard < HOLD_MS;
      if (speaking === watched.speaking) continue;
      watched.speaking = speaking;
      this.#onSpeaking(who, speaking);
    }
  }
}
