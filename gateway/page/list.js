// The list of entries: a grid of which only the rows that can be seen are there, so that 100,000 scroll as smoothly as ten.
//
// Focus stays on the grid; where the keyboard is, it says by aria-activedescendant. What a click or a key does is files.js's.

import { button, h, icon } from "./dom.js";
import { isFolder } from "./listing.js";
import { decode } from "./paths.js";
import { bytes, moment, number, shortMoment } from "./words.js";

/// Rows that are there beyond those that are seen.
const MARGIN = 8;

const COLUMNS = [
  { by: "name", title: "Name" },
  { by: "size", title: "Size" },
  { by: "modified", title: "Changed" },
];

const PICTURES = {
  image: /\.(png|jpe?g|gif|webp|avif|bmp|ico|svg|heic|tiff?)$/i,
  video: /\.(mp4|m4v|webm|mov|mkv|avi|ogv)$/i,
  audio: /\.(mp3|m4a|aac|flac|ogg|oga|opus|wav)$/i,
  archive: /\.(zip|tar|gz|tgz|bz2|xz|zst|7z|rar|deb|iso)$/i,
  text: /\.(txt|md|log|csv|json|toml|ya?ml|xml|html?|css|m?js|rs|py|sh|c|h|cpp|go|java|pdf|docx?|odt)$/i,
};

/// The picture that stands for an entry.
export function pictureOf(entry) {
  if (isFolder(entry)) return "folder";
  if (entry.kind === "link" && !entry.leads_to) return "link";
  if (entry.kind === "other") return "other";
  return Object.keys(PICTURES).find((name) => PICTURES[name].test(entry.name)) ?? "file";
}

