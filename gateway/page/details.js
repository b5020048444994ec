// The panel beside the list: what an entry is, who may do what with it, how many losses it survives, and where it lies.

import * as api from "./api.js";
import { button, fill, h, icon } from "./dom.js";
import { isFile, isFolder } from "./listing.js";
import { pictureOf } from "./list.js";
import { decode } from "./paths.js";
import { bytes, counted, moment, number, what } from "./words.js";

export class Details {
  constructor({ onclose }) {
    this.body = h("div", { class: "body", tabindex: "0", role: "region", "aria-label": "What is known" });
    this.element = h(
      "aside",
      {
        class: "details",
        "aria-label": "Details",
        hidden: true,
        onkeydown: (event) => event.key === "Escape" && onclose(),
      },
      h(
        "header",
        {},
        h("h2", {}, "Details"),
        button("Close details", { picture: "close", textless: true, onclick: onclose }),
      ),
      this.body,
    );
  }

  /// Shows what these are: one entry, several, or none.
  show(entries) {
    this.abort?.abort();
    if (entries.length === 0)
      return fill(this.body, h("p", { class: "quiet" }, "Select something to see what it is and where it lies."));
    if (entries.length > 1) return fill(this.body, ...this.several(entries));
    const [entry] = entries;
    const may = h("div", {}, h("p", { class: "quiet" }, "Looking who may"));
    const places = h("div", {}, h("p", { class: "quiet" }, "Looking where it lies"));
    fill(
      this.body,
      this.head(entry),
      this.facts(entry),
      h("h3", {}, "Who may"),
      may,
      h("h3", {}, "How safe"),
      places,
    );
    this.abort = new AbortController();
    this.may(entry, may, this.abort.signal);
    this.places(entry, places, this.abort.signal);
    return undefined;
  }

  several(entries) {
    const size = entries.reduce((sum, entry) => sum + (isFile(entry) ? entry.size : 0), 0);
    return [h("p", { class: "about" }, what(entries)), list([["Size of the files", bytes(size)]])];
  }

  head(entry) {
    return h("div", { class: "about" }, icon(pictureOf(entry)), h("p", {}, entry.name || "The top folder"));
  }

  facts(entry) {
    const kinds = { folder: "Folder", file: "File", link: "Symbolic link", other: "Pipe, socket or device" };
    return list([
      ["Kind", kinds[entry.kind]],
      isFolder(entry) ? null : ["Size", `${bytes(entry.size)} (${number(entry.size)} bytes)`],
      ["Changed", moment(entry.modified)],
      entry.target === undefined ? null : ["Leads to", entry.target],
      ["Where", `/${decode(entry.folder ?? "")}`],
    ]);
  }

  /// A list of a folder does not tell the access lists of what is in it: this one is asked for.
  async may(entry, into, signal) {
    try {
      fill(into, permissions(await api.entry(entry.path, signal)));
    } catch (why) {
      if (why.name !== "AbortError") fill(into, h("p", { class: "wrong" }, why.message));
    }
  }

  async places(entry, into, signal) {
    try {
      const found = await api.places(entry.path, signal);
      fill(into, safety(found), found.disks?.length ? disks(found.disks) : null);
    } catch (why) {
      if (why.name !== "AbortError") fill(into, h("p", { class: "wrong" }, why.message));
    }
  }
}

function list(pairs) {
  return h(
    "dl",
    {},
    pairs.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/// `rwxr-x---`, in words.
function words(bits) {
  return [bits & 4 && "read", bits & 2 && "write", bits & 1 && "enter or run"].filter(Boolean).join(", ") || "nothing";
}

/// Who may what: as the access list says, or else the mode.
function permissions({ mode, owner, group, access_list: list_of, default_list: begin }) {
  const classes = [
    { who: "owner", may: (mode >> 6) & 7 },
    { who: "group", may: (mode >> 3) & 7 },
    { who: "others", may: mode & 7 },
  ];
  const octal = ["Mode", (mode & 0o7777).toString(8).padStart(4, "0")];
  return [
    list([...granted(list_of ?? classes, { owner, group }), octal]),
    begin ? h("h3", {}, "What is new in it begins with") : null,
    begin ? list(granted(begin, {})) : null,
  ];
}

/// The lines of an access list. Its mask takes from all but the owner and everybody else what it has not; where it has nothing, those
/// whom the list names are as everybody else, as the kernel has it.
function granted(all, { owner, group }) {
  const mask = all.find(({ who }) => who === "mask")?.may ?? 7;
  const numbered = (word, id) => (id === undefined ? word : `${word} ${id}`);
  return all.map(({ who, id, may }) => {
    if (who === "owner") return [owner === undefined ? "Owner" : `Owner (user ${owner})`, words(may)];
    if (who === "others") return ["Everybody else", words(may)];
    if (who === "mask") return ["Users and groups at most", words(may)];
    const name = who === "user" ? numbered("User", id) : numbered("Group", id ?? group);
    if (mask === 0 && id !== undefined) return [name, "as everybody else, or as the group"];
    const taken = may & ~mask;
    return [name, taken ? `${words(may & mask)} (and not ${words(taken)}, which the list takes from all)` : words(may)];
  });
}

/// How many disks may be lost: now, and when all are there.
function safety({ scheme, spare, losses_reads: reads, losses_writes: writes, inline, complete }) {
  const can = (disks) => `${counted(disks, "lost disk")}`;
  const now =
    spare === null || spare === undefined
      ? h("span", { class: "wrong" }, "cannot be read now")
      : counted(spare, "more disk");
  return [
    list([
      ["Protected by", scheme],
      ["May lose now", now],
      reads === undefined ? null : ["Reading survives", can(reads)],
      writes === undefined ? null : ["Writing survives", can(writes)],
    ]),
    inline ? h("p", { class: "quiet" }, "So small that it lies with the names of files, in copies.") : null,
    complete === false ? h("p", { class: "quiet" }, "It is too large for all of it to be looked at.") : null,
  ];
}

function disks(all) {
  const hosts = Map.groupBy ? Map.groupBy(all, (disk) => disk.host) : groups(all);
  return h(
    "div",
    {},
    h("h3", {}, `On ${counted(all.length, "disk")}${hosts.size > 1 ? ` of ${counted(hosts.size, "machine")}` : ""}`),
    [...hosts].map(([host, some]) =>
      h(
        "div",
        { class: "host" },
        host ? h("p", { class: "small" }, host) : null,
        h(
          "ul",
          { class: "disks" },
          some.map((disk) =>
            h(
              "li",
              { "data-state": disk.state === "up" ? "up" : "down", title: disk.id },
              icon("disk"),
              h("span", { class: "title" }, disk.place),
              h("span", { class: "small" }, disk.state === "up" ? bytes(disk.bytes) : disk.state),
            ),
          ),
        ),
      ),
    ),
  );
}

function groups(all) {
  const found = new Map();
  for (const disk of all) found.set(disk.host, [...(found.get(disk.host) ?? []), disk]);
  return found;
}
