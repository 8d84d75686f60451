/** The others' voices, out of the loudspeaker. */

export class Playback {
  #onBlocked;
  /** @type {Map<string, HTMLAudioElement>} */
  #voices = new Map();

  /** @param {(blocked: boolean) => void} onBlocked the browser wants a press of a button before it plays */
  constructor(onBlocked) {
    this.#onBlocked = onBlocked;
  }

  /**
   * @param {string} peer
   * @param {MediaStream} stream
   */
  play(peer, stream) {
    const voice = this.#voices.get(peer) ?? new Audio();
    voice.autoplay = true;
    voice.srcObject = stream;
    this.#voices.set(peer, voice);
    void this.#start(voice);
  }

  /** In a press of a button: start what the browser held back. */
  async unblock() {
    const started = await Promise.all([...this.#voices.values()].map((voice) => this.#start(voice)));
    if (started.every(Boolean)) this.#onBlocked(false);
  }

  /** @param {string} peer */
  stop(peer) {
    const voice = this.#voices.get(peer);
    if (!voice) return;
    voice.srcObject = null;
    this.#voices.delete(peer);
    if (this.#voices.size === 0) this.#onBlocked(false);
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
