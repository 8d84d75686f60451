/** The card about sound: which devices, what against noise, and when one is heard. */

import { THRESHOLDS } from "./audio-settings.js";
import { el, list, setText, show } from "./dom.js";
import { noiseModelIsThere } from "./noise.js";
import { strings } from "./strings.js";

/**
 * @typedef {import("./audio-settings.js").AudioSettings} AudioSettings
 * @typedef {import("./devices.js").Device} Device
 *
 * @typedef {object} AudioActions
 * @property {(changes: Partial<AudioSettings>) => void} setAudio
 * @property {(hidden: boolean) => void} hide
 * @property {(hidden: boolean) => void} hideHere
 * @property {() => Promise<string>} diagnostics
 */

const words = strings.audio;

/** @type {(keyof typeof words.modes)[]} */
const MODES = ["open", "gate", "push"];
/** @type {(keyof typeof words.noises)[]} */
const NOISES = ["browser", "rnnoise", "off"];

/**
 * A level or threshold, as it is shown: sound is heard in steps that double.
 *
 * @param {number} level
 * @returns {number} 0 to 1
 */
export function shownLevel(level) {
  const { least, most } = THRESHOLDS;
  return Math.min(1, Math.max(0, Math.log(Math.max(level, least) / least) / Math.log(most / least)));
}

/**
 * @param {number} shown 0 to 1
 * @returns {number}
 */
export function levelShownAs(shown) {
  const { least, most } = THRESHOLDS;
  return Math.min(most, Math.max(least, least * (most / least) ** shown));
}

