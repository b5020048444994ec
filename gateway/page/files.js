// The view of files: one folder, or what a search has found. It knows what is shown and selected; what is done with it is in actions.js.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { menu, note } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { Details } from "./details.js";
import { Drags } from "./drags.js";
import { Keyboard } from "./keyboard.js";
import { List } from "./list.js";
import { Listing, MOST, isFile, isFolder } from "./listing.js";
import { decode, last } from "./paths.js";
import { Preview } from "./preview.js";
import { Selection } from "./selection.js";
import { share } from "./share.js";
import { bytes, counted, number } from "./words.js";

const ARRANGE_MS = 150;
/// A folder that somebody comes back to is read again if it was not for so long.
const STALE_MS = 15_000;

export class Files {
  /// `go(route)` leads to another address; `search()` puts the keyboard into the field that searches.
  constructor({ me, uploads, go, search }) {
    Object.assign(this, { me, uploads, go, search, path: "", find: "", listing: new Listing(), state: "reading" });
    this.selection = new Selection(() => this.listing.shown);
    this.list = new List({ shown: () => this.listing.shown, selection: this.selection, does: this.handlers() });
    this.keyboard = new Keyboard(this);
    this.drags = new Drags(this);
    this.details = new Details({ onclose: () => this.toggleDetails() });
    this.over = new AbortController();
    this.build();
    this.list.element.addEventListener("pointerdown", (event) => (this.pointer = event.pointerType));
    this.listen();
  }

  /// Hears of what goes on elsewhere, until it is closed: whoever logs in next has another view.
  listen() {
    const { signal } = this.over;
    const made = ({ detail: { entry } }) => !this.find && this.put([entry]);
    const wrong = ({ detail: { path, why } }) =>
      note(why.word === "no_folder" ? why.message : `“${decode(last(path))}”: ${why.message}`, { wrong: true });
    const seen = () => {
      if (document.hidden || !this.element.isConnected || this.state === "reading") return;
      if (Date.now() - this.readAt > STALE_MS) this.reload();
    };
    this.uploads.addEventListener("made", made, { signal });
    this.uploads.addEventListener("wrong", wrong, { signal });
    document.addEventListener("visibilitychange", seen, { signal });
  }

  close() {
    this.over.abort();
    this.abort?.abort();
  }

  // What it looks like.

  build() {
    const write = this.me.write;
    this.crumbs = h("ol", { class: "crumbs" });
    this.pick = h("input", {
      type: "file",
      multiple: true,
      hidden: true,
      id: "pick-files",
      "aria-label": "Files to upload",
      onchange: (event) => this.drags.picked(event),
    });
    this.pickFolder = h("input", {
      type: "file",
      webkitdirectory: true,
      hidden: true,
      id: "pick-folder",
      "aria-label": "Folder to upload",
      onchange: (event) => this.drags.picked(event),
    });
    this.filter = h("input", {
      type: "search",
      class: "filter",
      placeholder: "Filter",
      "aria-label": "Filter this list by name",
      autocomplete: "off",
      oninput: () => this.filterBy(this.filter.value),
    });
    const tools = h(
      "div",
      { class: "tools" },
      write ? button("Upload", { picture: "upload", kind: "primary", onclick: () => this.pick.click() }) : null,
      write
        ? button("Upload a folder", {
            picture: "folder",
            kind: "plain may-hide",
            title: "Upload a folder",
            onclick: () => this.pickFolder.click(),
          })
        : null,
      write
        ? button("New folder", { picture: "new-folder", title: "New folder", onclick: () => actions.newFolder(this) })
        : null,
      this.filter,
      button("Read again", { picture: "again", textless: true, onclick: () => this.reload() }),
      button("Details", { picture: "details", textless: true, onclick: () => this.toggleDetails() }),
    );
    this.bar = h(
      "div",
      { class: "bar" },
      h("nav", { "aria-label": "Folder" }, this.crumbs),
      tools,
      this.pick,
      this.pickFolder,
    );
    this.chosenBar = h("div", { class: "bar chosen", role: "toolbar", "aria-label": "Selected", hidden: true });
    this.message = h("div", { class: "message", hidden: true });
    this.veil = h("div", { class: "veil", hidden: true }, icon("upload"), h("p", {}, "Drop to upload"));
    this.statusLine = h("p", { class: "status-line", role: "status" });
    this.middle = h(
      "div",
      { class: "middle" },
      h("div", { class: "sheet" }, this.list.element, this.message, this.veil),
      this.details.element,
    );
    this.element = h(
      "main",
      { class: "files", id: "main", tabindex: "-1" },
      h("h1", { class: "unseen" }, "Files"),
      this.bar,
      this.chosenBar,
      this.middle,
      this.statusLine,
    );
    this.drags.take(this.middle.firstChild);
  }

