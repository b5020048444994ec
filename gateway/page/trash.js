// The trash: what was deleted, where it was, when and by whom; from here it is put back, or deleted for good.

import * as api from "./api.js";
import { confirm, dialog, note } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { decode, encode, join, last, numbered, parent } from "./paths.js";
import { chooseFolder } from "./tree.js";
import { bytes, counted, moment, number } from "./words.js";

const MOST_NUMBERS = 100;
/// Parts of the list that are read in a row without anything in them for this user.
const MOST_LOOKS = 3;

export class Trash {
  constructor({ me, go }) {
    Object.assign(this, { me, go, entries: [], chosen: new Set(), next: undefined, works: false });
    this.count = h("p", { class: "quiet", role: "status" });
    this.wrong = h("p", { class: "wrong", role: "alert" });
    this.buttons = h("div", { class: "tools" });
    this.table = h("div", { class: "table" });
    this.element = h(
      "main",
      { class: "trash", id: "main", tabindex: "-1" },
      h("div", { class: "bar" }, h("h1", {}, "Trash"), this.count, this.buttons),
      this.wrong,
      this.table,
    );
  }

  open() {
    document.title = "Trash – Ashlar";
    return this.load();
  }

  /// Reads the list anew, from its beginning.
  async load() {
    this.chosen.clear();
    Object.assign(this, { entries: [], next: undefined });
    await this.more();
  }

  /// Reads on. A part of the list may have nothing for this user, and not be the last.
  async more() {
    this.busy("Reading");
    try {
      const before = this.entries.length;
      let looks = 0;
      do {
        const answer = await api.trash(this.next);
        Object.assign(this, { days: answer.days, next: answer.next });
        this.entries.push(...answer.entries);
        looks += 1;
      } while (this.next && this.entries.length === before && looks < MOST_LOOKS);
      fill(this.wrong);
    } catch (why) {
      fill(this.wrong, why.message);
    }
    this.draw();
  }

  busy(words) {
    fill(this.count, h("span", { class: "busy" }, words));
  }

  draw() {
    const { entries, chosen } = this;
    const kept = this.days ? `kept for ${counted(this.days, "day")}` : "";
    const some =
      chosen.size > 0
        ? `${number(chosen.size)} of ${number(entries.length)} selected`
        : counted(entries.length, "item");
    fill(this.count, [this.next ? `${some} and more` : some, kept].filter(Boolean).join(" · "));
    this.drawButtons();
    if (entries.length === 0 && !this.next) {
      fill(this.table, h("div", { class: "message" }, icon("delete"), h("p", {}, "The trash is empty.")));
      return;
    }
    const more = this.next ? button("Show more", { onclick: () => this.more() }) : null;
    const none = h("div", { class: "message" }, h("p", {}, "Nothing of yours is among what was deleted last."));
    fill(this.table, entries.length > 0 ? this.drawTable() : none, more);
  }

  drawButtons() {
    const { entries, chosen } = this;
    const write = this.me.write;
    const disabled = this.works;
    const some = entries.filter((entry) => chosen.has(entry.id));
    fill(
      this.buttons,
      write && some.length > 0
        ? [
            button("Restore", { picture: "again", kind: "primary", disabled, onclick: () => this.restore(some) }),
            button("Delete for good", {
              picture: "delete",
              kind: "plain dangerous",
              disabled,
              onclick: () => this.remove(some),
            }),
          ]
        : null,
      write && entries.length > 0
        ? button("Empty the trash", {
            picture: "delete",
            kind: "plain dangerous",
            disabled,
            onclick: () => this.empty(),
          })
        : null,
      button("Read again", { picture: "again", textless: true, disabled, onclick: () => this.load() }),
    );
  }

  drawTable() {
    const { entries, chosen } = this;
    const all = h("input", {
      type: "checkbox",
      "aria-label": "Select all",
      checked: chosen.size === entries.length,
      onchange: () => {
        chosen.clear();
        if (all.checked) for (const entry of entries) chosen.add(entry.id);
        this.draw();
        this.table.querySelector("thead input").focus();
      },
    });
    const heads = ["Name", "Was in", "Deleted", "By", "Size"].map((name) => h("th", { scope: "col" }, name));
    return h(
      "table",
      {},
      h("caption", { class: "unseen" }, "What is in the trash"),
      h("thead", {}, h("tr", {}, h("td", {}, all), heads)),
      h(
        "tbody",
        {},
        entries.map((entry) => this.row(entry)),
      ),
    );
  }

