/**
 * Our own voice, as the browser gives it.
 *
 * @typedef {"refused" | "absent" | "busy" | "insecure" | "broken"} MicrophoneTrouble
 */

/**
 * @typedef {{device: string, noiseSuppression: boolean}} Choice `device`: its id; empty: the system's choice
 */

/**
 * @param {Choice} choice
 * @returns {MediaStreamConstraints}
 */
function constraints({ device, noiseSuppression }) {
  const voice = { echoCancellation: true, noiseSuppression, autoGainControl: true, channelCount: 1 };
  return { audio: device ? { ...voice, deviceId: { exact: device } } : voice };
}

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
  #choice;
  /** @type {MediaStreamTrack | null} */
  #track = null;
  /**
   * The question that the browser puts; whoever asks meanwhile waits for the same answer.
   *
   * @type {Promise<MicrophoneTrouble | null> | null}
   */
  #question = null;
  /** Whether what the browser gives is still wanted. */
  #wanted = false;

  /**
   * @param {() => Choice} choice
   * @param {() => void} onLost the device went away while it was in use
   */
  constructor(choice, onLost) {
    this.#choice = choice;
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

  /**
   * The one that is chosen by now, in place of the one that is open; that stays where there is no other.
   *
   * @returns {Promise<MicrophoneTrouble | null>}
   */
  async change() {
    const old = this.#track;
    this.#track = null;
    this.#wanted = true;
    const trouble = await this.#ask();
    if (this.#track === null && old?.readyState === "live") this.#track = old;
    else old?.stop();
    return trouble;
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
      const track = await this.#first(devices);
      if (!track) return "absent";
      if (this.#wanted) this.#take(track);
      else track.stop();
      return null;
    } catch (error) {
      return microphoneTrouble(error);
    }
  }

  /**
   * @param {MediaDevices} devices
   * @returns {Promise<MediaStreamTrack | undefined>}
   */
  async #first(devices) {
    const choice = this.#choice();
    try {
      return (await devices.getUserMedia(constraints(choice))).getAudioTracks()[0];
    } catch (error) {
      // The chosen one is not plugged in: any will do until it is.
      if (choice.device === "" || microphoneTrouble(error) !== "absent") throw error;
      return (await devices.getUserMedia(constraints({ ...choice, device: "" }))).getAudioTracks()[0];
    }
  }

  /** @param {MediaStreamTrack} track */
  #take(track) {
    track.onended = () => {
      if (this.#track !== track) return;
      this.#track = null;
      this.#onLost();
    };
    this.#track = track;
  }
}
