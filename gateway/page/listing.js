// What a folder, or a search, shows: its entries, in which order, and which are left out by the filter. No elements here, no requests.

/// More are not shown: no browser draws a list that is so high.
export const MOST = 300_000;

/// What a search looks through is not sorted better than this: numbers by their value, letters whatever their case.
const NAMES = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const ORDERS = {
  name: () => 0,
  size: (a, b) => a.size - b.size,
  modified: (a, b) => a.modified - b.modified,
};

/// Entries by their paths.
export class Listing {
  constructor() {
    this.entries = new Map();
    this.shown = [];
    this.by = "name";
    this.downwards = false;
    this.filter = "";
    this.cut = false;
  }

  get size() {
    return this.entries.size;
  }

  /// Takes in entries, new or changed. They are shown after the next `arrange`.
  put(entries) {
    for (const entry of entries) {
      if (this.entries.size >= MOST && !this.entries.has(entry.path)) {
        this.cut = true;
        return;
      }
      this.entries.set(entry.path, entry);
    }
  }

  take(path) {
    this.entries.delete(path);
  }

  has(path) {
    return this.entries.has(path);
  }

  get(path) {
    return this.entries.get(path);
  }

  /// Sorts by this; by the same again: the other way round.
  sortBy(by) {
    this.downwards = this.by === by ? !this.downwards : by !== "name";
    this.by = by;
    this.arrange();
  }

  /// Filters and sorts: folders first, equals by their names.
  arrange() {
    const wanted = this.filter.toLocaleLowerCase();
    const all = [...this.entries.values()];
    const shown = wanted ? all.filter((entry) => entry.name.toLocaleLowerCase().includes(wanted)) : all;
    const order = ORDERS[this.by];
    const way = this.downwards ? -1 : 1;
    shown.sort((a, b) => isFolder(b) - isFolder(a) || way * (order(a, b) || NAMES.compare(a.name, b.name)));
    this.shown = shown;
  }
}

/// Is it one, or a link that leads to one?
export function isFolder(entry) {
  return entry.kind === "folder" || entry.leads_to === "folder";
}

/// Can its bytes be read?
export function isFile(entry) {
  return entry.kind === "file" || entry.leads_to === "file";
}
