/** The bar at the bottom while in a call: where one is, mute, leave, and what is in the way of sound. */

import { el, icon, setText, show } from "./dom.js";
import { strings } from "./strings.js";

/**
 * @typedef {object} CallActions
 * @property {(muted: boolean) => void} mute
 * @property {() => void} leave
 * @property {() => void} useMicrophone
 * @property {() => void} unblockSound
 * @property {(tavernId: string) => void} openTavern
 */

const words = strings.call;

export class CallView {
  #actions;
  #muted = false;
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
          this.#mute,
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
    const { call, members, muted, listening, microphone, soundBlocked } = state;
    show(this.element, call !== null);
    if (!call) return;
    this.#tavernId = call.tavern.id;
    this.#muted = muted;
    setText(this.#where, words.inChannel(call.channelName));
    this.#where.title = call.tavern.name;
    let others = members.size === 0 ? words.alone : words.with(members.size);
    if (listening) others = `${words.listening} · ${others}`;
    setText(this.#with, call.joined ? others : words.rejoining);
    show(this.#mute, !listening);
    show(this.#useMicrophone, listening);
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
