// The keyboard in the list of files: which key does what is in keys.js, what it does is here.

import * as actions from "./actions.js";
import { help, keyOf } from "./keys.js";
import { parent } from "./paths.js";

/// What is typed within such a time belongs together.
const TYPED_MS = 900;

/// A view (files.js) under the keyboard. Its methods are those that keys.js names.
export class Keyboard {
  constructor(view) {
    Object.assign(this, { view, typed: "", typedAt: 0 });
  }

  /// A key in the list.
  press(event) {
    if (event.target.closest("input, button.sort")) return;
    const key = keyOf(event);
    if (key) {
      event.preventDefault();
      event.stopPropagation();
      this[key.does](event);
    } else if (event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) {
      this.typeAhead(event.key);
    }
  }

  step(by, event) {
    this.view.list.reveal(this.view.selection.step(by, { range: event.shiftKey }));
    this.view.draw();
  }

  up(event) {
    this.step(-1, event);
  }
  down(event) {
    this.step(1, event);
  }
  pageUp(event) {
    this.step(-this.view.list.page, event);
  }
  pageDown(event) {
    this.step(this.view.list.page, event);
  }
  first(event) {
    this.step(-Infinity, event);
  }
  last(event) {
    this.step(Infinity, event);
  }

  toggle() {
    const index = this.view.selection.indexOf(this.view.selection.active);
    if (index >= 0) this.view.selection.choose(index, { toggle: true });
    this.view.draw();
  }

  selectAll() {
    this.view.selectAll();
  }
  selectNone() {
    this.view.selectNone();
  }
  toggleDetails() {
    this.view.toggleDetails();
  }
  search() {
    this.view.search();
  }
  help() {
    help();
  }

  openActive() {
    const entry = this.view.listing.get(this.view.selection.active);
    if (entry) this.view.open(entry);
  }

  upwards() {
    if (this.view.find) return this.view.go({ path: this.view.path });
    if (this.view.path === "") return undefined;
    this.view.wanted = this.view.path;
    return this.view.go({ path: parent(this.view.path) });
  }

  rename() {
    const entries = this.view.selection.entries;
    if (entries.length === 1 && this.view.me.write) actions.rename(this.view, entries[0]);
  }

  remove() {
    const entries = this.view.selection.entries;
    if (entries.length > 0 && this.view.me.write) actions.remove(this.view, entries);
  }

  removeForGood() {
    const entries = this.view.selection.entries;
    if (entries.length > 0 && this.view.me.write) actions.removeForGood(this.view, entries);
  }

  /// Goes to the next entry that begins with what is typed.
  typeAhead(letter) {
    const now = performance.now();
    this.typed = (now - this.typedAt < TYPED_MS ? this.typed : "") + letter.toLocaleLowerCase();
    this.typedAt = now;
    const index = this.view.listing.shown.findIndex((entry) => entry.name.toLocaleLowerCase().startsWith(this.typed));
    if (index < 0) return;
    this.view.selection.choose(index);
    this.view.list.reveal(index);
    this.view.draw();
  }
}
