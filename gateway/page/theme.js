// Dark or light: as the device says, unless somebody has chosen.

import { button, fill, icon } from "./dom.js";
import { keep, kept } from "./kept.js";

const KEPT = "ashlar.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const WORDS = { auto: "as on this device", light: "light", dark: "dark" };

const chosen = () => kept(KEPT) ?? "auto";

/// Has the page look as it was chosen.
export function apply() {
  document.documentElement.dataset.theme = chosen();
}

/// A button that goes from one to the next.
export function themeButton() {
  const one = button("Theme", {
    textless: true,
    onclick: () => {
      keep(KEPT, NEXT[chosen()]);
      apply();
      draw();
    },
  });
  const draw = () => {
    fill(one, icon(chosen()));
    const words = `Colours: ${WORDS[chosen()]}`;
    one.setAttribute("aria-label", words);
    one.title = words;
  };
  draw();
  return one;
}
