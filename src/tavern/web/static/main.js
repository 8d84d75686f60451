/** Puts the page together: the identity, the session, the view, and the address bar. */

import { keepAwake } from "./awake.js";
import { el } from "./dom.js";
import { loadIdentity } from "./identity.js";
import { listenToKeys } from "./keys.js";
import { invitationIn, invitePath, tavernInPath } from "./links.js";
import { Session } from "./session.js";
import { strings } from "./strings.js";
import { View } from "./view.js";

const page = document.getElementById("page");
if (!page) throw new Error("the page has no place for itself");
if (!("RTCPeerConnection" in window)) {
  page.append(el("p", { class: "loading", role: "alert" }, strings.noWebRtc));
  throw new Error("no WebRTC");
}

const identity = window.isSecureContext ? await loadIdentity() : null;
const session = new Session({
  url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/`,
  host: location.hostname,
  invite: new URLSearchParams(location.search).get("invite"),
  identity,
  notice: identity && !identity.kept ? strings.notKept : null,
  onChange: (state) => view.update(state),
});

/** @param {string | null} tavernId */
function go(tavernId) {
  const path = tavernId === null ? "/" : invitePath(tavernId);
  if (path !== location.pathname) history.pushState(null, "", path);
  session.open(tavernId);
}

keepAwake(() => session.state.call !== null);
const view = new View(page, {
  createTavern: (name) => session.createTavern(name, go),
  openTavern: go,
  goHome: () => go(null),
  join: (channelId, options) => void session.join(channelId, options),
  cancelJoin: () => session.cancelJoin(),
  createChannel: (name) => session.createChannel(name),
  rename: (name) => session.rename(name),
  manage: (message) => session.manage(message),
  retry: (peer) => session.retry(peer),
  confirmName: (peer) => session.confirmName(peer),
  mute: (muted) => session.sound.mute(muted),
  deafen: (deafened) => session.sound.deafen(deafened),
  press: () => session.sound.push.press(),
  release: () => session.sound.push.release(),
  setAudio: (changes) => void session.sound.set(changes),
  setVolume: (peer, volume) => session.sound.setVolume(peer, volume),
  leave: () => session.leave(),
  useMicrophone: () => void session.useMicrophone(),
  hide: (hidden) => session.hide(hidden),
  hideHere: (hidden) => session.hideHere(hidden),
  diagnostics: () => session.diagnostics(),
  sendText: (text) => session.sendText(text),
  unblockSound: () => session.sound.unblock(),
  wake: () => session.wake(),
  useHere: () => void session.useHere(),
  dismissNotice: () => session.dismissNotice(),
});

const inCall = (/** @type {() => void} */ act) => () => {
  if (session.state.call) act();
};
listenToKeys(window, {
  pushKey: () => (session.state.call && session.state.audio.mode === "push" ? session.state.audio.pushKey : null),
  press: () => session.sound.push.press(),
  release: () => session.sound.push.release(),
  shortcuts: {
    m: inCall(() => session.sound.mute(!session.state.muted)),
    d: inCall(() => session.sound.deafen(!session.state.deafened)),
  },
});
window.addEventListener("popstate", () => session.open(tavernInPath(location.pathname)));
window.addEventListener("online", () => session.networkChanged());
// Where the browser tells (Chromium): wifi to mobile and back, without a moment of being offline.
/** @type {{connection?: EventTarget}} */ (navigator).connection?.addEventListener("change", () => session.networkChanged());
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") session.wake();
});

session.open(tavernInPath(location.pathname), invitationIn(location.hash));
session.start();
view.update(session.state);