export class AudioView {
  #actions;
  #input;
  #output;
  #noise;
  #mode;
  #threshold;
  #meter = el("meter", { min: 0, max: 1, value: 0, "aria-hidden": "true" });
  #gate;
  #pushKey = el("button", { type: "button", class: "small", id: "push-key", onclick: () => this.#capture() });
  #push;
  #capturing = false;
  #hidden = el("input", { type: "checkbox", id: "hide", onchange: () => this.#actions.hide(this.#hidden.checked) });
  #hiddenHere = el("input", {
    type: "checkbox",
    id: "hide-here",
    onchange: () => this.#actions.hideHere(this.#hiddenHere.checked),
  });
  #hereOnly = el("p", { class: "check" }, this.#hiddenHere, el("label", { for: "hide-here" }, words.hideHere));
  #copy = el(
    "button",
    { type: "button", class: "small", id: "diagnostics", onclick: () => void this.#copyDiagnostics() },
    words.diagnostics,
  );
  #copied = el("span", { class: "done", role: "status" });

  /** @param {AudioActions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#input = chooser("input", words.input, (input) => actions.setAudio({ input }));
    this.#output = chooser("output", words.output, (output) => actions.setAudio({ output }));
    this.#noise = chooser("noise", words.noise, (noise) =>
      actions.setAudio({ noise: /** @type {AudioSettings["noise"]} */ (noise) }));
    this.#mode = chooser("mode", words.mode, (mode) =>
      actions.setAudio({ mode: /** @type {AudioSettings["mode"]} */ (mode) }));
    fill(this.#mode.select, MODES.map((id) => ({ id, label: words.modes[id] })));
    this.#offerNoises(false);
    void noiseModelIsThere().then((isThere) => this.#offerNoises(isThere));
    this.#threshold = el("input", {
      type: "range",
      id: "threshold",
      min: 0,
      max: 1,
      step: 0.01,
      oninput: () => actions.setAudio({ threshold: levelShownAs(this.#threshold.valueAsNumber) }),
    });
    this.#gate = el(
      "div",
      { class: "gate" },
      el("label", { for: "threshold" }, words.threshold),
      this.#meter,
      this.#threshold,
    );
    this.#push = el("p", {}, el("span", {}, `${words.pushKey} `), this.#pushKey);
    this.#pushKey.addEventListener("keydown", (event) => this.#captured(event));
    this.#pushKey.addEventListener("blur", () => this.#stopCapturing());
    this.element = el(
      "details",
      { class: "card audio", id: "audio" },
      el("summary", {}, el("h2", {}, words.title)),
      this.#input.element,
      this.#output.element,
      this.#noise.element,
      this.#mode.element,
      this.#gate,
      this.#push,
      el("p", { class: "check" }, this.#hidden, el("label", { for: "hide" }, words.hide)),
      this.#hereOnly,
      el("p", { class: "hint" }, words.hideHint),
      el("p", {}, this.#copy, this.#copied),
      el("h3", {}, words.shortcuts),
      el(
        "dl",
        { class: "keys" },
        ...words.keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]),
      ),
    );
  }

  /** @param {import("./state.js").State} state */
  update({ audio, devices, level, hidden, hiddenHere }) {
    this.#hidden.checked = hidden;
    this.#hiddenHere.checked = hiddenHere;
    show(this.#hereOnly, !hidden);
    offer(this.#input, devices.inputs, audio.input);
    offer(this.#output, devices.outputs, audio.output);
    this.#noise.select.value = audio.noise;
    this.#mode.select.value = audio.mode;
    show(this.#gate, audio.mode === "gate");
    show(this.#push, audio.mode === "push");
    this.#meter.value = shownLevel(level);
    const threshold = shownLevel(audio.threshold);
    if (Math.abs(this.#threshold.valueAsNumber - threshold) > 0.01) this.#threshold.valueAsNumber = threshold;
    this.#pushKey.dataset.key = audio.pushKey;
    if (!this.#capturing) setText(this.#pushKey, keyName(audio.pushKey));
  }

  /** @param {boolean} model whether the server has one */
  #offerNoises(model) {
    const { value } = this.#noise.select;
    const offered = NOISES.filter((id) => id !== "rnnoise" || model);
    fill(this.#noise.select, offered.map((id) => ({ id, label: words.noises[id] })));
    this.#noise.select.value = value || "browser";
  }

  async #copyDiagnostics() {
    const text = await this.#actions.diagnostics();
    try {
      await navigator.clipboard.writeText(text);
      setText(this.#copied, words.copied);
    } catch {
      window.prompt(words.diagnostics, text); // not allowed to copy: by hand
    }
  }

  #capture() {
    this.#capturing = true;
    setText(this.#pushKey, words.pressKey);
  }

  /** @param {KeyboardEvent} event */
  #captured(event) {
    if (!this.#capturing || event.code === "Tab") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.code !== "Escape") this.#actions.setAudio({ pushKey: event.code });
    this.#stopCapturing();
  }

  #stopCapturing() {
    this.#capturing = false;
    setText(this.#pushKey, keyName(this.#pushKey.dataset.key ?? ""));
  }
}

/**
 * @param {string} code `KeyboardEvent.code`
 * @returns {string}
 */
export function keyName(code) {
  return code.replace(/^(Key|Digit)(?=.$)/, "").replace(/(?<=[a-z])(?=[A-Z])/g, " ");
}

/**
 * @param {string} id
 * @param {string} label
 * @param {(value: string) => void} onChoice
 */
function chooser(id, label, onChoice) {
  const select = el("select", { id: `audio-${id}`, onchange: () => onChoice(select.value) });
  return { select, element: el("div", { class: "choice" }, el("label", { for: `audio-${id}` }, label), select) };
}

/**
 * @param {HTMLSelectElement} select
 * @param {Device[]} options
 */
function fill(select, options) {
  list(select, options, {
    key: ({ id }) => id,
    make: ({ id }) => el("option", { value: id }),
    update: (option, { label }) => setText(option, label),
  });
}

/**
 * Devices to choose from, with the system's choice, and the chosen one also while it is unplugged.
 *
 * @param {{select: HTMLSelectElement, element: HTMLElement}} chooser
 * @param {Device[]} devices
 * @param {string} chosen
 */
function offer({ select, element }, devices, chosen) {
  const missing = chosen !== "" && !devices.some(({ id }) => id === chosen);
  fill(select, [
    { id: "", label: words.system },
    ...devices,
    ...(missing ? [{ id: chosen, label: words.unplugged }] : []),
  ]);
  select.value = chosen;
  show(element, devices.length > 0);
}