export class List {
  /// `shown` answers the entries, `does` has what is done: sort(by), press(event, index), check(index, event), open(index), menu(event, index), key(event), drag(event, index).
  constructor({ shown, selection, does }) {
    Object.assign(this, { shown, selection, does });
    this.rows = new Map();
    this.heads = new Map(COLUMNS.map((column) => [column.by, this.head(column)]));
    this.all = h("input", {
      type: "checkbox",
      tabindex: "-1",
      "aria-label": "Select all",
      onchange: () => does.checkAll(),
    });
    const header = h(
      "div",
      { role: "row", class: "row head", "aria-rowindex": "1" },
      h("div", { role: "columnheader", class: "cell check" }, this.all),
      [...this.heads.values()],
      h("div", { role: "columnheader", class: "cell more" }, h("span", { class: "unseen" }, "More")),
    );
    this.space = h("div", { role: "rowgroup", class: "space" });
    this.scroller = h("div", { role: "presentation", class: "scroller", onscroll: () => this.draw() }, this.space);
    this.element = h(
      "div",
      {
        role: "grid",
        class: "grid",
        tabindex: "0",
        id: "list",
        "aria-label": "Files",
        "aria-multiselectable": "true",
        onkeydown: (event) => does.key(event),
      },
      h("div", { role: "rowgroup", class: "heading" }, header),
      this.scroller,
    );
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  head({ by, title }) {
    const sort = h("button", { type: "button", class: "sort", onclick: () => this.does.sort(by) }, title);
    return h("div", { role: "columnheader", class: `cell ${by}` }, sort);
  }

  get rowHeight() {
    return parseFloat(getComputedStyle(this.element).getPropertyValue("--row")) || 44;
  }

  /// Rows that are seen at once.
  get page() {
    return Math.max(Math.floor(this.scroller.clientHeight / this.rowHeight) - 1, 1);
  }

  /// Draws the list as it is now.
  draw() {
    const entries = this.shown();
    const high = this.rowHeight;
    this.space.style.height = `${entries.length * high}px`;
    const first = Math.max(Math.floor(this.scroller.scrollTop / high) - MARGIN, 0);
    const seen = Math.ceil(this.scroller.clientHeight / high) + 2 * MARGIN;
    const rows = new Map();
    for (const [at, entry] of entries.slice(first, first + seen).entries()) {
      const kept = this.rows.get(entry.path);
      const row = kept?.entry === entry ? kept : { entry, element: this.row(entry) };
      this.place(row, first + at, high);
      rows.set(entry.path, row);
    }
    for (const [path, row] of this.rows) if (rows.get(path) !== row) row.element.remove();
    for (const row of rows.values()) if (!row.element.isConnected) this.space.append(row.element);
    this.rows = rows;
    this.tell(entries.length);
  }

  /// Where a row is, and whether it is selected.
  place(row, index, high) {
    const selected = this.selection.has(row.entry.path);
    row.index = index;
    row.element.style.transform = `translateY(${index * high}px)`;
    row.element.id = `row-${index}`;
    row.element.setAttribute("aria-rowindex", index + 2);
    row.element.setAttribute("aria-selected", selected);
    row.element.classList.toggle("active", this.selection.active === row.entry.path);
    row.element.querySelector("input").checked = selected;
  }

  tell(count) {
    this.element.setAttribute("aria-rowcount", count + 1);
    const active = this.rows.get(this.selection.active);
    if (active) this.element.setAttribute("aria-activedescendant", active.element.id);
    else this.element.removeAttribute("aria-activedescendant");
    this.all.checked = count > 0 && this.selection.size >= count;
    this.all.indeterminate = this.selection.size > 0 && !this.all.checked;
  }

  sorted(by, downwards) {
    for (const [name, head] of this.heads) {
      if (name === by) head.setAttribute("aria-sort", downwards ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  row(entry) {
    const at = () => this.rows.get(entry.path)?.index ?? -1;
    const does = this.does;
    const isLink = entry.kind === "link";
    const name = h(
      "span",
      { class: "words" },
      h("span", { class: "title" }, entry.name),
      entry.found ? h("span", { class: "where" }, `in /${decode(entry.folder)}`) : null,
      h(
        "span",
        { class: "small" },
        `${isFolder(entry) ? "Folder" : bytes(entry.size)} · ${shortMoment(entry.modified)}`,
      ),
    );
    return h(
      "div",
      {
        role: "row",
        class: `row ${entry.kind}`,
        draggable: "true",
        title: isLink ? `${entry.name}: a link to ${entry.target}` : entry.name,
        onclick: (event) => does.press(event, at()),
        ondblclick: () => does.open(at()),
        oncontextmenu: (event) => does.menu(event, at()),
        ondragstart: (event) => does.drag(event, at()),
      },
      h(
        "div",
        { role: "gridcell", class: "cell check" },
        h("input", {
          type: "checkbox",
          tabindex: "-1",
          "aria-label": `Select ${entry.name}`,
          onclick: (event) => does.check(at(), event),
        }),
      ),
      h("div", { role: "gridcell", class: "cell name" }, icon(pictureOf(entry)), isLink ? icon("link") : null, name),
      h(
        "div",
        { role: "gridcell", class: "cell size" },
        isFolder(entry) ? "" : h("span", { title: `${number(entry.size)} bytes` }, bytes(entry.size)),
      ),
      h(
        "div",
        { role: "gridcell", class: "cell modified" },
        h("span", { title: moment(entry.modified) }, shortMoment(entry.modified)),
      ),
      h(
        "div",
        { role: "gridcell", class: "cell more" },
        button(`More for ${entry.name}`, {
          picture: "more",
          textless: true,
          tabindex: "-1",
          onclick: (event) => does.menu(event, at()),
        }),
      ),
    );
  }

  /// The entry whose row an event came from.
  entryAt(target) {
    const element = target.closest?.(".row");
    for (const row of this.rows.values()) if (row.element === element) return row.entry;
    return null;
  }

  /// Shows the row at this place.
  reveal(index) {
    const high = this.rowHeight;
    const { scrollTop, clientHeight } = this.scroller;
    const top = index * high;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + high > scrollTop + clientHeight) this.scroller.scrollTop = top + high - clientHeight;
    this.draw();
  }

  mark(element, on) {
    for (const row of this.rows.values()) row.element.classList.toggle("target", on && row.element === element);
  }
}
