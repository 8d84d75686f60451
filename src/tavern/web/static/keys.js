/**
 * What keys do: push to talk, and shortcuts. None of them while somebody types.
 *
 * @typedef {object} KeyActions
 * @property {() => string | null} pushKey the `code` of the key that is held to talk; null where none is
 * @property {() => void} press
 * @property {() => void} release
 * @property {Record<string, () => void>} shortcuts by `key`, in lower case
 */

/**
 * Whether a key that goes to this element is meant for it.
 *
 * @param {EventTarget | null} target
 * @param {string} code
 * @returns {boolean}
 */
export function isForElement(target, code) {
  if (!(target instanceof Element)) return false;
  if (target.closest("input, textarea, select, [contenteditable]")) return true;
  return (code === "Space" || code === "Enter") && target.closest("button, a, summary") !== null;
}

/**
 * @param {Window} window
 * @param {KeyActions} actions
 */
export function listenToKeys(window, { pushKey, press, release, shortcuts }) {
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || isForElement(event.target, event.code)) return;
    if (event.code === pushKey()) {
      event.preventDefault(); // or the page would scroll
      press();
    } else if (!event.repeat) {
      shortcuts[event.key.toLowerCase()]?.();
    }
  });
  window.addEventListener("keyup", (event) => {
    if (event.code === pushKey()) release();
  });
  // A key that is let go elsewhere is let go.
  window.addEventListener("blur", release);
}
