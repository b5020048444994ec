// What a folder, or a search, shows: its entries, in which order, and which are left out by the filter. No elements here, no requests.

/// More are not shown: no browser draws a list that is so high.
export const MOST = 300_000;

/// What a search looks through is not sorted better than this: numbers by their value, letters whatever their case.
const NAMES = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/// Fewer changes than one in so many are not sorted anew.
const FEW = 8;

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
    /// All of them as they were sorted at last, by what; and the paths of those that came, changed or went since.
    this.sorted = [];
    this.sortedBy = null;
    this.changed = new Set();
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
      this.changed.add(entry.path);
    }
  }

  take(path) {
    this.entries.delete(path);
    this.changed.add(path);
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
    this.sort();
    const wanted = this.filter.toLocaleLowerCase();
    this.shown = wanted ? this.sorted.filter((entry) => entry.name.toLocaleLowerCase().includes(wanted)) : this.sorted;
  }

  /// Sorts; where few have changed these alone are put in their places, for to sort 100,000 takes a second.
  sort() {
    const order = ORDERS[this.by];
    const way = this.downwards ? -1 : 1;
    const compare = (a, b) => isFolder(b) - isFolder(a) || way * (order(a, b) || NAMES.compare(a.name, b.name));
    const by = `${this.by} ${this.downwards}`;
    if (by !== this.sortedBy || this.changed.size > this.sorted.length / FEW) {
      this.sorted = [...this.entries.values()].sort(compare);
    } else if (this.changed.size > 0) {
      const others = this.sorted.filter((entry) => !this.changed.has(entry.path));
      const changed = [...this.changed].map((path) => this.entries.get(path)).filter(Boolean);
      this.sorted = merged(others, changed.sort(compare), compare);
    }
    this.sortedBy = by;
    this.changed.clear();
  }
}

/// Two sorted lists as one; the second is the short one.
function merged(long, short, compare) {
  const parts = [];
  let from = 0;
  for (const entry of short) {
    let [low, high] = [from, long.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(long[middle], entry) <= 0) low = middle + 1;
      else high = middle;
    }
    parts.push(long.slice(from, low), [entry]);
    from = low;
  }
  return [...parts, long.slice(from)].flat();
}

/// Is it one, or a link that leads to one?
export function isFolder(entry) {
  return entry.kind === "folder" || entry.leads_to === "folder";
}

/// Can its bytes be read?
export function isFile(entry) {
  return entry.kind === "file" || entry.leads_to === "file";
}
