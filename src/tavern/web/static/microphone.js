/**
 * Our own voice, as the browser gives it.
 *
 * @typedef {"refused" | "absent" | "busy" | "insecure" | "broken"} MicrophoneTrouble
 */

/** @type {MediaStreamConstraints} */
const VOICE = {
  audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
};

/**
 * Why the browser gave no microphone.
 *
 * @param {unknown} error
 * @returns {MicrophoneTrouble}
 */
export function microphoneTrouble(error) {
  const name = error instanceof DOMException ? error.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") return "refused";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "absent";
  if (name === "NotReadableError" || name === "AbortError") return "busy";
  return "broken";
}

export class Microphone {
  #onLost;
  /** @type {MediaStreamTrack | null} */
  #track = null;
  #muted = false;
  /**
   * The question that the browser puts; whoever asks meanwhile waits for the same answer.
   *
   * @type {Promise<MicrophoneTrouble | null> | null}
   */
  #question = null;
  /** Whether what the browser gives is still wanted. */
  #wanted = false;

  /** @param {() => void} onLost the device went away while it was in use */
  constructor(onLost) {
    this.#onLost = onLost;
  }

  get track() {
    return this.#track;
  }

  /**
   * Asks for the microphone, unless it is open.
   *
   * @returns {Promise<MicrophoneTrouble | null>} null when it is open, or was closed again meanwhile
   */
  async open() {
    if (this.#track) return null;
    this.#wanted = true;
    this.#question ??= this.#ask().finally(() => {
      this.#question = null;
    });
    return this.#question;
  }

  /** @param {boolean} muted */
  mute(muted) {
    this.#muted = muted;
    if (this.#track) this.#track.enabled = !muted;
  }

  close() {
    this.#wanted = false;
    this.#track?.stop();
    this.#track = null;
  }

  /** @returns {Promise<MicrophoneTrouble | null>} */
  async #ask() {
    // Without a secure context browsers have no `mediaDevices` at all, whatever the types say.
    const devices = /** @type {MediaDevices | undefined} */ (navigator.mediaDevices);
    if (!devices) return "insecure";
    try {
      const track = (await devices.getUserMedia(VOICE)).getAudioTracks()[0];
      if (!track) return "absent";
      if (this.#wanted) this.#take(track);
      else track.stop();
      return null;
    } catch (error) {
      return microphoneTrouble(error);
    }
  }

  /** @param {MediaStreamTrack} track */
  #take(track) {
    track.enabled = !this.#muted;
    track.onended = () => {
      if (this.#track !== track) return;
      this.#track = null;
      this.#onLost();
    };
    this.#track = track;
  }
}
