// The trash: what was deleted, where it was, when and by whom; from here it is put back, or deleted for good.

import * as api from "./api.js";
import { confirm, dialog, note } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { decode, encode, join, last, numbered, parent } from "./paths.js";
import { bytes, counted, moment, number } from "./words.js";

const MOST_NUMBERS = 100;

export class Trash {
  constructor({ me, go }) {
    Object.assign(this, { me, go, entries: [], chosen: new Set(), next: undefined });
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
      do {
        const answer = await api.trash(this.next);
        Object.assign(this, { days: answer.days, next: answer.next });
        this.entries.push(...answer.entries);
      } while (this.next && this.entries.length === before);
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
    if (entries.length === 0) {
      fill(this.table, h("div", { class: "message" }, icon("delete"), h("p", {}, "The trash is empty.")));
      return;
    }
    const more = this.next ? button("Show more", { onclick: () => this.more() }) : null;
    fill(this.table, this.drawTable(), more);
  }

  drawButtons() {
    const { entries, chosen } = this;
    const write = this.me.write;
    const some = entries.filter((entry) => chosen.has(entry.id));
    fill(
      this.buttons,
      write && some.length > 0
        ? [
            button("Restore", { picture: "again", kind: "primary", onclick: () => this.restore(some) }),
            button("Delete for good", { picture: "delete", kind: "plain dangerous", onclick: () => this.remove(some) }),
          ]
        : null,
      write && entries.length > 0
        ? button("Empty the trash", { picture: "delete", kind: "plain dangerous", onclick: () => this.empty() })
        : null,
      button("Read again", { picture: "again", textless: true, onclick: () => this.load() }),
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
    this.draw();
    this.element.focus();
    return done;
  }

  async restore(entries) {
    let where = "";
    const done = await this.each(entries, "Restoring", async (entry) => {
      const path = await putBack(entry);
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

  async empty() {
    const sure = await confirm({
      title: "Empty the trash?",
      text: "Everything in it that you have deleted, or that is yours, will be deleted for good. There is no way back.",
      action: "Empty the trash",
      dangerous: true,
    });
    if (!sure) return;
    this.busy("Deleting");
    try {
      const { denied } = await api.emptyTrash();
      note(
        denied > 0
          ? `${counted(denied, "item")} may not be deleted by you: others have something in there.`
          : "The trash is empty.",
        { wrong: denied > 0 },
      );
    } catch (why) {
      note(why.message, { wrong: true });
    }
    await this.load();
    this.element.focus();
  }
}

/// Puts something back where it was; asks where something is there. Answers where it is now, or `null`.
export async function putBack({ id, name, path, kind }) {
  try {
    return (await api.restore(id)).path;
  } catch (why) {
    if (!why.answer?.there) throw why;
    const how = await askHow(name, why.answer.there);
    if (how === null) return null;
    if (how === "replace") return (await api.restore(id, undefined, true)).path;
    for (let at = 2; at <= MOST_NUMBERS; at += 1) {
      const other = join(parent(path), encode(numbered(decode(last(path)), at, kind === "folder")));
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
