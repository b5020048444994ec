// What is done with entries: each asks what it has to, does it one entry after the other, and tells the view what has changed.
//
// A view (files.js) has: `path`, `place`, `listing`, `me`, `put(entries)`, `take(path)`, `reload()`, `busy(words)`, `uploads`.

import * as api from "./api.js";
import { askConflict, askName, confirm, note } from "./dialogs.js";
import { isFile, isFolder } from "./listing.js";
import { decode, encode, isWithin, join, last, numbered, parent } from "./paths.js";
import { putBack } from "./trash.js";
import { chooseFolder } from "./tree.js";
import { counted, what } from "./words.js";

/// The longest address that a server takes, with room for the rest of the request.
const LONGEST_ADDRESS = 30_000;
const MOST_NUMBERS = 100;

/// Does something, and says so if it cannot be done. What was done in part is seen when the list is read again.
async function attempt(does, view = null) {
  try {
    return await does();
  } catch (why) {
    if (why.name !== "AbortError") note(why.message, { wrong: true });
    if (why.word === "in_part") view?.reload();
    return undefined;
  }
}

/// The same with each entry. What goes wrong with one is told, and the others go on. Answers how many were done.
async function each(view, entries, doing, does) {
  let done = 0;
  for (const [at, entry] of entries.entries()) {
    view.busy(entries.length > 1 ? `${doing} ${at + 1} of ${entries.length}` : doing);
    const was = await attempt(async () => (await does(entry)) !== false, view);
    done += was ? 1 : 0;
  }
  view.busy(null);
  return done;
}

export async function newFolder(view) {
  const name = await askName({ title: "New folder", label: "Name", action: "Create", isFolder: true });
  if (name === null) return;
  const { place } = view;
  await attempt(async () => {
    const made = await api.makeFolder(join(view.path, encode(name)));
    if (view.place !== place) return;
    view.put([made]);
    view.choose(made.path);
  });
}

export async function rename(view, entry) {
  const name = await askName({
    title: "Rename",
    label: "New name",
    // Bytes that are no text cannot be shown so that they could be kept.
    value: encode(entry.name) === entry.address ? entry.name : "",
    action: "Rename",
    isFolder: isFolder(entry),
  });
  if (name === null || name === entry.name) return;
  const { place } = view;
  const to = join(entry.folder, encode(name));
  const moved = await attempt(() => moveTo(entry, to, { more: 0, all: null }, api.move), view);
  if (!moved) return;
  view.take(entry.path);
  await attempt(async () => {
    const there = await api.entry(moved);
    if (view.place !== place) return;
    view.put([there]);
    view.choose(moved);
  });
}

/// Asks where to, and moves or copies there.
export async function sendTo(view, entries, how) {
  const copies = how === "copy";
  const target = await chooseFolder({
    title: `${copies ? "Copy" : "Move"} ${what(entries)}`,
    action: copies ? "Copy here" : "Move here",
    top: view.me.volume,
    start: view.path,
    except: copies ? [] : entries.filter(isFolder).map((entry) => entry.path),
  });
  if (target !== null) await transfer(view, entries, target, how);
}

/// Moves or copies entries into a folder.
export async function transfer(view, entries, target, how) {
  const copies = how === "copy";
  const into = entries.filter((entry) => isFolder(entry) && isWithin(target, entry.path));
  if (into.length > 0) return note(`“${into[0].name}” cannot be put into itself.`, { wrong: true });
  const moving = copies ? entries : entries.filter((entry) => entry.folder !== target);
  if (moving.length === 0) return undefined;
  const asked = { more: moving.length - 1, all: null };
  const done = await each(view, moving, copies ? "Copying" : "Moving", async (entry) => {
    const to = join(target, entry.address);
    const does = copies ? api.copy : api.move;
    // A copy beside itself gets a number of its own.
    const moved = await (to === entry.path ? beside(entry, to, does) : moveTo(entry, to, asked, does));
    asked.more -= 1;
    if (!moved) return false;
    if (!copies) view.take(entry.path);
    if (target === view.path && !view.find) view.put([await api.entry(moved)]);
    return true;
  });
  if (done > 0)
    note(
      `${counted(done, "item")} ${copies ? "copied" : "moved"} to “${target === "" ? view.me.volume : decode(target.split("/").at(-1))}”.`,
    );
  return undefined;
}

