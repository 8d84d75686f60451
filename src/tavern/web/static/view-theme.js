/** The choice of colours. */

import { el } from "./dom.js";
import { rememberedTheme, rememberTheme } from "./memory.js";
import { strings } from "./strings.js";

const words = strings.theme;

/** @returns {HTMLElement} */
export function themeChooser() {
  const select = el(
    "select",
    { id: "theme", "aria-label": words.label },
    ...Object.entries(words.names).map(([value, name]) => el("option", { value }, name)),
  );
  select.value = rememberedTheme() || "system";
  select.addEventListener("change", () => {
    rememberTheme(select.value);
    document.dispatchEvent(new Event("tavern-theme")); // theme.js
  });
  return select;
}