  row(entry) {
    const { chosen } = this;
    const box = h("input", {
      type: "checkbox",
      "aria-label": `Select ${entry.name}`,
      checked: chosen.has(entry.id),
      onchange: () => {
        if (box.checked) chosen.add(entry.id);
        else chosen.delete(entry.id);
        this.draw();
        // The row was drawn anew.
        this.table.querySelector(`tr[data-id="${entry.id}"] input`).focus();
      },
    });
    const folder = parent(entry.path);
    return h(
      "tr",
      { "data-id": entry.id },
      h("td", {}, box),
      h("td", {}, h("span", { class: "named" }, icon(entry.kind), h("span", { class: "title" }, entry.name))),
      h("td", { class: "where" }, folder === "" ? this.me.volume : decode(folder)),
      h("td", {}, moment(entry.deleted)),
      h("td", {}, entry.by === this.me.uid ? "you" : `user ${entry.by}`),
      h("td", {}, entry.kind === "file" ? bytes(entry.size) : ""),
    );
  }

  /// Does something with each of these, and takes those from the list that it was done with.
  async each(entries, doing, does) {
    let done = 0;
    this.works = true;
    this.drawButtons();
    for (const [at, entry] of entries.entries()) {
      this.busy(entries.length > 1 ? `${doing} ${at + 1} of ${entries.length}` : doing);
      try {
        if ((await does(entry)) === false) continue;
        done += 1;
        this.chosen.delete(entry.id);
        this.entries = this.entries.filter((other) => other !== entry);
      } catch (why) {
        note(`“${entry.name}”: ${why.message}`, { wrong: true });
      }
    }
    this.works = false;
    this.draw();
    this.element.focus();
    return done;
  }

  async restore(entries) {
    let where = "";
    const done = await this.each(entries, "Restoring", async (entry) => {
      const path = await putBack(entry, this.me.volume);
      if (path === null) return false;
      where = parent(path);
      return true;
    });
    if (done === 0) return;
    // What was deleted before may be seen now, and what came back with a folder not.
    await this.load();
    note(`${counted(done, "item")} restored.`, {
      action: "Show",
      onaction: () => this.go({ path: where }),
    });
  }

  async remove(entries) {
    const one = entries.length === 1 ? `“${entries[0].name}”` : counted(entries.length, "item");
    const sure = await confirm({
      title: `Delete ${one} for good?`,
      text: `${one} will be deleted with all that is in it. There is no way back.`,
      action: "Delete for good",
      dangerous: true,
    });
    if (!sure) return;
    const done = await this.each(entries, "Deleting", (entry) => api.deleteTrashed(entry.id).then(() => true));
    if (done > 0) note(`${counted(done, "item")} deleted for good.`);
  }

  /// What was deleted since the list was read stays.
  async empty() {
    const before = this.entries[0].deleted + 1;
    const whose =
      this.me.uid === 0
        ? "Everything in it, whoever has deleted it and whosever it is,"
        : "Everything in it that you have deleted, or that is yours,";
    const sure = await confirm({
      title: "Empty the trash?",
      text: `${whose} will be deleted for good. There is no way back.`,
      action: "Empty the trash",
      dangerous: true,
    });
    if (!sure) return;
    this.busy("Deleting");
    try {
      const { deleted, denied } = await api.emptyTrash(before);
      note(
        denied > 0
          ? `${counted(denied, "item")} may not be deleted by you: others have something in there.`
          : `${counted(deleted, "item")} deleted for good.`,
        { wrong: denied > 0 },
      );
    } catch (why) {
      note(why.message, { wrong: true });
    }
    await this.load();
    this.element.focus();
  }
}

/// Puts something back where it was; asks where something is there, or its folder is not. `top`: what the uppermost folder is called.
/// Answers where it is now, or `null`.
export function putBack(entry, top) {
  return put(entry, undefined, top);
}

async function put(entry, to, top) {
  const { id, name, path, kind } = entry;
  try {
    return (await api.restore(id, to)).path;
  } catch (why) {
    const there = why.answer?.there;
    if (!there && why.word === "conflict" && to === undefined) {
      const folder = await chooseFolder({
        title: `Something else is where “${name}” was. Restore it to`,
        action: "Restore here",
        top,
        start: "",
      });
      return folder === null ? null : put(entry, join(folder, last(path)), top);
    }
    if (!there) throw why;
    const how = await askHow(name, there);
    if (how === null) return null;
    if (how === "replace") return (await api.restore(id, to, true)).path;
    const place = to ?? path;
    for (let at = 2; at <= MOST_NUMBERS; at += 1) {
      const other = join(parent(place), encode(numbered(decode(last(place)), at, kind === "folder")));
      try {
        return (await api.restore(id, other)).path;
      } catch (refusal) {
        if (!refusal.answer?.there) throw refusal;
      }
    }
    throw new Error(`There are ${MOST_NUMBERS} of that name already.`);
  }
}

function askHow(name, there) {
  return dialog({
    title: "The name is taken",
    body: h(
      "p",
      {},
      "There is already ",
      h("strong", {}, name),
      there === "folder" ? ", a folder" : "",
      ". Replacing it puts what is there into the trash.",
    ),
    buttons: [
      (end) => button("Skip", { onclick: () => end(null) }),
      (end) => button("Keep both", { autofocus: true, onclick: () => end("both") }),
      (end) => button("Replace", { onclick: () => end("replace") }),
    ],
  });
}
