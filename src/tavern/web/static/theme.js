/**
 * The colours that were chosen, before anything is drawn: a module would come after the first picture.
 *
 * @typedef {"system" | "light" | "dark" | "retro" | "contrast"} Theme
 */
{
  let chosen = "";
  try {
    chosen = localStorage.getItem("tavern.theme") ?? "";
  } catch {
    // Storage is switched off: as the system.
  }
  if (["light", "dark", "retro", "contrast"].includes(chosen)) document.documentElement.dataset.theme = chosen;
}
