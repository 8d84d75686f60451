/** The others' voices, out of the loudspeaker: each as loud as one wants it, or none at all. */

/** What an element can play by itself; louder takes an amplifier. */
const FULL = 1;

/**
 * @typedef {object} Voice
 * @property {HTMLAudioElement} element
 * @property {MediaStreamAudioSourceNode | null} source
 * @property {GainNode | null} amplifier
 */

export class Playback {
  #onBlocked;
  #volumeOf;
  /** @type {Map<string, Voice>} */
  #voices = new Map();
  /** @type {AudioContext | null} */
  #context = null;
  #deafened = false;
  #output = "";

  /**
   * @param {(blocked: boolean) => void} onBlocked the browser wants a press of a button before it plays
   * @param {(peer: string) => number} volumeOf 1 is as it comes
   */
  constructor(onBlocked, volumeOf) {
    this.#onBlocked = onBlocked;
    this.#volumeOf = volumeOf;
  }

  /**
   * @param {string} peer
   * @param {MediaStream} stream
   */
  play(peer, stream) {
    const voice = this.#voices.get(peer) ?? { element: new Audio(), source: null, amplifier: null };
    voice.source?.disconnect();
    voice.source = null;
    voice.element.autoplay = true;
    voice.element.srcObject = stream;
    this.#voices.set(peer, voice);
    this.setVolume(peer);
    void this.#choose(voice.element);
    void this.#start(voice.element);
  }

  /**
   * It is another one by now.
   *
   * @param {string} peer
   */
  setVolume(peer) {
    const voice = this.#voices.get(peer);
    if (!voice) return;
    const volume = this.#volumeOf(peer);
    voice.element.volume = Math.min(volume, FULL);
    if (volume > FULL) this.#amplify(voice);
    if (voice.amplifier) voice.amplifier.gain.value = this.#deafened ? 0 : volume;
    // One that is amplified goes out there; without its element Chromium would bring no sound at all.
    voice.element.muted = this.#deafened || voice.source !== null;
  }

  /** @param {boolean} deafened nothing is heard */
  deafen(deafened) {
    this.#deafened = deafened;
    for (const peer of this.#voices.keys()) this.setVolume(peer);
  }

  /** @param {string} output a loudspeaker's id; empty: the system's choice */
  async setOutput(output) {
    this.#output = output;
    await Promise.all([...this.#voices.values()].map(({ element }) => this.#choose(element)));
  }

  /** In a press of a button: start what the browser held back. */
  async unblock() {
    void this.#context?.resume();
    const started = await Promise.all([...this.#voices.values()].map(({ element }) => this.#start(element)));
    if (started.every(Boolean)) this.#onBlocked(false);
  }

  /** @param {string} peer */
  stop(peer) {
    const voice = this.#voices.get(peer);
    if (!voice) return;
    voice.source?.disconnect();
    voice.amplifier?.disconnect();
    voice.element.srcObject = null;
    this.#voices.delete(peer);
    if (this.#voices.size === 0) this.#onBlocked(false);
  }

  /** @param {Voice} voice */
  #amplify(voice) {
    const stream = voice.element.srcObject;
    if (voice.source || !(stream instanceof MediaStream)) return;
    try {
      this.#context ??= new AudioContext({ latencyHint: "interactive" });
      voice.amplifier ??= this.#context.createGain();
      voice.amplifier.connect(this.#context.destination);
      voice.source = this.#context.createMediaStreamSource(stream);
      voice.source.connect(voice.amplifier);
    } catch (error) {
      console.warn("A voice cannot be made louder", error);
    }
  }

  /** @param {HTMLAudioElement} element */
  async #choose(element) {
    if (!("setSinkId" in element)) return;
    try {
      await element.setSinkId(this.#output);
    } catch {
      await element.setSinkId("").catch(() => {}); // it is not plugged in: any will do
    }
  }

  /**
   * @param {HTMLAudioElement} voice
   * @returns {Promise<boolean>}
   */
  async #start(voice) {
    try {
      await voice.play();
      return true;
    } catch (error) {
      // Any other rejection means that the stream was replaced or taken away meanwhile.
      const blocked = error instanceof DOMException && error.name === "NotAllowedError";
      if (blocked) this.#onBlocked(true);
      return !blocked;
    }
  }
}
