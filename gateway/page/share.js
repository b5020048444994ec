// Share links: whoever has one can read a folder, without an account, until it is over or revoked.

import * as api from "./api.js";
import { copyText, dialog, note } from "./dialogs.js";
import { button, fill, h } from "./dom.js";
import { canonicalPath, decode } from "./paths.js";
import { moment } from "./words.js";

const DAY = 86_400;
const SPANS = [
  [1, "1 day"],
  [7, "7 days"],
  [30, "30 days"],
  [90, "90 days"],
];

/// The address that a link is opened by.
const addressOf = (link) => `${location.origin}/?link=${encodeURIComponent(link)}`;

/// Makes, shows and revokes the links of a folder.
export function share({ path, name }) {
  const made = h("div", { class: "made", "aria-live": "polite" });
  const there = h("div", { tabindex: "-1" });
  const wrong = h("p", { class: "wrong", role: "alert" });
  const days = h(
    "select",
    { id: "share-days" },
    SPANS.map(([value, words]) => h("option", { value: String(value), selected: value === 7 }, words)),
  );
  const attempt = (does) => async () => {
    fill(wrong);
    try {
      await does();
    } catch (why) {
      fill(wrong, why.message);
    }
  };
  const show = attempt(async () => fill(there, ...linksOf(await api.links(), path, revoke)));
  const revoke = (id) =>
    attempt(async () => {
      await api.revokeLink(id);
      // It may be the one that is shown, and the button that was pressed goes.
      fill(made);
      there.focus();
      note("The link was revoked. It opens nothing any more.");
      await show();
    });
  const make = attempt(async () => {
    const { link } = await api.makeLink(path, Number(days.value) * DAY);
    fill(made, shown(addressOf(link)));
    made.querySelector("input").select();
    await show();
  });
  show();
  return dialog({
    title: `Share “${name}”`,
    body: h(
      "div",
      { class: "share" },
      h("p", {}, "Whoever has the link can see and download this folder with all in it, and change nothing."),
      h(
        "div",
        { class: "inline" },
        h("label", { for: "share-days" }, "For"),
        days,
        button("Make a link", { kind: "primary", picture: "share", onclick: make, autofocus: true }),
      ),
      made,
      wrong,
      h("h3", {}, "Links of this folder"),
      there,
    ),
  });
}

function shown(address) {
  const input = h("input", {
    type: "text",
    readonly: true,
    value: address,
    "aria-label": "The link",
    onfocus: () => input.select(),
  });
  return h(
    "div",
    { class: "inline" },
    input,
    button("Copy", {
      picture: "copy",
      onclick: async () => {
        await copyText(address);
        note("The link was copied.");
      },
    }),
  );
}

function linksOf(all, path, revoke) {
  const mine = all.filter((one) => canonicalPath(one.path) === path);
  if (mine.length === 0) return [h("p", { class: "quiet" }, "There is none.")];
  return [
    h(
      "ul",
      { class: "links" },
      mine.map(({ id, expires, created }) =>
        h(
          "li",
          {},
          h(
            "div",
            { class: "words" },
            h("span", { class: "title" }, expires ? `Until ${moment(milliseconds(expires))}` : "Without an end"),
            h("span", { class: "small" }, created ? `Made ${moment(milliseconds(created))}` : decode(id)),
          ),
          button(`Revoke the link ${expires ? `until ${moment(milliseconds(expires))}` : id}`, {
            picture: "delete",
            textless: true,
            onclick: revoke(id),
          }),
        ),
      ),
    ),
  ];
}

/// Accounts count in seconds, files in milliseconds.
function milliseconds(at) {
  return at < 1e11 ? at * 1000 : at;
}
