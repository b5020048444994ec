// Which entries of a list are selected, as people expect it: a click selects one, with Ctrl one more, with Shift all up to there. Entries are
// known by their paths, so that a selection outlives sorting, filtering and what changes in the folder.

export class Selection {
  /// `shown` answers the entries as they stand in the list.
  constructor(shown) {
    this.shown = shown;
    this.paths = new Set();
    /// Where the keyboard is, and where a range begins.
    this.active = null;
    this.anchor = null;
  }

  has(path) {
    return this.paths.has(path);
  }

  get size() {
    return this.paths.size;
  }

  /// The selected entries that are in the list, in its order.
  get entries() {
    return this.shown().filter((entry) => this.paths.has(entry.path));
  }

  indexOf(path) {
    return path === null ? -1 : this.shown().findIndex((entry) => entry.path === path);
  }

  clear() {
    this.paths.clear();
    this.anchor = this.active;
  }

  all() {
    this.paths = new Set(this.shown().map((entry) => entry.path));
  }

  /// A click on the entry at this place: alone, one more or less (`toggle`), or all from the last one on (`range`).
  choose(index, { toggle = false, range = false } = {}) {
    const entry = this.shown()[index];
    if (!entry) return;
    const from = this.indexOf(this.anchor);
    this.active = entry.path;
    if (range && from >= 0) {
      const [first, last] = from < index ? [from, index] : [index, from];
      if (!toggle) this.paths.clear();
      for (const one of this.shown().slice(first, last + 1)) this.paths.add(one.path);
      return;
    }
    this.anchor = entry.path;
    if (!toggle) this.paths = new Set([entry.path]);
    else if (!this.paths.delete(entry.path)) this.paths.add(entry.path);
  }

  /// The keyboard goes this many entries on, and selects where it comes to, or (`range`) all up to there.
  step(by, { range = false } = {}) {
    const count = this.shown().length;
    const at = this.indexOf(this.active);
    const to = at < 0 ? (by < 0 ? count - 1 : 0) : Math.min(Math.max(at + by, 0), count - 1);
    this.choose(to, { range });
    return to;
  }

  /// Something has another path now, or (`null`) is gone.
  rename(from, to) {
    if (this.paths.delete(from) && to) this.paths.add(to);
    if (this.active === from) this.active = to;
    if (this.anchor === from) this.anchor = to;
  }
}
