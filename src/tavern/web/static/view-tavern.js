/** A tavern: its channels, who is in them, and the way in. */

import { el, icon, list, setText, show } from "./dom.js";
import { CHANNEL_HOLDS, firstWithRoom, peopleIn } from "./channel-people.js";
import { hueOf, initialOf, showPeople } from "./people.js";
import { strings } from "./strings.js";
import { AudioView } from "./view-audio.js";
import { KeyView } from "./view-key.js";
import { InviteView } from "./view-invite.js";
import { ManageView, roleIn } from "./view-manage.js";
import { TextView } from "./view-text.js";

/**
 * @typedef {import("./state.js").State} State
 * @typedef {import("./messages.js").Channel} Channel
 * @typedef {import("./messages.js").Tavern} Tavern
 *
 * @typedef {import("./view-audio.js").AudioActions & import("./view-text.js").TextActions
 *   & import("./view-manage.js").ManageActions & TavernOnlyActions
 * } TavernActions
 *
 * @typedef {object} TavernOnlyActions
 * @property {(channelId: string, options?: {listenOnly?: boolean}) => void} join
 * @property {() => void} cancelJoin
 * @property {(name: string) => boolean} createChannel whether it was asked for
 * @property {(name: string) => void} rename
 * @property {(peer: string) => void} retry
 * @property {(peer: string) => void} confirmName
 * @property {(peer: string, volume: number) => void} setVolume
 * @property {() => void} goHome
 */

const words = strings.tavern;

/**
 * Whether a tavern's icon is a character or two, an emoji say, rather than a name or a picture.
 *
 * @param {string} icon
 * @returns {boolean}
 */
export function isGlyph(icon) {
  return icon.trim() !== "" && icon.length <= 12 && !/^[\w:/.-]{3,}$/.test(icon);
}

/** This page as the computer where the server runs can open it with a microphone. */
function localUrl() {
  const url = new URL(location.href);
  url.hostname = "localhost";
  return url.href;
}

export class TavernView {
  #actions;
  /** @type {State | null} */
  #state = null;
  /** The name that the field was last given; what is being typed stays. */
  #namedAs = "";

