/**
 * The sound of a call: our voice on its way out, the others' on their way in, and who is speaking.
 *
 * @typedef {import("./microphone.js").MicrophoneTrouble} MicrophoneTrouble
 * @typedef {import("./state.js").Store} Store
 */

import { Levels } from "./levels.js";
import { Microphone } from "./microphone.js";
import { Playback } from "./playback.js";

/** In `Levels`, our own voice. */
const SELF = "";

export class Sound {
  /** Holds our voice, and names it towards the others. */
  voice = new MediaStream();
  #store;
  #onVoice;
  #microphone;
  #playback;
  #levels;

  /**
   * @param {Store} store
   * @param {(track: MediaStreamTrack | null) => void} onVoice our voice is another now, or gone
   */
  constructor(store, onVoice) {
    this.#store = store;
    this.#onVoice = onVoice;
    this.#microphone = new Microphone(() => this.#lost());
    this.#playback = new Playback((soundBlocked) => store.change({ soundBlocked }));
    this.#levels = new Levels((who, speaking) => {
      if (who === SELF) store.change({ speaking });
      else store.changeMember(who, { speaking });
    });
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
  openMicrophone() {
    return this.#microphone.open();
  }

  /** Gives the microphone back, also one that the browser is still asking about. */
  closeMicrophone() {
    this.#microphone.close();
  }

  /** From here on we speak, or without a microphone listen. */
  speak() {
    const track = this.#microphone.track;
    for (const old of this.voice.getTracks()) this.voice.removeTrack(old);
    if (track) {
      this.voice.addTrack(track);
      this.#levels.watch(SELF, this.voice);
    } else {
      this.#microphone.close();
    }
    this.#onVoice(track);
    this.#store.change({ listening: track === null, microphone: null });
  }

  /** @param {boolean} muted */
  mute(muted) {
    this.#microphone.mute(muted);
    this.#store.change({ muted });
  }

  /** Our side falls silent, and the microphone is given back. */
  stop() {
    this.#onVoice(null);
    this.#levels.forget(SELF);
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

  #lost() {
    this.#levels.forget(SELF);
    this.#onVoice(null);
    if (this.#store.state.call) this.#store.change({ microphone: "lost", listening: true });
  }
}
