/** The choice of colours. */

import { el } from "./dom.js";
import { rememberTheme } from "./memory.js";
import { strings } from "./strings.js";

const words = strings.theme;

/** @returns {HTMLElement} */
export function themeChooser() {
  const { theme = "system" } = document.documentElement.dataset;
  const select = el(
    "select",
    { id: "theme", "aria-label": words.label },
    ...Object.entries(words.names).map(([value, name]) => el("option", { value }, name)),
  );
  select.value = theme;
  select.addEventListener("change", () => {
    rememberTheme(select.value);
    if (select.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = select.value;
  });
  return select;
}