  draw() {
    this.list.sorted(this.listing.by, this.listing.downwards);
    this.list.draw();
    this.drawChosen();
    this.drawMessage();
    this.drawStatus();
    if (!this.details.element.hidden) this.drawDetails();
  }

  drawCrumbs() {
    const names = this.path.split("/").filter(Boolean);
    const steps = [
      { name: this.me.volume, path: "" },
      ...names.map((name, at) => ({ name: decode(name), path: names.slice(0, at + 1).join("/") })),
    ];
    const crumb = ({ name, path }, at) => {
      const here = at === steps.length - 1 && !this.find;
      const anchor = h("a", { href: addressOf({ path }), "aria-current": here ? "page" : null, title: name }, name);
      this.drags.takeOwn(anchor, () => path);
      return h("li", {}, anchor);
    };
    const found = this.find
      ? h(
          "li",
          {},
          h("span", { "aria-current": "page" }, `Search for “${this.find}”`),
          button("End the search", { picture: "close", textless: true, onclick: () => this.go({ path: this.path }) }),
        )
      : null;
    fill(this.crumbs, steps.map(crumb), found);
    this.crumbs.lastChild.scrollIntoView({ inline: "end", block: "nearest" });
    document.title = `${this.find ? `Search for “${this.find}”` : steps.at(-1).name} – Ashlar`;
  }

  drawChosen() {
    const entries = this.selection.size ? this.selection.entries : [];
    this.chosenBar.hidden = entries.length === 0;
    this.element.classList.toggle("choosing", entries.length > 0);
    // The same buttons for the same entries, so that no click is lost.
    const was = this.shownChosen ?? [];
    if (entries.length === was.length && entries.every((entry, at) => entry === was[at])) return;
    this.shownChosen = entries;
    const size = entries.reduce((sum, entry) => sum + (isFile(entry) ? entry.size : 0), 0);
    const small = (item) =>
      button(item.short ?? item.label, {
        picture: item.picture,
        kind: `plain${item.dangerous ? " dangerous" : ""}`,
        onclick: item.does,
      });
    fill(
      this.chosenBar,
      button("Select nothing", { picture: "close", textless: true, onclick: () => this.selectNone() }),
      h(
        "span",
        { class: "count", role: "status" },
        number(entries.length),
        h("span", { class: "may-hide" }, ` ${entries.length === 1 ? "item" : "items"} selected`),
        size ? h("span", { class: "small" }, ` ${bytes(size)}`) : null,
      ),
      this.choices(entries)
        .filter((item) => item && !item.menuOnly)
        .map(small),
    );
  }