/// Moves or copies one entry; asks if the name is taken, unless that was said for all. Answers where it is now, or `null`.
async function moveTo(entry, to, asked, does) {
  try {
    await does(entry.path, to);
    return to;
  } catch (why) {
    const there = await api.taken(why, to);
    if (!there) throw why;
    const said =
      saidFor(asked, entry, there) ??
      (await askConflict({
        name: decode(last(to)),
        there,
        isFolder: entry.kind === "folder",
        more: asked.more,
      }));
    if (said?.all) asked.all = { how: said.how, there };
    if (!said || said.how === "skip") return null;
    if (said.how === "replace") return does(entry.path, to, true).then(() => to);
    return beside(entry, to, does);
  }
}

/// What was said for all, if it holds for this one: files that may be replaced do not stand for folders.
function saidFor({ all }, entry, there) {
  if (!all || all.how !== "replace") return all;
  const isFolderThere = there === "folder";
  return isFolderThere === (entry.kind === "folder") && isFolderThere === (all.there === "folder")
    ? { how: all.how }
    : null;
}

/// The same under the first number that is free.
async function beside(entry, to, does) {
  const name = decode(to.split("/").at(-1));
  for (let number = 2; number <= MOST_NUMBERS; number += 1) {
    const other = join(parent(to), encode(numbered(name, number, isFolder(entry))));
    try {
      await does(entry.path, other);
      return other;
    } catch (why) {
      if (!(await api.taken(why, other))) throw why;
    }
  }
  throw new Error(`There are ${MOST_NUMBERS} of that name already.`);
}

/// Puts entries into the trash.
export async function remove(view, entries) {
  const kept = [];
  const done = await each(view, entries, "Deleting", async (entry) => {
    const id = await api.discard(entry.path);
    // What has other names is there by them.
    if (id !== null) kept.push({ ...entry, id });
    view.take(entry.path);
  });
  if (done === 0) return;
  const what = done === 1 && entries.length === 1 ? `“${entries[0].name}” is` : `${counted(done, "item")} are`;
  note(`${what} in the trash.`, kept.length > 0 ? { action: "Undo", onaction: () => undo(view, kept) } : {});
}

/// Puts back what was just deleted, what went last first.
async function undo(view, kept) {
  const top = view.me.volume;
  const done = await each(view, [...kept].reverse(), "Restoring", async (entry) => (await putBack(entry, top)) !== null);
  if (done > 0) note(`${counted(done, "item")} restored.`);
  view.reload();
}

export async function removeForGood(view, entries) {
  const folders = entries.filter((entry) => entry.kind === "folder").length;
  const one = entries.length === 1 ? `“${entries[0].name}”` : what(entries);
  const sure = await confirm({
    title: entries.length === 1 ? `Delete ${one} for good?` : `Delete ${counted(entries.length, "item")} for good?`,
    text: `${one}${folders ? ` with all in ${folders === 1 ? "it" : "them"}` : ""} will be deleted for good. There is no way back.`,
    action: "Delete for good",
    dangerous: true,
  });
  if (!sure) return;
  const done = await each(view, entries, "Deleting", async (entry) => {
    await api.remove(entry.path);
    view.take(entry.path);
  });
  if (done > 0) note(`${counted(done, "item")} deleted for good.`);
}

/// Downloads one file as it is, anything else as a zip.
export async function download(view, entries) {
  await attempt(async () => {
    if (entries.length === 0) return save(await api.archiveAddress(view.path));
    if (entries.length === 1) {
      const [entry] = entries;
      return save(
        isFile(entry) ? await api.contentAddress(entry.path, { download: true }) : await api.archiveAddress(entry.path),
      );
    }
    const folders = new Map();
    for (const entry of entries) folders.set(entry.folder, [...(folders.get(entry.folder) ?? []), entry.address]);
    for (const [folder, names] of folders) await saveSome(view, folder, names);
    return undefined;
  });
}

async function saveSome(view, folder, names) {
  const all = !view.find && names.length === view.listing.size;
  const address = await api.archiveAddress(folder, all ? [] : names);
  if (address.length > LONGEST_ADDRESS)
    throw new Error("So many names do not fit into one request. Download the whole folder, or fewer at a time.");
  save(address);
}

/// Has the browser fetch it, and keep it as a file.
function save(address) {
  const anchor = document.createElement("a");
  anchor.href = address;
  anchor.download = "";
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
}
