// Files that come into the list by the browser's box or by a drop, and entries that are dragged about in it.

import * as actions from "./actions.js";
import { note } from "./dialogs.js";
import { fill } from "./dom.js";
import { chosen, dropped } from "./drops.js";
import { isFolder } from "./listing.js";

/// What is dragged within the page; nothing else has this type.
const OWN = "application/x-ashlar";

/// What is dragged over a view (files.js).
export class Drags {
  constructor(view) {
    Object.assign(this, { view, dragged: [], drag: null });
  }

  /// Somebody has chosen files in a box of the browser.
  picked(event) {
    const { files, folders } = chosen(event.target.files, this.view.path);
    event.target.value = "";
    if (files.length > 0) this.view.uploads.add({ files, folders });
  }

  async upload(gathering) {
    try {
      this.view.uploads.add(await gathering);
    } catch (why) {
      note(`What was dropped cannot be read: ${why.message}`, { wrong: true });
    }
  }

  /// Somebody begins to drag a row, and all that is selected with it.
  begin(event, index) {
    const entry = this.view.listing.shown[index];
    if (!entry || !this.view.me.write) return event.preventDefault();
    if (!this.view.selection.has(entry.path)) this.view.selection.choose(index);
    this.dragged = this.view.selection.entries;
    // What is dragged in another tab, or comes from another server, has the same type: only this word tells whose it is.
    this.drag = `${Date.now()} ${Math.random()}`;
    event.dataTransfer.setData(OWN, this.drag);
    event.dataTransfer.effectAllowed = "copyMove";
    event.target.addEventListener("dragend", () => this.end(), { once: true });
    return this.view.draw();
  }

  /// Nothing is dragged any more.
  end() {
    Object.assign(this, { dragged: [], drag: null });
  }

  /// A place takes entries of this page that are dropped on it.
  takeOwn(element, pathOf) {
    const takes = (event) => this.drag && event.dataTransfer.types.includes(OWN) && pathOf(event) !== null;
    element.addEventListener("dragover", (event) => {
      if (!takes(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = event.ctrlKey ? "copy" : "move";
      element.classList.add("target");
    });
    element.addEventListener("dragleave", () => element.classList.remove("target"));
    element.addEventListener("drop", (event) => {
      element.classList.remove("target");
      if (!takes(event)) return;
      event.preventDefault();
      const { dragged, drag } = this;
      this.end();
      if (event.dataTransfer.getData(OWN) !== drag) return;
      actions.transfer(this.view, dragged, pathOf(event), event.ctrlKey ? "copy" : "move");
    });
  }

  /// The sheet with the list takes files from outside, and entries on its folders.
  take(sheet) {
    const { list, veil } = this.view;
    const over = (event) => {
      const entry = list.entryAt(event.target);
      return entry && isFolder(entry) ? entry : null;
    };
    const isFiles = (event) =>
      this.view.me.write && event.dataTransfer.types.includes("Files") && !event.dataTransfer.types.includes(OWN);
    const end = () => {
      veil.hidden = true;
      list.mark(null, false);
    };
    this.takeOwn(sheet, (event) => over(event)?.path ?? null);
    sheet.addEventListener("dragover", (event) => {
      const folder = over(event);
      list.mark(event.target.closest?.(".row"), folder !== null);
      if (!isFiles(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
      veil.hidden = false;
      fill(veil.lastChild, folder ? `Drop to upload into “${folder.name}”` : "Drop to upload");
    });
    sheet.addEventListener("dragleave", (event) => sheet.contains(event.relatedTarget) || end());
    sheet.addEventListener("dragend", end);
    sheet.addEventListener("drop", (event) => {
      const folder = over(event);
      end();
      if (!isFiles(event)) return;
      event.preventDefault();
      this.upload(dropped(event.dataTransfer, folder ? folder.path : this.view.path));
    });
  }
}