  /// What can be done with these.
  choices(entries) {
    const [entry] = entries;
    const one = entries.length === 1;
    const write = this.me.write;
    const all = [
      one && {
        label: "Open",
        picture: isFolder(entry) ? "folder" : "file",
        key: "Enter",
        menuOnly: true,
        does: () => this.open(entry),
      },
      one && this.find && { label: "Show in its folder", picture: "up", does: () => this.showInFolder(entry) },
      {
        label: one && isFile(entry) ? "Download" : "Download as zip",
        short: "Download",
        picture: "download",
        does: () => actions.download(this, entries),
      },
      one && entry.kind === "folder" && this.me.share && { label: "Share", picture: "share", does: () => share(entry) },
      write && one && { label: "Rename", picture: "rename", key: "F2", does: () => actions.rename(this, entry) },
      write && { label: "Move", picture: "move", does: () => actions.sendTo(this, entries, "move") },
      write && { label: "Copy", picture: "copy", does: () => actions.sendTo(this, entries, "copy") },
      { label: "Details", picture: "details", key: "Ctrl+I", does: () => this.toggleDetails(true) },
      write && {
        label: "Delete",
        picture: "delete",
        key: "Del",
        dangerous: true,
        does: () => actions.remove(this, entries),
      },
      write && {
        label: "Delete for good",
        picture: "delete",
        key: "Shift+Del",
        dangerous: true,
        menuOnly: true,
        does: () => actions.removeForGood(this, entries),
      },
    ];
    return all.filter(Boolean);
  }

  drawMessage() {
    const words = this.words();
    this.message.hidden = words === null;
    if (words) fill(this.message, words);
  }

  /// What is said where no list is.
  words() {
    if (this.state === "wrong") {
      return [
        icon("warning"),
        h("p", { role: "alert" }, this.why.message),
        h(
          "p",
          {},
          button("Try again", { picture: "again", onclick: () => this.load() }),
          this.path ? button("To the top folder", { onclick: () => this.go({ path: "" }) }) : null,
        ),
      ];
    }
    if (this.listing.shown.length > 0) return null;
    if (this.state === "reading") return h("p", { class: "busy" }, this.find ? "Searching" : "Reading");
    if (this.listing.filter)
      return [icon("filter"), h("p", {}, `Nothing here has “${this.listing.filter}” in its name.`)];
    if (this.find) return [icon("search"), h("p", {}, `Nothing below this folder has “${this.find}” in its name.`)];
    return [
      icon("folder"),
      h("p", {}, "This folder is empty."),
      this.me.write ? h("p", { class: "small" }, "Drop files or folders here, or use Upload.") : null,
    ];
  }

  drawStatus() {
    if (this.doing) return fill(this.statusLine, h("span", { class: "busy" }, this.doing));
    const { shown, size, cut } = this.listing;
    const words = [
      this.listing.filter ? `${counted(shown.length, "item")} of ${size.toLocaleString("en")}` : counted(size, "item"),
    ];
    if (this.state === "reading") words.push(this.find ? "searching" : "reading");
    if (cut) words.push(`no more than ${MOST.toLocaleString("en")} are shown`);
    if (this.more) words.push("there are more; search for a longer part of the name");
    if (this.deep) words.push("what lies too deep to have a path is left out");
    return fill(this.statusLine, words.join(" · "));
  }

  async drawDetails() {
    const entries = this.selection.size ? this.selection.entries : [];
    const key =
      entries.length === 1
        ? `${entries[0].path} ${entries[0].modified} ${entries[0].size}`
        : entries.length || `in ${this.path}`;
    if (key === this.detailed) return;
    this.detailed = key;
    if (entries.length > 0) return void this.details.show(entries);
    const folder = await api.entry(this.path).catch(() => null);
    if (key === this.detailed) this.details.show(folder ? [folder] : []);
  }

  /// Words about what is being done, or `null`.
  busy(words) {
    this.doing = words;
    this.drawStatus();
  }

  // What is shown.

  /// Shows what an address leads to.
  show({ path, find = "", open = "" }) {
    const other = path !== this.path || find !== this.find || !this.shownOnce;
    this.shownOnce = true;
    Object.assign(this, { path, find, opened: open });
    this.drawCrumbs();
    if (other) {
      const { preview } = this;
      // It is of the old list: what it says at its end is for nobody.
      this.preview = null;
      preview?.close();
      this.filter.value = "";
      this.load();
    } else {
      this.follow();
    }
  }

