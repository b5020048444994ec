// Asks for a folder: a tree of all folders, read as it is opened.

import * as api from "./api.js";
import { dialog, askName, note } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { isFolder } from "./listing.js";
import { encode, isWithin, join, parent } from "./paths.js";

const NAMES = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/// Asks where to. `start` is opened; nothing of `except` (paths) can be chosen. Answers a path, or `null`.
export function chooseFolder({ title, action, top, start, except = [] }) {
  const tree = new Tree({ top, except });
  const asked = dialog({
    title,
    kind: "tall",
    body: h("div", { class: "chooser" }, tree.element, tree.wrong),
    buttons: [
      () => button("New folder", { picture: "new-folder", onclick: () => tree.make() }),
      (end) => button("Cancel", { onclick: () => end(null) }),
      (end) => {
        const take = button(action, { kind: "primary", onclick: () => end(tree.chosen) });
        tree.onchoice = () => (take.disabled = tree.chosen === null);
        tree.onenter = () => take.disabled || end(tree.chosen);
        tree.onchoice();
        return take;
      },
    ],
  });
  tree.openTo(start).catch((why) => fill(tree.wrong, why.message));
  return asked;
}

class Tree {
  constructor({ top, except }) {
    Object.assign(this, { except, chosen: null, onchoice: () => {}, onenter: () => {} });
    this.nodes = new Map();
    this.wrong = h("p", { class: "wrong", role: "alert" });
    this.element = h("ul", {
      role: "tree",
      class: "tree",
      "aria-label": "Folders",
      onkeydown: (event) => this.key(event),
    });
    this.root = this.node({ name: top, path: "" }, 1);
    this.element.append(this.root.line);
  }

  /// One folder, with a place for those in it.
  node({ name, path }, level) {
    const id = `folder-${this.nodes.size}`;
    const node = { path, level, read: false, inner: h("ul", { role: "group", hidden: true }) };
    node.element = h(
      "div",
      {
        role: "treeitem",
        class: "branch",
        "aria-expanded": "false",
        "aria-selected": "false",
        "aria-level": level,
        "aria-labelledby": id,
        "data-path": path,
        tabindex: path === "" ? "0" : "-1",
        onclick: () => this.choose(node),
      },
      h("span", { class: "twig", onclick: (event) => (event.stopPropagation(), this.toggle(node)) }, icon("right")),
      icon("folder"),
      h("span", { id }, name),
    );
    node.line = h("li", { role: "none" }, node.element, node.inner);
    node.element.addEventListener("focus", () => this.focused(node));
    node.element.style.paddingLeft = `${(level - 1) * 20}px`;
    node.forbidden = this.except.some((one) => isWithin(path, one) && one !== "");
    if (node.forbidden) node.element.setAttribute("aria-disabled", "true");
    this.nodes.set(path, node);
    return node;
  }

  focused(node) {
    for (const one of this.nodes.values()) one.element.tabIndex = one === node ? 0 : -1;
  }

  async read(node) {
    if (node.read) return;
    node.read = true;
    const folders = [];
    for await (const entries of api.list(node.path))
      folders.push(...entries.filter((entry) => isFolder(entry) && entry.kind === "folder"));
    folders.sort((a, b) => NAMES.compare(a.name, b.name));
    fill(
      node.inner,
      folders.map((folder) => this.node(folder, node.level + 1).line),
    );
    if (folders.length === 0) node.element.removeAttribute("aria-expanded");
  }

  async open(node) {
    await this.read(node);
    if (node.inner.children.length === 0) return;
    node.inner.hidden = false;
    node.element.setAttribute("aria-expanded", "true");
  }

  close(node) {
    node.inner.hidden = true;
    node.element.setAttribute("aria-expanded", "false");
  }

  toggle(node) {
    if (!node.inner.hidden) return this.close(node);
    return this.open(node).catch((why) => fill(this.wrong, why.message));
  }

  choose(node) {
    if (node.forbidden) return;
    for (const one of this.nodes.values()) one.element.setAttribute("aria-selected", one === node);
    this.chosen = node.path;
    node.element.focus();
    this.onchoice();
  }

  /// Opens everything on the way to this folder, and chooses it.
  async openTo(path) {
    await this.open(this.root);
    const names = path.split("/").filter(Boolean);
    let node = this.root;
    for (const at of names.keys()) {
      const next = this.nodes.get(names.slice(0, at + 1).join("/"));
      if (!next) break;
      node = next;
      await this.open(node);
    }
    this.choose(node);
    node.element.scrollIntoView({ block: "nearest" });
  }

  async make() {
    const within = this.nodes.get(this.chosen ?? "");
    const name = await askName({ title: "New folder", label: "Name", action: "Create", isFolder: true });
    if (name === null) return;
    try {
      const made = await api.makeFolder(join(within.path, encode(name)));
      within.read = false;
      within.element.setAttribute("aria-expanded", "true");
      await this.open(within);
      this.choose(this.nodes.get(made.path));
    } catch (why) {
      note(why.message, { wrong: true });
    }
  }

  /// Folders as they stand one below the other.
  get seen() {
    return [...this.element.querySelectorAll("[role=treeitem]")].filter(
      (item) => !item.parentElement.closest("[hidden]"),
    );
  }

  key(event) {
    const at = this.seen.indexOf(document.activeElement);
    const node = [...this.nodes.values()].find((one) => one.element === document.activeElement);
    if (!node) return;
    const keys = {
      ArrowDown: () => this.seen[at + 1]?.focus(),
      ArrowUp: () => this.seen[at - 1]?.focus(),
      ArrowRight: () => this.open(node).catch((why) => fill(this.wrong, why.message)),
      ArrowLeft: () => (node.inner.hidden ? this.nodes.get(parent(node.path))?.element.focus() : this.close(node)),
      " ": () => this.choose(node),
      Enter: () => (this.chosen === node.path ? this.onenter() : this.choose(node)),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }
}
