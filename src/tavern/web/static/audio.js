/**
 * Sound: the microphone, the other voices, and who is speaking.
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

/** Our own voice. */
export class Microphone {
  #onLost;
  /** @type {MediaStreamTrack | null} */
  #track = null;
  #muted = false;

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
   * @returns {Promise<MicrophoneTrouble | null>} null when it is open
   */
  async open() {
    if (this.#track) return null;
    // Without a secure context browsers have no `mediaDevices` at all, whatever the types say.
    const devices = /** @type {MediaDevices | undefined} */ (navigator.mediaDevices);
    if (!devices) return "insecure";
    try {
      const stream = await devices.getUserMedia(VOICE);
      const track = stream.getAudioTracks()[0];
      if (!track) return "absent";
      track.enabled = !this.#muted;
      track.onended = () => {
        if (this.#track !== track) return;
        this.#track = null;
        this.#onLost();
      };
      this.#track = track;
      return null;
    } catch (error) {
      return microphoneTrouble(error);
    }
  }

  /** @param {boolean} muted */
  mute(muted) {
    this.#muted = muted;
    if (this.#track) this.#track.enabled = !muted;
  }

  close() {
    this.#track?.stop();
    this.#track = null;
  }
}

/** The others' voices. */
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

/** Loud enough to be speech, as root mean square of samples in [-1, 1]. */
const SPEECH = 0.012;
const LOOK_MS = 100;
/** Between two words one is still speaking. */
const HOLD_MS = 500;

/** Who speaks, told from the sound itself. */
export class Levels {
  #onSpeaking;
  /** @type {AudioContext | null} */
  #context = null;
  /** @type {Map<string, {source: MediaStreamAudioSourceNode, analyser: AnalyserNode, heard: number, speaking: boolean}>} */
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
    this.#context ??= new AudioContext({ latencyHint: "playback" });
    if (this.#context.state === "suspended") void this.#context.resume();
  }

  /**
   * @param {string} who
   * @param {MediaStream} stream
   */
  watch(who, stream) {
    this.forget(who);
    if (!this.#context || stream.getAudioTracks().length === 0) return;
    const source = this.#context.createMediaStreamSource(stream);
    const analyser = this.#context.createAnalyser();
    analyser.fftSize = this.#samples.length;
    source.connect(analyser);
    this.#watched.set(who, { source, analyser, heard: -Infinity, speaking: false });
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
