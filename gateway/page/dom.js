// Elements of the page: made by one function each, so that every module reads as what it shows. Text is only ever set as text:
// no name of a file becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/// An element: h("button", {class: "plain", onclick: go}, "Go"). A property that is a function is a listener, `true` is an attribute without
/// a value, `false` and `null` are none; `value` and `checked` are set as properties. Children are elements, texts, lists of them, or nothing.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  return fill(element, ...children);
}

/// Exchanges what is in an element. Answers the element.
export function fill(element, ...children) {
  const there = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...there);
  return element;
}

/// An element of SVG.
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Drawn on 24 by 24, as lines.
const LINES = {
  folder:
    "M3 6.5A1.5 1.5 0 0 1 4.5 5h4.2l2 2.5h8.8A1.5 1.5 0 0 1 21 9v8.5a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 17.5z",
  file: "M6 3.5h8l4.5 4.5v12.5H6zM13.5 3.5V8.5h5",
  image: "M4 5h16v14H4zM4 16l4.5-4.5 4 4 2.5-2.5 5 5M15.5 9.5h.01",
  video: "M3.5 6h12v12h-12zM15.5 10.5l5-3v9l-5-3",
  audio: "M9 18V6l10-2v12M9 18a2.5 2 0 1 1-5 0a2.5 2 0 1 1 5 0M19 16a2.5 2 0 1 1-5 0a2.5 2 0 1 1 5 0",
  text: "M6 3.5h12v17H6zM9 8h6M9 12h6M9 16h4",
  archive: "M4 4.5h16v4H4zM5.5 8.5v11h13v-11M10 12h4",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.7l1-1",
  other: "M12 4l8 8-8 8-8-8z",
  upload: "M12 16V5M7.5 9.5L12 5l4.5 4.5M5 19.5h14",
  download: "M12 5v11M7.5 11.5L12 16l4.5-4.5M5 19.5h14",
  "new-folder":
    "M3 6.5A1.5 1.5 0 0 1 4.5 5h4.2l2 2.5h8.8A1.5 1.5 0 0 1 21 9v8.5a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 17.5zM12 10.5v5.5M9.2 13.2h5.6",
  rename: "M4 20l1-4.5L16 4.5 19.5 8 8.5 19zM14 6.5l3.5 3.5",
  move: "M4 12h14M13 7l5 5-5 5",
  copy: "M8 8h12v12H8zM16 8V4H4v12h4",
  delete: "M4.5 7h15M9.5 7V4.5h5V7M6.5 7l1 13h9l1-13M10.5 11v5.5M13.5 11v5.5",
  share:
    "M17 8.5a2.5 2.5 0 1 0 0-5a2.5 2.5 0 0 0 0 5zM7 14.5a2.5 2.5 0 1 0 0-5a2.5 2.5 0 0 0 0 5zM17 20.5a2.5 2.5 0 1 0 0-5a2.5 2.5 0 0 0 0 5zM9.2 10.8l5.6-3.4M9.2 13.2l5.6 3.4",
  details: "M12 20.5a8.5 8.5 0 1 0 0-17a8.5 8.5 0 0 0 0 17zM12 11v5M12 8h.01",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  close: "M6 6l12 12M18 6L6 18",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13a6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20",
  filter: "M4 6h16M7 12h10M10 18h4",
  check: "M5 12.5l4.5 4.5L19 7.5",
  pause: "M9 6v12M15 6v12",
  play: "M8 5.5l10.5 6.5L8 18.5z",
  again: "M19 12a7 7 0 1 1-2.2-5.1M19.5 4v4.5H15",
  left: "M14.5 5.5L8 12l6.5 6.5",
  right: "M9.5 5.5L16 12l-6.5 6.5",
  up: "M12 19V6M6.5 11L12 5.5 17.5 11",
  light:
    "M12 16.5a4.5 4.5 0 1 0 0-9a4.5 4.5 0 0 0 0 9zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M18.7 5.3l-1.4 1.4M6.7 17.3l-1.4 1.4",
  dark: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  auto: "M12 20.5a8.5 8.5 0 1 0 0-17a8.5 8.5 0 0 0 0 17zM12 3.5v17M12 8l4.5-2.5M12 12.5l7-3.5M12 17l7-3.5",
  user: "M12 12a4 4 0 1 0 0-8a4 4 0 0 0 0 8zM4.5 20.5a7.5 6.5 0 0 1 15 0",
  logout: "M10 4H5v16h5M10 12h10M16 8l4 4-4 4",
  help: "M12 20.5a8.5 8.5 0 1 0 0-17a8.5 8.5 0 0 0 0 17zM9.5 9.5a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .8-1 1.7M12 16.5h.01",
  warning: "M12 4l9 16H3zM12 10v4.5M12 17.2h.01",
  disk: "M4 5h16v14H4zM4 14h16M16.5 16.5h.01M13.5 16.5h.01",
  files:
    "M3 6.5A1.5 1.5 0 0 1 4.5 5h4.2l2 2.5h8.8A1.5 1.5 0 0 1 21 9v8.5a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 17.5z",
  status: "M3 12h4l3-7 4 14 3-7h4",
};

/// A small picture that says nothing by itself.
export function icon(name) {
  const path = svg("path", { d: LINES[name] ?? LINES.other });
  return svg("svg", { viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" }, path);
}

/// A button with a picture; `label` is its text, or, if it shows none, what it is called.
export function button(label, { picture, onclick, kind = "plain", textless = false, ...more } = {}) {
  const named = textless ? { "aria-label": label, title: label } : {};
  return h(
    "button",
    { type: "button", class: kind + (textless ? " textless" : ""), onclick, ...named, ...more },
    picture ? icon(picture) : null,
    textless ? null : h("span", {}, label),
  );
}
