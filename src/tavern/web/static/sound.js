/**
 * The sound of a call: our voice on its way out, the others' on their way in, and who is speaking.
 *
 * @typedef {import("./audio-settings.js").AudioSettings} AudioSettings
 * @typedef {import("./microphone.js").MicrophoneTrouble} MicrophoneTrouble
 * @typedef {import("./state.js").Store} Store
 */

import { listDevices } from "./devices.js";
import { Levels } from "./levels.js";
import { rememberSettings, rememberVolume, volumeOf } from "./memory.js";
import { Microphone } from "./microphone.js";
import { Playback } from "./playback.js";
import { Processing } from "./processing.js";
import { PushToTalk } from "./push-to-talk.js";

/** In `Levels`, our own voice. */
const SELF = "";

export class Sound {
  /** Holds our voice, and names it towards the others. */
  voice = new MediaStream();
  push = new PushToTalk((pushing) => {
    this.#store.change({ pushing });
    this.#letThrough();
  });
  #store;
  #onVoice;
  #microphone;
  #processing = new Processing();
  #playback;
  #levels;
  /** Whether we were muted before we were deafened. */
  #mutedBefore = false;

  /**
   * @param {Store} store
   * @param {(track: MediaStreamTrack | null) => void} onVoice our voice is another now, or gone
   */
  constructor(store, onVoice) {
    this.#store = store;
    this.#onVoice = onVoice;
    const choice = () => ({ device: this.#settings.input, noiseSuppression: this.#settings.noise === "browser" });
    this.#microphone = new Microphone(choice, () => void this.#lost());
    this.#playback = new Playback((soundBlocked) => store.change({ soundBlocked }), volumeOf);
    this.#levels = new Levels((who, speaking) => {
      if (who === SELF) store.change({ speaking });
      else store.changeMember(who, { speaking });
    });
    navigator.mediaDevices?.addEventListener?.("devicechange", () => void this.#devicesChanged());
  }

  get #settings() {
    return this.#store.state.audio;
  }

  /** In a press of a button, where browsers allow sound to be worked with. */
  unlock() {
    this.#levels.unlock();
  }

  /** In a press of a button: the others' voices that the browser held back. */
  unblock() {
    this.#levels.unlock();
    void this.#playback.unblock();
  }

  /** @returns {Promise<MicrophoneTrouble | null>} */
  async openMicrophone() {
    const trouble = await this.#microphone.open();
    if (!trouble) void this.#devicesChanged();
    return trouble;
  }

  /** Gives the microphone back, also one that the browser is still asking about. */
  closeMicrophone() {
    this.#microphone.close();
  }

  /** From here on we speak, or without a microphone listen. */
  async speak() {
    const { mode, noise, threshold } = this.#settings;
    const own = this.#microphone.track;
    this.#store.change({ listening: own === null, microphone: null, level: 0 });
    const wanted = { rnnoise: noise === "rnnoise", threshold: mode === "gate" ? threshold : null };
    const onLevel = (/** @type {number} */ level) => this.#store.change({ level });
    const track = own && (await this.#processing.through(own, wanted, onLevel));
    if (own !== this.#microphone.track) return; // another one meanwhile
    for (const old of this.voice.getTracks()) this.voice.removeTrack(old);
    if (track) {
      this.voice.addTrack(track);
      this.#letThrough();
      this.#levels.watch(SELF, this.voice);
    } else {
      this.#microphone.close();
      this.#processing.stop();
    }
    this.#onVoice(track);
  }

  /** @param {boolean} muted */
  mute(muted) {
    if (!muted && this.#store.state.deafened) this.deafen(false);
    this.#store.change({ muted });
    this.#letThrough();
  }

  /** @param {boolean} deafened nothing is heard, and nothing said: others would wait for an answer */
  deafen(deafened) {
    const { muted } = this.#store.state;
    if (deafened) this.#mutedBefore = muted;
    this.#store.change({ deafened, muted: deafened || this.#mutedBefore });
    this.#playback.deafen(deafened);
    this.#letThrough();
  }

  /**
   * @param {Partial<AudioSettings>} changes
   */
  async set(changes) {
    const before = this.#settings;
    const audio = { ...before, ...changes };
    this.#store.change({ audio });
    rememberSettings(audio);
    if (audio.output !== before.output) void this.#playback.setOutput(audio.output);
    if (!this.#microphone.track) return;
    if (audio.input !== before.input || audio.noise !== before.noise) await this.#changeMicrophone();
    else if (audio.mode !== before.mode) await this.speak();
    else this.#processing.setThreshold(audio.threshold);
  }

  /**
   * @param {string} peer
   * @param {number} volume 1 is as it comes
   */
  setVolume(peer, volume) {
    rememberVolume(peer, volume);
    this.#playback.setVolume(peer);
    this.#store.changeMember(peer, { volume });
  }

  /** Our side falls silent, and the microphone is given back. */
  stop() {
    this.#onVoice(null);
    this.#levels.forget(SELF);
    this.#processing.stop();
    this.#microphone.close();
  }

  /**
   * @param {string} peer
   * @param {MediaStreamTrack} track
   */
  play(peer, track) {
    const stream = new MediaStream([track]);
    this.#playback.play(peer, stream);
    this.#levels.watch(peer, stream);
  }

  /** @param {string} peer */
  silence(peer) {
    this.#playback.stop(peer);
    this.#levels.forget(peer);
  }

  /** What goes out: our voice, or silence. */
  #letThrough() {
    const { muted, pushing } = this.#store.state;
    const enabled = !muted && (this.#settings.mode !== "push" || pushing);
    for (const track of this.voice.getAudioTracks()) track.enabled = enabled;
  }

  async #changeMicrophone() {
    const trouble = await this.#microphone.change();
    if (trouble) this.#store.change({ microphone: trouble });
    await this.speak();
  }

  /** The device was unplugged, say: any other will do. */
  async #lost() {
    this.#levels.forget(SELF);
    this.#onVoice(null);
    if (!this.#store.state.call) return;
    if (await this.#microphone.open()) this.#store.change({ microphone: "lost", listening: true });
    else await this.speak();
  }

  /** The chosen one may be there again. */
  async #devicesChanged() {
    const devices = await listDevices();
    this.#store.change({ devices });
    const { input, output } = this.#settings;
    if (devices.outputs.some(({ id }) => id === output)) void this.#playback.setOutput(output);
    const track = this.#microphone.track;
    const isOther = track && input !== "" && track.getSettings?.().deviceId !== input;
    if (isOther && devices.inputs.some(({ id }) => id === input)) await this.#changeMicrophone();
    else if (!track && this.#store.state.microphone === "lost" && this.#store.state.call) await this.#lost();
  }
}
