/** The bar at the bottom while in a call: where one is, mute, leave, and what is in the way of sound. */

import { el, icon, setText, show } from "./dom.js";
import { strings } from "./strings.js";

/**
 * @typedef {object} CallActions
 * @property {(muted: boolean) => void} mute
 * @property {(deafened: boolean) => void} deafen
 * @property {() => void} press
 * @property {() => void} release
 * @property {() => void} leave
 * @property {() => void} useMicrophone
 * @property {() => void} unblockSound
 * @property {(tavernId: string) => void} openTavern
 */

const words = strings.call;

export class CallView {
  #actions;
  #muted = false;
  #deafened = false;
  #tavernId = "";
  #where = el("button", {
    type: "button",
    class: "where",
    onclick: () => this.#actions.openTavern(this.#tavernId),
  });
  #with = el("p", { class: "hint", role: "status" });
  #mute = el("button", {
    type: "button",
    id: "mute",
    onclick: () => this.#actions.mute(!this.#muted),
  });
  #muteLabel = el("span");
  #deafen = el("button", {
    type: "button",
    id: "deafen",
    onclick: () => this.#actions.deafen(!this.#deafened),
  });
  #deafenLabel = el("span");
  #push = el("button", {
    type: "button",
    id: "push",
    class: "primary",
    onpointerdown: (event) => {
      this.#push.setPointerCapture(/** @type {PointerEvent} */ (event).pointerId);
      this.#actions.press();
    },
    onpointerup: () => this.#actions.release(),
    onpointercancel: () => this.#actions.release(),
    // Held on a phone, it would open the menu of a picture or a link.
    oncontextmenu: (event) => event.preventDefault(),
    onkeydown: (event) => {
      const key = /** @type {KeyboardEvent} */ (event).key;
      if (key === " " || key === "Enter") this.#actions.press();
    },
    onkeyup: () => this.#actions.release(),
    onblur: () => this.#actions.release(),
  });
  #pushLabel = el("span");
  #onIcon = icon("mic");
  #offIcon = icon("mic-off");
  #useMicrophone = el("button", {
    type: "button",
    id: "use-microphone",
    onclick: () => this.#actions.useMicrophone(),
  });
  #blocked = el("div", { class: "strip", id: "sound-blocked", role: "alert" });
  #trouble = el("p", { class: "strip", role: "alert" });

  /** @param {CallActions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#mute.append(this.#onIcon, this.#offIcon, this.#muteLabel);
    this.#deafen.append(icon("headphones"), this.#deafenLabel);
    this.#push.append(icon("mic"), this.#pushLabel);
    this.#useMicrophone.append(icon("mic"), words.useMicrophone);
    this.#blocked.append(
      el("span", {}, words.soundBlocked),
      el("button", { type: "button", class: "small primary", onclick: () => actions.unblockSound() }, words.unblock),
    );
    this.element = el(
      "section",
      { class: "call", id: "call", "aria-label": words.region },
      el(
        "div",
        { class: "inner" },
        this.#trouble,
        this.#blocked,
        el(
          "div",
          { class: "bar" },
          el("div", { class: "place" }, this.#where, this.#with),
          this.#useMicrophone,
          this.#push,
          this.#mute,
          this.#deafen,
          el(
            "button",
            { type: "button", class: "danger", id: "leave", onclick: () => actions.leave() },
            icon("leave"),
            el("span", {}, words.leave),
          ),
        ),
      ),
    );
  }

  /** Where the keyboard goes on when what it was on is gone. */
  get mainstay() {
    return this.#mute.hidden ? this.#useMicrophone : this.#mute;
  }

  /** @param {import("./state.js").State} state */
  update(state) {
    const { call, members, muted, deafened, listening, microphone, soundBlocked, audio, pushing } = state;
    show(this.element, call !== null);
    if (!call) return;
    this.#tavernId = call.tavern.id;
    this.#muted = muted;
    this.#deafened = deafened;
    setText(this.#where, words.inChannel(call.channelName));
    this.#where.title = call.tavern.name;
    let others = members.size === 0 ? words.alone : words.with(members.size);
    if (listening) others = `${words.listening} · ${others}`;
    setText(this.#with, call.joined ? others : words.rejoining);
    show(this.#mute, !listening);
    show(this.#useMicrophone, listening);
    show(this.#push, audio.mode === "push" && !listening && !muted);
    this.#push.classList.toggle("on", pushing);
    setText(this.#pushLabel, pushing ? words.talking : words.hold);
    setText(this.#deafenLabel, deafened ? words.undeafen : words.deafen);
    this.#deafen.classList.toggle("on", deafened);
    setText(this.#muteLabel, muted ? words.unmute : words.mute);
    this.#mute.classList.toggle("on", muted);
    this.#onIcon.toggleAttribute("hidden", muted);
    this.#offIcon.toggleAttribute("hidden", !muted);
    show(this.#blocked, soundBlocked);
    const trouble = state.joining === null && microphone !== null ? strings.microphone.trouble(microphone) : null;
    show(this.#trouble, trouble !== null);
    setText(this.#trouble, trouble ? `${trouble.title}. ${trouble.text}` : "");
  }
}
