/**
 * The page as a whole: the head, what has to be said at once, one of the two screens, and the call.
 *
 * @typedef {import("./state.js").State} State
 */

import { CallView } from "./view-call.js";
import { el, hasFocus, icon, setText, show } from "./dom.js";
import { HomeView } from "./view-home.js";
import { strings } from "./strings.js";
import { TavernView } from "./view-tavern.js";
import { themeChooser } from "./view-theme.js";

/**
 * @typedef {import("./view-call.js").CallActions & import("./view-tavern.js").TavernActions & {
 *   createTavern: (name: string) => void,
 *   wake: () => void,
 *   useHere: () => void,
 *   dismissNotice: () => void,
 * }} Actions
 */

export class View {
  #home;
  #tavern;
  #call;
  /** @type {string | null | undefined} */
  #shown = undefined;
  /** The connection was there and went, and is not back yet. */
  #lost = false;
  /** What the keyboard was on is gone from the page: it goes on with what comes in its place. */
  #astray = false;
  /** Another screen is shown, and has not been told to the keyboard yet. */
  #arrived = false;
  #connectionText = el("span");
  #connection = el("div", { class: "banner late", role: "status", id: "connection" });
  #noticeText = el("span");
  #notice = el("div", { class: "banner problem", role: "alert", id: "notice" });
  #replaced = el("section", { class: "banner calm", role: "alert", id: "replaced" });
  #tryNow;

  /**
   * @param {HTMLElement} page
   * @param {Actions} actions
   */
  constructor(page, actions) {
    this.#home = new HomeView({ onCreate: actions.createTavern, onOpen: actions.openTavern });
    this.#tavern = new TavernView(actions);
    this.#call = new CallView(actions);
    this.#tryNow = el("button", { type: "button", class: "small", onclick: () => actions.wake() }, strings.connection.now);
    this.#connection.append(this.#connectionText, this.#tryNow);
    this.#notice.append(
      this.#noticeText,
      el(
        "button",
        { type: "button", class: "quiet bare", "aria-label": strings.dismiss, onclick: () => actions.dismissNotice() },
        icon("close"),
      ),
    );
    this.#replaced.append(
      el("span", {}, el("strong", {}, strings.replaced.title), " ", strings.replaced.text),
      el("button", { type: "button", class: "primary", id: "use-here", onclick: () => actions.useHere() }, strings.replaced.useHere),
    );
    page.append(
      el(
        "header",
        { class: "top" },
        el(
          "a",
          {
            href: "/",
            class: "brand",
            "aria-label": strings.toFrontPage,
            onclick: (event) => {
              event.preventDefault();
              actions.goHome();
            },
          },
          el("img", { src: "/static/logo.svg", alt: "", width: 32, height: 32 }),
          el("span", {}, strings.appName),
        ),
        el("span", { class: "hint" }, strings.tagline),
        themeChooser(),
      ),
      el("div", { class: "banners" }, this.#replaced, this.#connection, this.#notice),
      el("main", {}, this.#home.element, this.#tavern.element),
      this.#call.element,
    );
  }

  /** @param {State} state */
  update(state) {
    const { tavernId, call } = state;
    const hadFocus = hasFocus();
    this.#updateBanners(state);
    show(this.#home.element, tavernId === null);
    show(this.#tavern.element, tavernId !== null);
    if (tavernId === null) this.#home.update(state);
    else this.#tavern.update(state);
    this.#call.update(state);
    document.body.classList.toggle("in-call", call !== null);
    document.title = state.tavern ? `${state.tavern.name} · ${strings.appName}` : strings.appName;
    if (hadFocus && !hasFocus()) this.#astray = true;
    this.#arrive(tavernId);
    this.#restoreFocus(state);
  }

  /** @param {State} state */
  #updateBanners({ connection, call, notice }) {
    if (connection === "waiting") this.#lost = true;
    else if (connection !== "connecting") this.#lost = false;
    show(this.#replaced, connection === "replaced");
    show(this.#connection, connection === "connecting" || connection === "waiting");
    show(this.#tryNow, this.#lost);
    const lost = call ? strings.connection.lostInCall : strings.connection.lost;
    setText(this.#connectionText, this.#lost ? lost : strings.connection.connecting);
    show(this.#notice, notice !== null);
    setText(this.#noticeText, notice?.text ?? "");
  }

  /**
   * On another screen than before: from its top.
   *
   * @param {string | null} tavernId
   */
  #arrive(tavernId) {
    if (this.#shown === tavernId) return;
    if (this.#shown === null) this.#home.clear();
    if (this.#shown !== undefined) {
      window.scrollTo(0, 0);
      this.#arrived = true;
    }
    this.#shown = tavernId;
  }

  /**
   * The keyboard, and with it what a screen reader says, goes on where the page goes on.
   *
   * @param {State} state
   */
  #restoreFocus({ tavernId, call, joining }) {
    if (!this.#astray) {
      this.#arrived = false;
      return;
    }
    if (hasFocus()) {
      this.#astray = false;
      return;
    }
    const screen = tavernId === null ? this.#home : this.#tavern;
    const talking = call !== null && joining === null;
    const place = this.#arrived ? screen.landmark : talking ? this.#call.mainstay : screen.mainstay;
    if (!place) return;
    place.focus();
    this.#astray = this.#arrived = false;
  }
}
