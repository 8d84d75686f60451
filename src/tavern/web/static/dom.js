/** Small help for making elements; text always goes in as text. */

/**
 * @typedef {Node | string | null | undefined | false} Child
 * @typedef {Record<string, string | number | boolean | ((event: Event) => void)>} Attributes
 */

/**
 * An element. Attributes named `on…` are listeners; true and false set and leave out an attribute.
 *
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(key, value);
    else element.setAttribute(key, String(value));
  }
  for (const child of children) if (child) element.append(child);
  return element;
}

/**
 * A picture from the sheet of icons.
 *
 * @param {string} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/**
 * Sets the text, and touches nothing when it is the same: a screen reader would say it again.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @param {HTMLElement} element
 * @param {boolean} shown
 */
export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

/**
 * Makes a parent's children match a list. Elements of items that stay are kept, with their focus and all.
 *
 * @template Item
 * @template {HTMLElement} Row
 * @param {HTMLElement} parent
 * @param {Iterable<Item>} items
 * @param {{key: (item: Item) => string, make: (item: Item) => Row, update: (row: Row, item: Item) => void}} how
 */
export function list(parent, items, { key, make, update }) {
  const rows = [...parent.children];
  const old = new Map(rows.map((row) => [/** @type {HTMLElement} */ (row).dataset.key, row]));
  const kept = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const itemKey = key(item);
    let row = /** @type {Row | undefined} */ (old.get(itemKey));
    old.delete(itemKey);
    if (!row) {
      row = make(item);
      row.dataset.key = itemKey;
    }
    if (row === place) place = place.nextElementSibling;
    else parent.insertBefore(row, place);
    update(row, item);
    kept.add(row);
  }
  for (const row of rows) if (!kept.has(row)) row.remove();
}

/**
 * Whether the keyboard is somewhere in the page: on what is shown and can be used.
 *
 * @returns {boolean}
 */
export function hasFocus() {
  const focused = document.activeElement;
  if (!focused || focused === document.body) return false;
  return focused.getClientRects().length > 0 && !focused.matches(":disabled");
}
