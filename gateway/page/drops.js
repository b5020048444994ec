// What people choose or drop, as files with the paths that they shall have: single files, and folders with all in them.

import { encode, join } from "./paths.js";

/// What was dropped, whole folders too. Must be called within the event: the browser takes it back afterwards.
export function dropped(transfer, folder) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const loose = entries.length === 0 ? [...transfer.files] : [];
  return gather(entries, folder, { files: loose.map((file) => at(file, folder, file.name)), folders: [] });
}

/// What was chosen in a box of the browser; of a folder every file says where in it it lay.
export function chosen(list, folder) {
  const files = [...list].map((file) => at(file, folder, file.webkitRelativePath || file.name));
  const folders = new Set();
  for (const { path } of files) {
    const names = path.slice(folder === "" ? 0 : folder.length + 1).split("/");
    for (const end of names.keys()) if (end > 0) folders.add(join(folder, names.slice(0, end).join("/")));
  }
  return { files, folders: [...folders] };
}

function at(file, folder, name) {
  return { file, path: join(folder, name.split("/").map(encode).join("/")) };
}

async function gather(entries, folder, into) {
  for (const entry of entries) {
    const path = join(folder, encode(entry.name));
    if (entry.isFile) {
      into.files.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path });
    } else {
      into.folders.push(path);
      await gather(await children(entry), path, into);
    }
  }
  return into;
}

/// A folder tells of what is in it by a hundred at a time.
async function children(directory) {
  const reader = directory.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return all;
    all.push(...some);
  }
}
