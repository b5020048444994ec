// What the page asks and tells beside what it shows: dialogs (the browser's own <dialog>, which keeps focus and ends with Escape), menus, and
// short notes at the edge.

import { button, fill, h, icon } from "./dom.js";
import { stem, whyNoName } from "./paths.js";

const NOTE_MS = 6000;
/// What has a name that somebody wants, where it is no file.
const WORDS = { folder: ", a folder", link: ", a link", other: ", which is no file" };

/// Opens a dialog. `body` is an element, or a function of `end(answer)`. Answers what it ends with; `null` when it is closed.
export function dialog({ title, body, buttons = [], kind = "", onclose }) {
  return new Promise((resolve) => {
    let answer = null;
    const before = document.activeElement;
    const end = (given) => {
      answer = given;
      element.close();
    };
    const content = typeof body === "function" ? body(end) : body;
    const element = h(
      "dialog",
      {
        class: kind,
        "aria-label": title,
        onclose: () => {
          element.remove();
          onclose?.();
          before?.focus?.({ preventScroll: true });
          resolve(answer);
        },
      },
      h(
        "header",
        {},
        h("h2", {}, title),
        button("Close", { picture: "close", textless: true, onclick: () => end(null) }),
      ),
      h("div", { class: "body" }, content),
      buttons.length
        ? h(
            "footer",
            {},
            buttons.map((one) => one(end)),
          )
        : null,
    );
    element.addEventListener("click", (event) => event.target === element && end(null));
    // Keys in a dialog are its own.
    element.addEventListener("keydown", (event) => event.stopPropagation());
    document.body.append(element);
    element.showModal();
    element.querySelector("[autofocus]")?.focus();
  });
}

const cancel = (end) => button("Cancel", { onclick: () => end(null) });

/// Asks for a yes.
export function confirm({ title, text, action, dangerous = false }) {
  return dialog({
    title,
    body: h("p", {}, text),
    buttons: [
      // What there is no way back from is not done by one key too many.
      (end) => button("Cancel", { autofocus: dangerous, onclick: () => end(null) }),
      (end) =>
        button(action, { kind: dangerous ? "danger" : "primary", autofocus: !dangerous, onclick: () => end(true) }),
    ],
  });
}

/// Asks for a name. Answers it.
export function askName({ title, label, value = "", action, isFolder = false }) {
  const input = h("input", {
    type: "text",
    value,
    autofocus: true,
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "why-no-name",
    id: "asked-name",
  });
  const why = h("p", { class: "wrong", id: "why-no-name", role: "alert" });
  const form = (end) =>
    h(
      "form",
      {
        method: "dialog",
        id: "name-form",
        onsubmit: (event) => {
          event.preventDefault();
          const wrong = whyNoName(input.value);
          fill(why, wrong ?? "");
          if (!wrong) end(input.value);
        },
      },
      h("label", { for: "asked-name" }, label),
      input,
      why,
    );
  const asked = dialog({
    title,
    body: form,
    buttons: [cancel, () => h("button", { class: "primary", form: "name-form" }, action)],
  });
  input.setSelectionRange(0, stem(value, isFolder)[0].length);
  return asked;
}

/// A name is taken by something (`there`: api.js, taken): what now? Answers `{how: "replace" | "both" | "skip", all}`; `null` when the dialog is
/// closed. A folder is replaced by nothing but a folder, and replaces nothing else.
export function askConflict({ name, there, isFolder = false, more = 0 }) {
  const isAlike = isFolder === (there === "folder");
  const all = h("input", { type: "checkbox", id: "for-all" });
  const choice =
    (how, text, kind = "plain") =>
    (end) =>
      button(text, { kind, onclick: () => end({ how, all: all.checked }) });
  return dialog({
    title: "The name is taken",
    body: h(
      "div",
      {},
      h(
        "p",
        {},
        "There is already ",
        h("strong", {}, name),
        WORDS[there] ?? "",
        isAlike
          ? isFolder
            ? ". Replacing it deletes that folder for good, with all in it."
            : ". Replacing it overwrites what is there."
          : isFolder
            ? ". A folder does not replace it."
            : ". A file does not replace a folder.",
      ),
      more > 0
        ? h("p", { class: "choice" }, all, h("label", { for: "for-all" }, `The same for all that follow`))
        : null,
    ),
    buttons: [
      choice("skip", "Skip"),
      choice("both", "Keep both", "plain"),
      ...(isAlike ? [choice("replace", "Replace", "danger")] : []),
    ],
  });
}

/// A short note. `wrong`: something was not done; it stays until it is closed.
export function note(text, { wrong = false, action, onaction } = {}) {
  const area = document.getElementById("toasts");
  const end = () => element.remove();
  const element = h(
    "div",
    { class: `toast${wrong ? " wrong" : ""}`, role: wrong ? "alert" : null },
    icon(wrong ? "warning" : "check"),
    h("p", {}, text),
    action ? button(action, { onclick: () => (end(), onaction()) }) : null,
    button("Close", { picture: "close", textless: true, onclick: end }),
  );
  area.append(element);
  while (area.children.length > 4) area.firstChild.remove();
  // What can be done about it has to be read, and reached.
  if (!wrong) setTimeout(end, action ? 2 * NOTE_MS : NOTE_MS);
}

/// Opens a menu at a place of the window. Items: `{label, picture, does, dangerous}`, or `null` for a line.
export function menu({ x, y, items, label }) {
  const before = document.activeElement;
  const end = () => {
    if (!element.isConnected) return;
    element.remove();
    document.removeEventListener("pointerdown", outside, true);
    before?.focus?.({ preventScroll: true });
  };
  const outside = (event) => element.contains(event.target) || end();
  const choices = items.map((item) =>
    item === null
      ? h("hr", { role: "separator" })
      : h(
          "button",
          {
            role: "menuitem",
            type: "button",
            tabindex: "-1",
            class: item.dangerous ? "dangerous" : "",
            onclick: () => (end(), item.does()),
          },
          icon(item.picture),
          h("span", {}, item.label),
          item.key ? h("kbd", { "aria-hidden": "true" }, item.key) : null,
        ),
  );
  const buttons = choices.filter((choice) => choice.tagName === "BUTTON");
  const step = (by) =>
    buttons[(buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length].focus();
  const keys = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    Escape: end,
    Tab: end,
    Home: () => buttons[0].focus(),
    End: () => buttons.at(-1).focus(),
  };
  const element = h(
    "div",
    {
      role: "menu",
      class: "menu",
      "aria-label": label,
      onkeydown: (event) => {
        event.stopPropagation();
        if (!keys[event.key]) return;
        event.preventDefault();
        keys[event.key]();
      },
    },
    choices,
  );
  (document.getElementById("main") ?? document.body).append(element);
  element.style.left = `${Math.max(8, Math.min(x, innerWidth - element.offsetWidth - 8))}px`;
  element.style.top = `${Math.max(8, Math.min(y, innerHeight - element.offsetHeight - 8))}px`;
  document.addEventListener("pointerdown", outside, true);
  buttons[0]?.focus();
}

/// Puts a text where one pastes from.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without TLS on another machine there is no clipboard: the old way.
  const area = h("textarea", { class: "unseen" }, text);
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  return area.remove();
}