  /// Reads the folder, or searches, anew.
  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    const { by, downwards } = this.listing;
    this.listing = Object.assign(new Listing(), { by, downwards });
    const wanted = this.wanted;
    this.wanted = null;
    this.selection.clear();
    Object.assign(this.selection, { active: null, anchor: null });
    Object.assign(this, { state: "reading", more: false });
    this.list.scroller.scrollTop = 0;
    this.draw();
    const { signal } = this.abort;
    await this.read(this.listing, signal);
    if (signal.aborted) return;
    if (wanted && this.listing.has(wanted)) this.choose(wanted);
    this.follow();
  }

  /// The same, while the old list stays until the new one is there, whole: what could not be read again is no empty folder.
  async reload() {
    if (this.state !== "read") return this.load();
    this.abort?.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    const fresh = new Listing();
    this.since = [];
    this.busy("Reading");
    const isRead = await this.read(fresh, signal, true);
    this.busy(null);
    if (signal.aborted) return undefined;
    const { since } = this;
    this.since = null;
    if (!isRead) return undefined;
    // What came and went while it was read.
    for (const [path, entry] of since) entry ? fresh.put([entry]) : fresh.take(path);
    const { by, downwards, filter } = this.listing;
    this.listing = Object.assign(fresh, { by, downwards, filter });
    for (const path of this.selection.paths) if (!fresh.has(path)) this.selection.rename(path, null);
    fresh.arrange();
    this.draw();
    return undefined;
  }

  /// Reads into a listing. Answers whether it has all; if not, that was said.
  async read(listing, signal, isQuiet = false) {
    try {
      const pieces = this.find ? this.searched(signal) : api.list(this.path, signal);
      for await (const entries of pieces) {
        listing.put(entries);
        if (listing.cut) break;
        if (isQuiet) continue;
        if (listing.shown.length === 0) listing.arrange();
        this.draw();
      }
    } catch (why) {
      if (why.name === "AbortError") return false;
      if (isQuiet) {
        note(why.message, { wrong: true });
      } else {
        Object.assign(this, { state: "wrong", why });
        this.draw();
      }
      return false;
    }
    if (signal.aborted) return false;
    Object.assign(this, { state: "read", readAt: Date.now() });
    if (isQuiet) return true;
    listing.arrange();
    this.draw();
    return true;
  }

  /// What a search finds, a hundred at a time at least, but soon.
  async *searched(signal) {
    let some = [];
    let lastAt = performance.now();
    for await (const found of api.search(this.path, this.find, signal)) {
      if (found.done) [this.more, this.deep] = [found.more, Boolean(found.too_deep)];
      else some.push({ ...found, found: true });
      if (some.length >= 100 || performance.now() - lastAt > ARRANGE_MS) {
        yield some;
        some = [];
        lastAt = performance.now();
      }
    }
    yield some;
  }

  /// What is shown, to know later whether somebody has gone elsewhere.
  get place() {
    return addressOf({ path: this.path, find: this.find });
  }

  /// Entries that are new, or have changed. Those of another folder than is shown are nothing to it.
  put(entries) {
    const own = this.find ? entries : entries.filter((entry) => entry.folder === this.path);
    this.listing.put(own);
    this.since?.push(...own.map((entry) => [entry.path, entry]));
    this.soon();
  }

  /// One that is no more.
  take(path) {
    this.listing.take(path);
    this.since?.push([path, null]);
    this.selection.rename(path, null);
    this.soon();
  }

  /// Sorts and draws soon: of many changes not after each.
  soon() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.listing.arrange();
      this.draw();
    }, ARRANGE_MS);
  }

  /// Selects one, and shows where it is.
  choose(path) {
    this.listing.arrange();
    const index = this.selection.indexOf(path);
    this.selection.choose(index);
    if (index >= 0) this.list.reveal(index);
    this.draw();
    this.focus();
  }

  /// Has the keyboard go on from here.
  stand(path) {
    Object.assign(this.selection, { active: path, anchor: path });
    const index = this.selection.indexOf(path);
    if (index >= 0) this.list.reveal(index);
    this.draw();
    this.focus();
  }

  focus() {
    this.list.element.focus({ preventScroll: true });
  }

  // Going about.

  open(entry) {
    if (isFolder(entry)) return this.go({ path: entry.path });
    if (!isFile(entry)) return note(`“${entry.name}” leads to nothing that can be opened.`, { wrong: true });
    return this.go({ path: this.path, find: this.find, open: entry.path });
  }

  showInFolder(entry) {
    this.wanted = entry.path;
    this.go({ path: entry.folder });
  }

  /// Opens or closes the preview, as the address says.
  async follow() {
    if (!this.opened) return this.preview?.close();
    if (this.preview || this.state === "reading") return undefined;
    const { opened, place } = this;
    const entry = this.listing.get(opened) ?? (await api.entry(opened).catch(() => null));
    if (this.opened !== opened || this.place !== place || this.preview) return undefined;
    if (!entry || !isFile(entry)) return this.go({ path: this.path, find: this.find }, true);
    const route = (open) => ({ path: this.path, find: this.find, open });
    const preview = new Preview({
      entries: this.listing.shown.some((one) => one.path === entry.path) ? this.listing.shown : [entry],
      entry,
      does: { download: (one) => actions.download(this, [one]) },
      onstep: (next) => this.go(route(next.path), true),
      onclose: (path) => {
        if (this.preview !== preview) return;
        this.preview = null;
        if (this.opened) this.go({ path: this.path, find: this.find }, true);
        this.stand(path);
      },
    });
    this.preview = preview;
    return undefined;
  }

  toggleDetails(on = this.details.element.hidden) {
    this.details.element.hidden = !on;
    this.detailed = null;
    this.draw();
    if (!on) this.focus();
  }

  filterBy(text) {
    this.listing.filter = text;
    this.listing.arrange();
    this.list.scroller.scrollTop = 0;
    this.draw();
  }

  selectAll() {
    this.selection.all();
    this.draw();
  }

  selectNone() {
    this.selection.clear();
    this.draw();
    this.focus();
  }

  // What the pointer does in the list; keyboard.js and drags.js have the rest.

  handlers() {
    const at = (index) => this.listing.shown[index];
    return {
      sort: (by) => (this.listing.sortBy(by), this.draw()),
      open: (index) => at(index) && this.open(at(index)),
      press: (event, index) => this.press(event, index),
      check: (index, event) => this.check(index, event),
      checkAll: () => (this.selection.size >= this.listing.shown.length ? this.selectNone() : this.selectAll()),
      menu: (event, index) => this.menu(event, index),
      key: (event) => this.keyboard.press(event),
      drag: (event, index) => this.drags.begin(event, index),
    };
  }

  press(event, index) {
    if (event.target.closest("button, input") || event.detail > 1) return;
    const toggle = event.ctrlKey || event.metaKey;
    // Not every browser says of a click what it was done with. A finger opens; once something is selected it selects more.
    const pointer = event.pointerType || this.pointer;
    if (pointer === "touch" && !event.shiftKey) {
      if (this.selection.size === 0) return void this.open(this.listing.shown[index]);
      this.selection.choose(index, { toggle: true });
    } else {
      this.selection.choose(index, { toggle, range: event.shiftKey });
    }
    this.draw();
    this.focus();
  }

  check(index, event) {
    event.stopPropagation();
    this.selection.choose(index, { toggle: true, range: event.shiftKey });
    // The box is set by what is selected, once the browser has done with the click.
    setTimeout(() => this.draw());
    this.focus();
  }

  menu(event, index) {
    event.preventDefault();
    event.stopPropagation();
    const entry = this.listing.shown[index];
    if (!entry) return;
    if (!this.selection.has(entry.path)) this.selection.choose(index);
    this.draw();
    this.focus();
    const entries = this.selection.entries;
    const box = event.currentTarget.getBoundingClientRect();
    const [x, y] =
      event.type === "contextmenu" && event.clientX ? [event.clientX, event.clientY] : [box.left, box.bottom];
    menu({ x, y, label: "What to do", items: this.choices(entries) });
  }
}

/// The address of the page that shows this.
export function addressOf({ path, find = "", open = "" }) {
  const asked = new URLSearchParams(Object.entries({ find, open }).filter(([, value]) => value)).toString();
  return `#/${path}${asked && `?${asked}`}`;
}
