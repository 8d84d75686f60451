/** Whether a key or button is held to be heard. What was said last goes out, too: one lets go too early. */

const TAIL_MS = 200;

export class PushToTalk {
  #onChange;
  #pressed = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #tail;

  /** @param {(talking: boolean) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
  }

  press() {
    clearTimeout(this.#tail);
    if (this.#pressed) return;
    this.#pressed = true;
    this.#onChange(true);
  }

  release() {
    if (!this.#pressed) return;
    clearTimeout(this.#tail);
    this.#tail = setTimeout(() => {
      this.#pressed = false;
      this.#onChange(false);
    }, TAIL_MS);
  }
}
