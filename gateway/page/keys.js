// Which key does what in the list; what `?` shows is made of the same table.

import { dialog } from "./dialogs.js";
import { h } from "./dom.js";

/// `key` as the browser calls it, with `Ctrl+` before it where that has to be held (or Command), and `Shift+` where that makes another key of
/// it; `does` names a method of keyboard.js.
export const KEYS = [
  { key: "ArrowUp", shown: "↑", does: "up", words: "One up; with Shift select on the way" },
  { key: "ArrowDown", shown: "↓", does: "down", words: "One down; with Shift select on the way" },
  { key: "PageUp", shown: "Page Up", does: "pageUp", words: "A page up" },
  { key: "PageDown", shown: "Page Down", does: "pageDown", words: "A page down" },
  { key: "Home", does: "first", words: "To the first" },
  { key: "End", does: "last", words: "To the last" },
  { key: " ", shown: "Space", does: "toggle", words: "Select one more, or one less" },
  { key: "Ctrl+a", shown: "Ctrl+A", does: "selectAll", words: "Select all" },
  { key: "Escape", shown: "Esc", does: "selectNone", words: "Select nothing" },
  { key: "Enter", does: "openActive", words: "Open" },
  { key: "Backspace", does: "upwards", words: "To the folder above" },
  { key: "F2", does: "rename", words: "Rename" },
  { key: "Delete", does: "remove", words: "Put into the trash" },
  { key: "Shift+Delete", does: "removeForGood", words: "Delete for good" },
  { key: "Ctrl+i", shown: "Ctrl+I", does: "toggleDetails", words: "Details" },
  { key: "/", does: "search", words: "Search by name" },
  { key: "?", does: "help", words: "These keys" },
];

/// Those that buttons and links need for themselves; all others work wherever the focus is, but for fields that are typed into.
const OF_THE_LIST = new Set(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", " ", "Enter"]);

/// What a key does, in the list or beside it; `undefined`: nothing.
export function keyOf(event, { beside = false } = {}) {
  if (event.altKey || event.isComposing) return undefined;
  const held =
    (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + (event.shiftKey && event.key === "Delete" ? "Shift+" : "");
  const name = held + (event.key.length === 1 ? event.key.toLowerCase() : event.key);
  const found = KEYS.find((one) => one.key === name);
  return beside && OF_THE_LIST.has(found?.key) ? undefined : found;
}

/// Shows them.
export function help() {
  return dialog({
    title: "Keys",
    body: h(
      "dl",
      { class: "keys" },
      KEYS.map(({ key, shown, words }) => h("div", {}, h("dt", {}, h("kbd", {}, shown ?? key)), h("dd", {}, words))),
    ),
  });
}