  #heading = el("h1", { tabindex: -1 });
  #badge = el("span", { class: "avatar square large", "aria-hidden": "true" });
  #people = el("p", { class: "hint" });
  #channels = el("ul", { class: "channels" });
  #name = el("input", {
    id: "display-name",
    name: "display-name",
    maxlength: 64,
    autocomplete: "nickname",
    placeholder: words.namePlaceholder,
    onchange: () => this.#actions.rename(this.#name.value),
  });
  #tag = el("span", { class: "tag" });
  #joinButton = el("button", { type: "submit", class: "primary big", id: "join" });
  #joinLabel = el("span");
  #joinHint = el("p", { class: "hint" }, words.invited);
  #cancel = el("button", { type: "button", class: "quiet", onclick: () => this.#actions.cancelJoin() }, words.cancel);
  #way = el("form", {
    class: "card way",
    onsubmit: (event) => {
      event.preventDefault();
      this.#actions.rename(this.#name.value);
      const channel = this.#state?.tavern && firstWithRoom(this.#state.tavern);
      if (channel && !this.#state?.call && !this.#joinButton.hidden) this.#actions.join(channel.id);
    },
  });
  #microphoneTitle = el("h2");
  #microphoneText = el("p");
  #retryMicrophone = el(
    "button",
    { type: "button", class: "primary", onclick: () => this.#again() },
    strings.microphone.again,
  );
  #microphone = el("section", { class: "card warn", role: "alert", id: "microphone-trouble" });
  #insecure = el("section", { class: "card warn", id: "insecure", "aria-labelledby": "insecure-title" });
  #invite = new InviteView();
  #audio;
  #manageView;
  #text;
  #newChannel = el("input", {
    id: "channel-name",
    name: "channel-name",
    required: true,
    maxlength: 100,
    autocomplete: "off",
    placeholder: words.newChannelPlaceholder,
    "aria-label": words.newChannelLabel,
  });
  #found = el("div", { class: "tavern" });
  #missing = el("section", { class: "card lonely", id: "missing" });
  #leaveMissing = el(
    "button",
    { type: "button", class: "primary", onclick: () => this.#actions.goHome() },
    words.toHome,
  );
  #loading = el("p", { class: "loading", role: "status" }, words.loading);

  /** @param {TavernActions} actions */
  constructor(actions) {
    this.#actions = actions;
    this.#audio = new AudioView(actions);
    this.#manageView = new ManageView(actions);
    this.#text = new TextView(actions);
    this.#joinButton.append(icon("mic"), this.#joinLabel);
    this.#way.append(
      el("label", { for: "display-name" }, words.nameLabel),
      el("div", { class: "field" }, this.#name, this.#tag),
      this.#joinButton,
      this.#cancel,
      this.#joinHint,
      new KeyView().element,
    );
    this.#microphone.append(
      this.#microphoneTitle,
      this.#microphoneText,
      el(
        "div",
        { class: "buttons" },
        this.#retryMicrophone,
        el(
          "button",
          { type: "button", id: "listen-only", onclick: () => this.#again({ listenOnly: true }) },
          icon("headphones"),
          strings.microphone.listen,
        ),
        el("button", { type: "button", class: "quiet", onclick: () => actions.cancelJoin() }, words.cancel),
      ),
    );
    this.#insecure.append(
      el("h2", { id: "insecure-title" }, strings.insecure.title),
      el("p", {}, strings.insecure.text),
      el("h3", {}, strings.insecure.mendTitle),
      el("ul", {}, ...strings.insecure.mend(localUrl()).map((text) => el("li", {}, text))),
    );
    this.#missing.append(
      el("h1", {}, words.missingTitle),
      el("p", {}, words.missing),
      this.#leaveMissing,
    );
    this.#found.append(
      el("header", { class: "title" }, this.#badge, el("div", {}, this.#heading, this.#people)),
      el(
        "section",
        { class: "rooms", "aria-labelledby": "channels-title" },
        el("h2", { id: "channels-title" }, words.channels),
        this.#channels,
        el(
          "form",
          {
            class: "field add",
            onsubmit: (event) => {
              event.preventDefault();
              const name = this.#newChannel.value.trim();
              if (!name) return;
              if (actions.createChannel(name)) this.#newChannel.value = "";
            },
          },
          this.#newChannel,
          el("button", { type: "submit", "aria-label": words.newChannel }, icon("plus"), words.add),
        ),
      ),
      el("div", { class: "side" }, this.#insecure, this.#microphone, this.#way, this.#text.element, this.#audio.element, this.#manageView.element, this.#invite.element),
    );
    this.element = el("div", {}, this.#loading, this.#missing, this.#found);
  }

  /** @param {State} state */
  update(state) {
    this.#state = state;
    const { tavern, identity, call, microphone, joining } = state;
    show(this.#loading, !tavern && !state.missing);
    show(this.#missing, state.missing);
    show(this.#found, tavern !== null && !state.missing);
    if (!tavern) return;

    setText(this.#heading, tavern.name);
    setText(this.#badge, isGlyph(tavern.icon) ? tavern.icon : initialOf(tavern.name));
    this.#badge.className = `avatar square large hue-${hueOf(tavern.id)}`;
    const everybody = tavern.channels.reduce((sum, channel) => sum + peopleIn(state, channel).length, 0);
    setText(this.#people, everybody === 0 ? words.empty : words.people(everybody));

    show(this.#insecure, identity === null);
    const inTheWay = joining !== null && microphone !== null;
    show(this.#microphone, inTheWay);
    if (inTheWay) {
      const trouble = strings.microphone.trouble(microphone);
      setText(this.#microphoneTitle, trouble.title);
      setText(this.#microphoneText, trouble.text);
    }

    show(this.#way, identity !== null);
    if (this.#namedAs !== state.displayName) {
      this.#namedAs = state.displayName;
      this.#name.value = state.displayName;
    }
    setText(this.#tag, identity?.tag ?? "");
    const channel = firstWithRoom(tavern);
    const offered = !call && channel !== null && !inTheWay;
    show(this.#joinButton, offered);
    show(this.#joinHint, offered && joining === null);
    show(this.#cancel, offered && joining !== null);
    this.#joinButton.disabled = joining !== null || state.connection === "replaced";
    const pressed = state.asking ? words.asking : words.joining;
    setText(this.#joinLabel, joining !== null ? pressed : words.joinChannel(channel?.name ?? ""));

    show(this.#audio.element, identity !== null);
    this.#audio.update(state);
    this.#text.update(state);
    this.#manageView.update(state);
    const { invitation } = state;
    this.#invite.update(tavern.id, invitation?.tavernId === tavern.id ? invitation.token : null);
    list(this.#channels, tavern.channels, {
      key: ({ id }) => id,
      make: (item) => this.#makeChannel(item),
      update: (row, item) => this.#updateChannel(row, item, state),
    });
  }

  /**
   * Where the keyboard goes on when what it was on is gone: the way in, or what stands in its place. Null while that is
   * still to be seen.
   *
   * @returns {HTMLElement | null}
   */
  get mainstay() {
    if (!this.#state || !this.#loading.hidden) return null;
    if (!this.#missing.hidden) return this.#leaveMissing;
    if (!this.#microphone.hidden) return this.#retryMicrophone;
    if (this.#state.joining !== null) return null;
    return this.#joinButton.hidden || this.#joinButton.disabled ? this.#heading : this.#joinButton;
  }

  /** What says where one is after going there. @returns {HTMLElement | null} */
  get landmark() {
    return this.#found.hidden ? this.mainstay : this.#heading;
  }

  /** @param {import("./messages.js").ManageWithout} message */
  #manage(message) {
    const tavernId = this.#state?.tavern?.id;
    if (tavernId) this.#actions.manage({ ...message, tavernId });
  }

  /** @param {string} channelId */
  #renameChannel(channelId) {
    const channel = this.#state?.tavern?.channels.find(({ id }) => id === channelId);
    const name = window.prompt(words.newName, channel?.name ?? "")?.trim();
    if (name) this.#manage({ type: "update-channel", channelId, name });
  }

  /** @param {string} channelId */
  #deleteChannel(channelId) {
    if (window.confirm(words.confirmDeleteChannel)) this.#manage({ type: "delete-channel", channelId });
  }

  /** @param {{listenOnly?: boolean}} [options] */
  #again(options) {
    const joining = this.#state?.joining;
    if (joining) this.#actions.join(joining, options);
  }

  /**
   * @param {Channel} channel
   * @returns {HTMLLIElement}
   */
  #makeChannel(channel) {
    return el(
      "li",
      { class: "channel" },
      el(
        "div",
        { class: "channel-head" },
        icon("channel"),
        el("h3", { class: "name" }, channel.name),
        el("span", { class: "count" }),
        el(
          "button",
          { type: "button", class: "small quiet rename-channel", onclick: () => this.#renameChannel(channel.id) },
          words.renameChannel,
        ),
        el(
          "button",
          { type: "button", class: "small quiet delete-channel", onclick: () => this.#deleteChannel(channel.id) },
          words.deleteChannel,
        ),
        el("button", { type: "button", class: "small enter", onclick: () => this.#actions.join(channel.id) }, words.join),
      ),
      el("ul", { class: "people" }),
    );
  }

  /**
   * @param {HTMLElement} row
   * @param {Channel} channel
   * @param {State} state
   */
  #updateChannel(row, channel, state) {
    const part = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (row.querySelector(selector));
    const { call } = state;
    const here = call?.tavern.id === state.tavernId && call?.channelId === channel.id;
    const people = peopleIn(state, channel);
    const full = people.length >= CHANNEL_HOLDS;
    row.classList.toggle("here", here);
    row.dataset.channel = channel.name;
    setText(part(".channel-head .name"), channel.name);
    setText(part(".count"), people.length > 0 ? `${people.length}/${CHANNEL_HOLDS}` : "");
    const button = /** @type {HTMLButtonElement} */ (part(".channel-head .enter"));
    show(button, !here && state.identity !== null);
    button.disabled = full || state.joining !== null || state.connection === "replaced";
    setText(button, full ? words.full : words.join);
    button.setAttribute("aria-label", call ? words.switchTo(channel.name) : words.joinChannel(channel.name));
    showPeople(part(".people"), people, { ...this.#actions, manageHere: (message) => this.#manage(message) });
    const role = state.tavern && state.identity && roleIn(state.tavern, state.identity.publicKeyHex);
    show(part(".rename-channel"), role !== null);
    show(part(".delete-channel"), role === "owner");
    show(part(".people"), people.length > 0);
  }
}
