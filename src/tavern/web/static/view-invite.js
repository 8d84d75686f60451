/** How to invite others: the tavern's link, or why there is none to send. */

import { el, icon, setText } from "./dom.js";
import { invitationLink, inviteLink, isLoopback } from "./links.js";
import { strings } from "./strings.js";

const words = strings.tavern;

export class InviteView {
  #link = el("input", { id: "invite-link", readonly: true, onfocus: () => this.#link.select() });
  #copy = el("button", { type: "button", id: "copy-link", onclick: () => void this.#copyLink() });
  #picture = el("img", { alt: words.qr, width: 220, height: 220, loading: "lazy" });
  #qr = el("details", { class: "qr" }, el("summary", {}, words.showQr), this.#picture);
  #copied = el("p", { class: "done", role: "status" });
  #problem = el("p", { class: "problem", role: "alert" });

  constructor() {
    this.#copy.append(icon("link"), words.copy);
    this.element = el(
      "section",
      { class: "card", "aria-labelledby": "invite-title" },
      el("h2", { id: "invite-title" }, words.inviteTitle),
      ...(isLoopback(location.hostname)
        ? [el("p", { id: "loopback" }, words.loopback)]
        : [
            el("label", { for: "invite-link", class: "visually-hidden" }, words.inviteLabel),
            this.#link,
            this.#copy,
            this.#copied,
            this.#problem,
            this.#qr,
          ]),
    );
  }

  /**
   * @param {string} tavernId
   * @param {string | null} token of an invitation, for those whom a lock would keep out
   */
  update(tavernId, token) {
    const link =
      token === null ? inviteLink(location.origin, tavernId) : invitationLink(location.origin, tavernId, token);
    if (this.#link.value === link) return;
    this.#link.value = link;
    // Without the token of an invitation: that is no business of anybody's logs. What shows it is a link to copy.
    const secure = location.protocol === "https:" ? "?secure" : "";
    this.#picture.src = `/qr/${encodeURIComponent(tavernId)}.svg${secure}`;
    this.#say("", "");
  }

  async #copyLink() {
    try {
      await navigator.clipboard.writeText(this.#link.value);
    } catch {
      // Not allowed, or no clipboard on an http page: the older way, and then by hand.
      this.#link.focus();
      this.#link.select();
      if (!document.execCommand("copy")) {
        this.#say("", words.copyFailed);
        return;
      }
    }
    this.#say(words.copied, "");
  }

  /**
   * @param {string} done
   * @param {string} problem
   */
  #say(done, problem) {
    setText(this.#copied, done);
    setText(this.#problem, problem);
  }
}
