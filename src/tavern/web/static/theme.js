/**
 * The colours, before anything is drawn (a module would come after the first picture): as one has chosen, else as the
 * system wishes. Chosen anew, which is told by the event "tavern-theme", they change at once.
 */
{
  const contrast = matchMedia("(prefers-contrast: more)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let chosen = "";
    try {
      chosen = localStorage.getItem("tavern.theme") ?? "";
    } catch {
      // Storage is switched off: as the system.
    }
    const wished = contrast.matches ? "contrast" : dark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = ["light", "dark", "retro", "contrast"].includes(chosen) ? chosen : wished;
  };
  apply();
  for (const wish of [contrast, dark]) wish.addEventListener("change", apply);
  document.addEventListener("tavern-theme", apply);
}
